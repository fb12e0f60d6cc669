"""Rays through the pixels of a camera."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign_lab.scenes.scene import Camera


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays; a point on one is `origins + depth * directions`.

    Attributes:
        origins: `[R, 3]`.
        directions: `[R, 3]`, of any length.
        looks: Where the camera looked along each ray, of length 1, `[R, 3]`.
    """

    origins: Tensor
    directions: Tensor
    looks: Tensor

    def __len__(self) -> int:
        return len(self.origins)

    def split(self, size: int) -> "list[Rays]":
        """The same rays in pieces.

        Args:
            size: Rays in a piece; the last may have fewer.
        """
        parts = (self.origins.split(size), self.directions.split(size), self.looks.split(size))
        return [Rays(*part) for part in zip(*parts, strict=True)]


def rays_through(camera: Camera, poses: Tensor, columns: Tensor, rows: Tensor, *, is_forward: bool) -> Rays:
    """Rays from a camera through the middles of pixels.

    Args:
        camera: The camera.
        poses: Where it is for each ray, `[R, 3, 4]`, or for all of them, `[3, 4]`.
        columns: Pixels from the left, int64 `[R]`.
        rows: Pixels from above, int64 `[R]`.
        is_forward: Whether to bend the rays as `bent` does.

    Returns:
        R rays whose directions go one unit along the optical axis.

    Differs from the code of Mildenhall et al. (2020): that sends rays through the upper left corners of pixels.
    """
    right = (columns.to(poses.dtype) + 0.5 - camera.centre_x) / camera.focal_x
    up = -(rows.to(poses.dtype) + 0.5 - camera.centre_y) / camera.focal_y
    in_camera = torch.stack([right, up, -torch.ones_like(right)], -1)
    directions = (poses[..., :3] @ in_camera[..., None])[..., 0]
    origins = poses[..., 3].expand_as(directions)
    looks = F.normalize(directions, dim=-1)
    if is_forward:
        origins, directions = bent(camera, origins, directions)
    return Rays(origins, directions, looks)


def rays_of_view(camera: Camera, pose: Tensor, *, is_forward: bool) -> Rays:
    """Rays through all pixels of a view, row by row.

    Args:
        camera: The camera.
        pose: Where it is, `[3, 4]`.
        is_forward: Whether to bend the rays as `bent` does.

    Returns:
        `height * width` rays.
    """
    pixels = torch.arange(camera.height * camera.width, device=pose.device)
    return rays_through(camera, pose, pixels % camera.width, pixels // camera.width, is_forward=is_forward)


def bent(camera: Camera, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Rays in normalized device coordinates, in which infinity is at depth 1.

    They begin at the plane one unit in front of the origin, so that depth 0 is there.

    Args:
        camera: The camera; only rays that go forward, along its negative z, can be bent.
        origins: `[R, 3]`.
        directions: `[R, 3]`.

    Returns:
        Origins and directions, `[R, 3]` each.

    Source: Mildenhall et al. (2020), appendix C, equations 25 and 26, for a near plane at 1.
    """
    to_plane = -(1 + origins[..., 2:]) / directions[..., 2:]
    start = origins + to_plane * directions
    scale = start.new_tensor([2 * camera.focal_x / camera.width, 2 * camera.focal_y / camera.height])
    over_depth = start[..., :2] / start[..., 2:]
    slope = directions[..., :2] / directions[..., 2:]
    new_origins = torch.cat([-scale * over_depth, 1 + 2 / start[..., 2:]], -1)
    new_directions = torch.cat([-scale * (slope - over_depth), -2 / start[..., 2:]], -1)
    return new_origins, new_directions
