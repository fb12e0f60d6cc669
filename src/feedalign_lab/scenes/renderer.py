"""From rays to colours: where the networks are asked, and what their answers add up to."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from feedalign_lab.running import evaluating
from feedalign_lab.scenes.fields import Field, Radiance
from feedalign_lab.scenes.marching import Marched, march
from feedalign_lab.scenes.networks import Network
from feedalign_lab.scenes.rays import Rays, rays_of_view
from feedalign_lab.scenes.sampling import hierarchical, stratified
from feedalign_lab.scenes.scene import Camera, Scene

# On a CPU few enough for what a network makes of them to stay in a cache, and in memory that is not given back to the
# system after each use: four times as many took six times as long.
_POINTS_AT_ONCE = 8_192
_POINTS_AT_ONCE_ON_DEVICES = 262_144


@dataclass(frozen=True, eq=False)
class Renderer:
    """What stands between a model and a picture.

    Attributes:
        model: The networks.
        network: How they are sampled.
        near: Where rays begin.
        far: Where rays end.
        background: Brightness behind everything; None for black.
        noise: Standard deviation of what is added to densities while training.
    """

    model: Radiance
    network: Network
    near: float
    far: float
    background: float | None
    noise: float = 0.0

    @classmethod
    def of_scene(cls, model: Radiance, network: Network, scene: Scene, noise: float = 0.0) -> "Renderer":
        """The renderer of a scene.

        Args:
            model: The networks.
            network: How they are sampled.
            scene: Gives the ends of rays and the background.
            noise: As above.
        """
        return cls(model, network, scene.near, scene.far, scene.background, noise)

    def even_depths(self, rays: Rays, draws: Generator | None) -> Tensor:
        """Depths of the first look, `[R, S]`.

        Args:
            rays: The rays.
            draws: A CPU generator, which is advanced; None leaves them evenly spread.
        """
        return stratified(len(rays), self.network.num_even, self.near, self.far, rays.origins, draws)

    def shade(self, field: Field, rays: Rays, depths: Tensor, draws: Generator | None = None) -> Marched:
        """What rays see when a network is asked at given depths.

        Args:
            field: The network.
            rays: The rays.
            depths: Rising, `[R, S]`.
            draws: A CPU generator for the noise on densities; None for no noise.
        """
        return self.add_up(field(*self.inputs(field, rays, depths)), rays, depths, draws)

    def inputs(self, field: Field, rays: Rays, depths: Tensor) -> tuple[Tensor, ...]:
        """What the network is asked at given depths: rows of encoded points, and directions where it sees them.

        Args:
            field: The network.
            rays: The rays.
            depths: `[R, S]`.
        """
        points = rays.origins[:, None] + depths[..., None] * rays.directions[:, None]
        return field.inputs(points, rays.looks)

    def add_up(self, raw: Tensor, rays: Rays, depths: Tensor, draws: Generator | None = None) -> Marched:
        """What a network's answers add up to.

        Args:
            raw: The answers, `[R * S, 4]`.
            rays: The rays.
            depths: `[R, S]`.
            draws: A CPU generator for the noise on densities; None for no noise.
        """
        noise = None
        if draws is not None and self.noise:
            noise = self.noise * torch.randn(depths.shape, dtype=depths.dtype, generator=draws).to(depths.device)
        raw = raw.unflatten(0, depths.shape)
        return march(raw, depths, rays.directions.norm(dim=-1), self.background, noise)

    def looks(self, rays: Rays, draws: Generator) -> dict[str, Marched]:
        """What each network sees of rays, at depths moved at random: for training.

        No gradient goes from the fine network's samples to the coarse one, which has a loss of its own.

        Args:
            rays: The rays.
            draws: A CPU generator, which is advanced.

        Returns:
            By the network's name, in the order in which they run.
        """
        depths = self.even_depths(rays, draws)
        if self.model.coarse is None:
            return {"fine": self.shade(self.model.fine, rays, depths, draws)}
        coarse = self.shade(self.model.coarse, rays, depths, draws)
        depths = hierarchical(depths, coarse.weights, self.network.num_drawn, draws)
        return {"coarse": coarse, "fine": self.shade(self.model.fine, rays, depths, draws)}

    def fine_depths(self, rays: Rays, draws: Generator | None) -> Tensor:
        """Depths at which the fine network is asked, `[R, S]`.

        Args:
            rays: The rays.
            draws: A CPU generator, which is advanced; None leaves nothing to chance.
        """
        depths = self.even_depths(rays, draws)
        if self.model.coarse is None:
            return depths
        with torch.no_grad():
            coarse = self.shade(self.model.coarse, rays, depths, draws)
        return hierarchical(depths, coarse.weights, self.network.num_drawn, draws)

    @torch.no_grad()
    def colours(self, rays: Rays) -> Tensor:
        """What is shown of rays: `[R, 3]`, from 0 to 1; nothing is left to chance.

        Args:
            rays: The rays, any number of them.
        """
        num_points = _POINTS_AT_ONCE if rays.origins.device.type == "cpu" else _POINTS_AT_ONCE_ON_DEVICES
        at_once = max(1, num_points // (self.network.num_even + self.network.num_drawn))
        with evaluating(self.model):
            return torch.cat([self._shown(part) for part in rays.split(at_once)])

    def _shown(self, rays: Rays) -> Tensor:
        depths = self.fine_depths(rays, None)
        fine = self.shade(self.model.fine, rays, depths).colours
        if not self.network.is_dual or self.model.coarse is None:
            return fine
        return (fine + self.shade(self.model.coarse, rays, depths).colours) / 2

    def picture(self, camera: Camera, pose: Tensor, *, is_forward: bool) -> Tensor:
        """A whole picture, `[H, W, 3]`, from 0 to 1.

        Args:
            camera: The camera.
            pose: Where it is, `[3, 4]`.
            is_forward: Whether rays are bent to reach infinity.
        """
        rays = rays_of_view(camera, pose, is_forward=is_forward)
        picture: Tensor = self.colours(rays).unflatten(0, (camera.height, camera.width))
        return picture
