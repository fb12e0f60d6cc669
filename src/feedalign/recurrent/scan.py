"""Sums of errors over later steps, by a parallel scan."""

from __future__ import annotations

import torch
from torch import Tensor


def later_sum(errors: Tensor, gamma: float = 1.0, *, reverse: bool = False) -> Tensor:
    """Return `G_t = sum over s >= t of gamma^(s - t) E_s` for every step at once.

    For `gamma` 0 it is the error itself, for 1 a cumulative sum; between them the range that a step covers doubles
    with every pass, log2(T) of them.

    Args:
        errors: `[N, T, C]`, zero where a step does not count.
        gamma: Discount for each step that lies between, from 0 to 1.
        reverse: Sum over earlier steps instead, for a layer that runs from the last step to the first.

    Returns:
        `[N, T, C]`.

    Source: the per-step form that "DFA for recurrent networks", section 6, names as future work.
    """
    if gamma == 0 or errors.shape[1] < 2:
        return errors
    if gamma == 1:
        return errors.cumsum(1) if reverse else errors.flip(1).cumsum(1).flip(1)
    total, reach = errors, 1
    while reach < errors.shape[1]:
        missing = torch.zeros_like(total[:, :reach])
        shifted = torch.cat([missing, total[:, :-reach]] if reverse else [total[:, reach:], missing], 1)
        total = total + gamma**reach * shifted
        reach *= 2
    return total
