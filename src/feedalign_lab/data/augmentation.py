"""Augmentation of whole batches of images, on their own device."""

import torch
from torch import Tensor


def flip_horizontally(x: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half.

    Args:
        x: Images [N, C, H, W].
        draws: CPU generator of the coin flips.

    Returns:
        A new tensor of the same shape.
    """
    mirrored = (torch.rand(x.shape[0], generator=draws) < 0.5).to(x.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
