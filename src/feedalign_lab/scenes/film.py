"""Pictures and films as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from feedalign_lab.scenes.poses import turn_around
from feedalign_lab.scenes.renderer import Renderer
from feedalign_lab.scenes.scene import Scene
from feedalign_lab.task import Tell

NUM_FRAMES = 40
_WIDEST_FRAME = 100
_MILLISECONDS = 80
_GAP = 4


def as_pixels(colours: Tensor) -> NDArray[np.uint8]:
    """Colours as a file has them.

    Args:
        colours: From 0 to 1, of any shape.

    Returns:
        From 0 to 255, of the same shape.
    """
    pixels: NDArray[np.uint8] = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def write_side_by_side(path: Path, pictures: Sequence[Tensor]) -> None:
    """Write pictures of one size beside each other, with a white gap between.

    Args:
        path: A PNG file to write.
        pictures: Colours from 0 to 1, `[H, W, 3]` each.
    """
    gap = torch.ones(pictures[0].shape[0], _GAP, 3)
    parts = [part for picture in pictures for part in (gap, picture.cpu())][1:]
    Image.fromarray(as_pixels(torch.cat(parts, 1))).save(path)


def write_film(path: Path, renderer: Renderer, scene: Scene, tell: Tell) -> None:
    """Write a film of a camera that goes around the scene or sways in front of it, over and over.

    Its frames are at most 100 pixels wide.

    Args:
        path: A GIF file to write.
        renderer: Renders the frames.
        scene: The scene.
        tell: Told how far it is.
    """
    camera = scene.camera
    if camera.width > _WIDEST_FRAME:
        camera = camera.scaled(_WIDEST_FRAME, max(1, round(camera.height * _WIDEST_FRAME / camera.width)))
    frames = []
    poses = turn_around(scene, NUM_FRAMES).to(scene.train.poses.device)
    for number, pose in enumerate(poses):
        colours = renderer.picture(camera, pose, is_forward=scene.is_forward)
        frames.append(Image.fromarray(as_pixels(colours)))
        tell("rendering a film", (number + 1) / len(poses))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)
