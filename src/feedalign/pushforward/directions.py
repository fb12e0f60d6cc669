"""What a pushforward is, and how one direction's becomes that of several directions folded into the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# The module is typed loosely: its attributes are those of the type it is registered under.
Pushforward = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""`(module, source x [N, ...], output y [N, ...], tangent dx [K*N, ...]) -> dy [K*N, ...]`, directions k-major."""

Linearization = Callable[[Any, Tensor, Tensor], Callable[[Tensor], Tensor]]
"""`(module, source, output) -> (tangent [N, ...] -> dy [N, ...])`: what all directions share is made once."""


def broadcast(push: Pushforward) -> Pushforward:
    """Meet every direction with the same source in one kernel; for elementwise pushforwards.

    Args:
        push: Elementwise pushforward, for which the source may have strides of zero.

    Returns:
        The pushforward of tangents `[K*N, ...]`.
    """

    def pushed(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
        if tangent.shape[0] == source.shape[0]:
            return push(module, source, output, tangent)
        folded = tangent.unflatten(0, (-1, source.shape[0]))
        return push(module, source.expand_as(folded), output.expand_as(folded), folded).flatten(0, 1)

    return pushed


def one_by_one(linearize: Linearization) -> Pushforward:
    """Send the directions one after the other through one linearization.

    Args:
        linearize: Makes the map of one tangent `[N, ...]`.

    Returns:
        The pushforward of tangents `[K*N, ...]`.
    """

    def pushed(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
        step = linearize(module, source, output)
        if tangent.shape[0] == source.shape[0]:
            return step(tangent)
        return torch.cat([step(part) for part in tangent.split(source.shape[0])])

    return pushed
