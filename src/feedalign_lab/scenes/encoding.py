"""Positional encoding: waves of growing frequency, from which a network learns fine detail."""

import torch
from torch import Tensor


def encode(values: Tensor, num_frequencies: int) -> Tensor:
    """Return the values themselves and, for each, sines and cosines of it times 1, 2, 4, ...

    Args:
        values: `[..., D]`.
        num_frequencies: How many powers of two.

    Returns:
        `[..., encoded_width(D, num_frequencies)]`: the values, the sines by frequency, the cosines by frequency.

    Source: Mildenhall et al. (2020), equation 4. Differs from the paper, as its code and that of Launay et al. (2020)
    do: the values are there too, and frequencies are not multiplied by pi.
    """
    frequencies = 2.0 ** torch.arange(num_frequencies, dtype=values.dtype, device=values.device)
    phases = (values[..., None, :] * frequencies[:, None]).flatten(-2)
    return torch.cat([values, phases.sin(), phases.cos()], -1)


def encoded_width(width: int, num_frequencies: int) -> int:
    """How many numbers `encode` makes of so many.

    Args:
        width: Numbers to encode.
        num_frequencies: How many powers of two.
    """
    return width * (1 + 2 * num_frequencies)
