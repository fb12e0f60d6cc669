"""Pictures and films as files."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from feedalign_lab.scenes.poses import turn_around
from feedalign_lab.scenes.quality import as_colours, psnr
from feedalign_lab.scenes.renderer import Renderer
from feedalign_lab.scenes.scene import Scene, Views
from feedalign_lab.task import Tell

NUM_FRAMES = 40
_WIDEST_FRAME = 100
_MILLISECONDS = 80
_GAP = 4
# Smaller pictures are hard to see, and leave no room for a caption.
_NARROWEST = 240
CAPTION_HEIGHT = 20
"""Pixels above pictures, for what they show."""


def as_pixels(colours: Tensor) -> NDArray[np.uint8]:
    """Colours as a file has them.

    Args:
        colours: From 0 to 1, of any shape.

    Returns:
        From 0 to 255, of the same shape.
    """
    pixels: NDArray[np.uint8] = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def captioned(test: Views, pictures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the first test view before what rules made of it.

    Args:
        test: The test views.
        pictures: Of the first, by rule: colours from 0 to 1, `[H, W, 3]` each.

    Returns:
        Pictures by caption: the name of the view's file; the rule and its PSNR.
    """
    truth = as_colours(test.pixels[0]).cpu()
    made = {rule: picture.cpu() for rule, picture in pictures.items()}
    shown = {f"{rule}: {float(psnr(one[None], truth[None])):.2f} dB": one for rule, one in made.items()}
    return {f"truth: {test.names[0]}": truth, **shown}


def write_side_by_side(path: Path, pictures: Mapping[str, Tensor]) -> None:
    """Write pictures of one size beside each other, with a caption above each and a white gap between.

    Small ones are enlarged: a pixel becomes a square.

    Args:
        path: A PNG file to write.
        pictures: Colours from 0 to 1, `[H, W, 3]` each, by caption.
    """
    height, width, _ = next(iter(pictures.values())).shape
    factor = max(1, math.ceil(_NARROWEST / width))
    height, width = height * factor, width * factor
    whole = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, CAPTION_HEIGHT + height), "white")
    draw = ImageDraw.Draw(whole)
    for number, (caption, picture) in enumerate(pictures.items()):
        left = number * (width + _GAP)
        draw.text((left + _GAP, _GAP), _cut(draw, caption, width - 2 * _GAP), fill="black")
        pixels = as_pixels(picture).repeat(factor, 0).repeat(factor, 1)
        whole.paste(Image.fromarray(pixels), (left, CAPTION_HEIGHT))
    whole.save(path)


def _cut(draw: ImageDraw.ImageDraw, caption: str, width: int) -> str:
    """As much of a caption as fits; Pillow's own letters are those of ASCII for sure."""
    text = caption.encode("ascii", "replace").decode("ascii")
    length = len(text)
    while length > 0 and draw.textlength(text[:length]) > width:
        length -= 1
    return text[:length]


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
