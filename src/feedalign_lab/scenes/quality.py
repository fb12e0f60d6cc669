"""How close rendered pictures come to the true ones."""

import warnings

import torch
from torch import Tensor

from feedalign_lab.errors import MissingPackageError

_BRIGHTEST = 255
SSIM_WINDOW = 11
"""Pixels along the side of the window in which structure is compared."""


def as_colours(pixels: Tensor) -> Tensor:
    """Pixels of a file as colours.

    Args:
        pixels: uint8, of any shape.

    Returns:
        float32 from 0 to 1, of the same shape.
    """
    return pixels.float() / _BRIGHTEST


def psnr(shown: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of views, in dB: `-10 log10` of the mean squared error over a view.

    Args:
        shown: Colours from 0 to 1, `[V, ..., 3]`.
        truth: The same.

    Returns:
        `[V]`; infinite where a view is exact.
    """
    return -10 * torch.log10((shown - truth).square().flatten(1).mean(1))


def ssim(shown: Tensor, truth: Tensor) -> float:
    """Structural similarity, the mean over views.

    Args:
        shown: Colours from 0 to 1, `[V, H, W, 3]`.
        truth: The same.

    Returns:
        At most 1, which is the same picture.

    Raises:
        MissingPackageError: torchmetrics is not installed.
    """
    require_torchmetrics()
    with warnings.catch_warnings():
        # Of packages that torchmetrics itself imports.
        warnings.simplefilter("ignore")
        from torchmetrics.functional.image import structural_similarity_index_measure
    value = structural_similarity_index_measure(shown.movedim(-1, 1), truth.movedim(-1, 1), data_range=1.0)
    assert isinstance(value, Tensor)
    return float(value)


def require_torchmetrics() -> None:
    """Check that torchmetrics is there, before anything long begins.

    Raises:
        MissingPackageError: It is not.
    """
    from importlib.util import find_spec

    if find_spec("torchmetrics") is None:
        raise MissingPackageError(
            "Scenes are judged with torchmetrics, which is not installed: pip install 'feedalign[scenes]'."
        )
