"""A radiance field under a rule, ready to train."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import feedalign as fa
from feedalign.rules import Rule
from feedalign_lab.divergence import advice, diverged, first_non_finite, has_stopped
from feedalign_lab.errors import DivergedError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.optimizer import adam, clip_gradients, decay_rate, parameter_groups
from feedalign_lab.scenes.batches import Batch, draw_batch, pixels_of, pixels_to_score
from feedalign_lab.scenes.fields import Field, Radiance
from feedalign_lab.scenes.film import captioned, write_film, write_side_by_side
from feedalign_lab.scenes.networks import Network
from feedalign_lab.scenes.quality import SSIM_WINDOW, psnr, ssim
from feedalign_lab.scenes.renderer import Renderer
from feedalign_lab.scenes.scene import Scene, Views
from feedalign_lab.seeding import Stream, generator, stream_seed
from feedalign_lab.task import ResultFile, Scores, Trial

# That of the paper: one matrix for all layers, each takes its first columns.
_FEEDBACK = "launay2020"
_ALIGNMENT_RAYS = 256


@dataclass(frozen=True)
class Pace:
    """How steps are taken.

    Attributes:
        batch_size: Rays per step.
        num_iterations: Steps of an epoch.
        lr_decay: What the learning rate is multiplied with after each epoch.
        noise: Standard deviation of what is added to densities while training.
    """

    batch_size: int
    num_iterations: int
    lr_decay: float = 1.0
    noise: float = 0.0


class SceneTrial(Trial):
    """One rule on a scene from one seed.

    The rule is attached to each network by itself: from encoded points, in rows, to colours and density before their
    non-linearities, where the error is taken. Ray marching and the loss are ordinary autograd behind it, and the
    samples that the coarse network proposes to the fine one carry no gradient.

    Args:
        spec: Rule, rate and seed.
        rule: The rule.
        scene: The scene, on the device to train on.
        network: The networks and how they are sampled.
        pace: How steps are taken.
        on_picture: Given the rule's name and its picture of the first test view, at the end.
    """

    model: Radiance

    def __init__(
        self,
        spec: LearnerSpec,
        rule: Rule,
        scene: Scene,
        network: Network,
        pace: Pace,
        on_picture: Callable[[str, Tensor], object] | None = None,
    ) -> None:
        self.spec, self.scene, self.network, self.pace = spec, scene, network, pace
        self._on_picture = on_picture
        device = scene.train.poses.device
        self.model = build_model(network, stream_seed(spec.seed, spec.trial, "weights")).to(device)
        draws = generator(spec.seed, spec.trial, "feedback")
        self._handles = {name: attach_rule(field, rule, draws) for name, field in self.model.fields().items()}
        self.handle = self._handles["fine"]
        self.optimizer = adam(
            spec, [group for handle in self._handles.values() for group in parameter_groups(spec, handle)]
        )
        self.renderer = Renderer.of_scene(self.model, network, scene, pace.noise)
        self._order = generator(spec.seed, spec.trial, "order")
        self._samples = generator(spec.seed, spec.trial, "samples")
        self._fixed = draw_batch(scene, _ALIGNMENT_RAYS, generator(spec.seed, 0, "alignment"))
        self._scored = pixels_to_score(scene, network.scored_pixels, generator(spec.seed, 0, "split"))
        self._timed: tuple[Batch, Generator] | None = None

    def handles(self) -> tuple[fa.Handle, ...]:
        """Return the rule's handle on each network, in the order in which they run."""
        return tuple(self._handles.values())

    def generators(self) -> Mapping[str, Generator]:
        """See `Trial`: pixels, and depths along their rays."""
        return {"order": self._order, "samples": self._samples}

    def train_epoch(self, number: int) -> float:
        """Take as many steps as an epoch has, each on pixels drawn from all training views.

        Args:
            number: Of the epoch, from 1.

        Returns:
            The mean loss.

        Raises:
            DivergedError: A loss, a parameter or a gradient is not finite.
        """
        total = 0.0
        for step in range(1, self.pace.num_iterations + 1):
            loss = self.loss(draw_batch(self.scene, self.pace.batch_size, self._order), self._samples)
            value = float(loss.detach())
            if not math.isfinite(value):
                when = f"step {(number - 1) * self.pace.num_iterations + step} (epoch {number})"
                raise diverged(self, self.spec.rule, f"the loss ({value})", when)
            self._update(loss)
            total += value
            self.tell("training", step / self.pace.num_iterations)
        if first_non_finite(self.model) is not None:
            raise diverged(self, self.spec.rule, "a parameter or gradient", f"the end of epoch {number}")
        self._refuse_emptiness(number)
        decay_rate(self.optimizer, self.pace.lr_decay)
        return total / self.pace.num_iterations

    def _refuse_emptiness(self, number: int) -> None:
        """Without any density above zero the rectifier lets no gradient through, and nothing will ever be learned."""
        for name, field in self.model.fields().items():
            if has_stopped(field):
                raise DivergedError(
                    f"{self.spec.rule}: every gradient of the {name} network is zero at the end of epoch {number}: it "
                    f"sees no density anywhere; {advice(self)}, or a larger batch."
                )

    def loss(self, batch: Batch, draws: Generator) -> Tensor:
        """Return the mean squared error of colours, summed over the networks.

        Args:
            batch: Rays and their colours.
            draws: A CPU generator for depths, which is advanced.
        """
        looks = self.renderer.looks(batch.rays, draws)
        return torch.stack([F.mse_loss(seen.colours, batch.colours) for seen in looks.values()]).sum()

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        if self.spec.clip is not None:
            clip_gradients(self.optimizer, self.spec.clip)
        self.optimizer.step()

    def scores(self) -> Scores:
        """Measure PSNR on the validation and test views and, where whole views are rendered, SSIM on the latter."""
        shown, truth = self._shown(self.scene.test)
        validation = psnr(*self._shown(self.scene.validation)).mean()
        others = {}
        height, width = self.scene.camera.height, self.scene.camera.width
        if has_ssim(self.scene, self.network):
            others["SSIM"] = ssim(shown.unflatten(1, (height, width)), truth.unflatten(1, (height, width)))
        return Scores(float(psnr(shown, truth).mean()), float(validation), others)

    def _shown(self, views: Views) -> tuple[Tensor, Tensor]:
        """What is shown and what is there at the pixels that are measured on, `[V, R, 3]` each."""
        shown, truth = [], []
        for number in range(len(views)):
            batch = pixels_of(self.scene, views, torch.full_like(self._scored, number), self._scored)
            shown.append(self.renderer.colours(batch.rays))
            truth.append(batch.colours)
            self.tell("measuring", (number + 1) / len(views))
        return torch.stack(shown), torch.stack(truth)

    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        """Angles to backprop in each network, on fixed rays at depths that are not left to chance."""
        rays, colours = self._fixed.rays, self._fixed.colours
        depths = {"coarse": self.renderer.even_depths(rays, None), "fine": self.renderer.fine_depths(rays, None)}
        found: list[fa.measure.LayerAlignment] = []
        for name, field in self.model.fields().items():
            at = depths[name]

            def loss_of(raw: Tensor, truth: Tensor, at: Tensor = at) -> Tensor:
                return F.mse_loss(self.renderer.add_up(raw, rays, at).colours, truth)

            batch = (self.renderer.inputs(field, rays, at), colours)
            layers = fa.measure.alignment(field, loss_of, batch).layers
            found += [replace(row, layer=f"{name}.{row.layer}", point=_prefixed(name, row.point)) for row in layers]
        return tuple(found)

    @torch.no_grad()
    def untrained_loss(self) -> float:
        """Return the loss on fixed rays at depths that are not left to chance."""
        rays, colours = self._fixed.rays, self._fixed.colours
        depths = {"coarse": self.renderer.even_depths(rays, None), "fine": self.renderer.fine_depths(rays, None)}
        seen = [self.renderer.shade(field, rays, depths[name]) for name, field in self.model.fields().items()]
        return sum(float(F.mse_loss(one.colours, colours)) for one in seen)

    def step(self) -> None:
        """Take a whole training step on fixed rays; the depths are drawn anew, as in training."""
        if self._timed is None:
            draws = generator(self.spec.seed, 0, "alignment")
            self._timed = draw_batch(self.scene, self.pace.batch_size, draws), draws
        self._update(self.loss(*self._timed))
        self.optimizer.zero_grad()

    def results(self) -> Sequence[ResultFile]:
        """Return the first test view, truth and picture side by side, and a film."""
        camera, test = self.scene.camera, self.scene.test
        picture = self.renderer.picture(camera, test.poses[0], is_forward=self.scene.is_forward)
        if self._on_picture is not None:
            self._on_picture(self.spec.rule, picture)
        return (
            ("view.png", lambda path: write_side_by_side(path, captioned(test, {self.spec.rule: picture}))),
            ("turn.gif", lambda path: write_film(path, self.renderer, self.scene, self.tell)),
        )


def build_model(network: Network, seed: int) -> Radiance:
    """Networks with new weights; the global random state is left as it was.

    Args:
        network: What to build.
        seed: Of the weights.

    Returns:
        The networks, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Radiance(network.coarse, network.fine)


def attach_rule(field: Field, rule: Rule, draws: Generator) -> fa.Handle:
    """Attach a rule to a network; nothing may go around it.

    Args:
        field: The network.
        rule: The rule.
        draws: For feedback; advanced.

    Returns:
        The handle.
    """
    like = next(field.parameters())
    places = torch.linspace(-1, 1, 6, dtype=like.dtype, device=like.device).view(2, 1, 3)
    inputs = field.inputs(places, F.normalize(places[:, 0], dim=-1))
    feedback = _FEEDBACK if isinstance(rule, fa.DFA) else None
    is_strict = isinstance(rule, fa.DFA | fa.Shallow)
    return fa.attach(field, rule, example_inputs=inputs, feedback=feedback, generator=draws, strict=is_strict)


def has_ssim(scene: Scene, network: Network) -> bool:
    """Whether structure is measured too: where all pixels of the views are measured on, and its window fits in.

    Args:
        scene: Has the size of views.
        network: Has the number of pixels.
    """
    width, height = scene.camera.width, scene.camera.height
    return width * height <= network.scored_pixels and min(width, height) >= SSIM_WINDOW


def streams() -> tuple[Stream, ...]:
    """Names of the streams of random numbers that a trial draws from."""
    return ("weights", "feedback", "order", "samples")


def _prefixed(name: str, point: str | None) -> str | None:
    return None if point is None else f"{name}.{point}"
