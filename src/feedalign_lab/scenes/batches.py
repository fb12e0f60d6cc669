"""Pixels drawn from the views of a scene, and the rays through them."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from feedalign_lab.scenes.quality import as_colours
from feedalign_lab.scenes.rays import Rays, rays_through
from feedalign_lab.scenes.scene import Scene, Views


@dataclass(frozen=True, eq=False)
class Batch:
    """Rays, and what is to be seen along them.

    Attributes:
        rays: R rays.
        colours: From 0 to 1, `[R, 3]`.
    """

    rays: Rays
    colours: Tensor


def draw_batch(scene: Scene, size: int, draws: Generator) -> Batch:
    """Pixels drawn from all training views alike.

    Args:
        scene: The scene.
        size: How many.
        draws: A CPU generator, which is advanced.

    Returns:
        The batch, on the scene's device.
    """
    device = scene.train.pixels.device
    views = torch.randint(len(scene.train), (size,), generator=draws).to(device)
    pixels = torch.randint(scene.camera.width * scene.camera.height, (size,), generator=draws).to(device)
    return pixels_of(scene, scene.train, views, pixels)


def pixels_of(scene: Scene, views: Views, numbers: Tensor, pixels: Tensor) -> Batch:
    """Given pixels.

    Args:
        scene: Has the camera.
        views: The views they are of.
        numbers: The view of each, int64 `[R]`.
        pixels: Numbers of pixels, counted row by row, int64 `[R]`.

    Returns:
        The batch.
    """
    columns, rows = pixels % scene.camera.width, pixels // scene.camera.width
    rays = rays_through(scene.camera, views.poses[numbers], columns, rows, is_forward=scene.is_forward)
    return Batch(rays, as_colours(views.pixels[numbers, rows, columns]))


def pixels_to_score(scene: Scene, most: int, draws: Generator) -> Tensor:
    """Which pixels of a view are measured on: the same of all views.

    Args:
        scene: Has the camera.
        most: How many at most.
        draws: A CPU generator, which is advanced where a view has more.

    Returns:
        Their numbers, counted row by row: all of them, in order, where a view has no more.
    """
    count = scene.camera.width * scene.camera.height
    chosen = torch.arange(count) if count <= most else torch.randperm(count, generator=draws)[:most]
    return chosen.to(scene.train.pixels.device)
