"""Where results may be written to memory of ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from feedalign.transforms import inside_transform

Given = ParamSpec("Given")
Made = TypeVar("Made")

_MIN_NUMBERS = 1 << 13


def is_followed() -> bool:
    """Whether a compiler or a `torch.func` transform follows the operations, which can neither be fused nor write."""
    return torch.compiler.is_compiling() or inside_transform()


def is_plain(tensor: Tensor) -> bool:
    """Whether operations do just what they say, and so may write to memory that was made beforehand."""
    return not is_followed() and not torch.is_autocast_enabled(tensor.device.type)


def may_write(first: Tensor, *others: Tensor | None) -> bool:
    """Whether results computed from these tensors may be written to memory made beforehand.

    Args:
        first: One of them.
        others: The others.
    """
    return is_plain(first) and all(other is None or other.dtype == first.dtype for other in others)


def tanh_(values: Tensor) -> Tensor:
    """Apply tanh in place, to within the rounding of 1.

    Args:
        values: To be written to.
    """
    return values.mul_(2).sigmoid_().mul_(2).sub_(1) if prefers_sigmoid(values) else values.tanh_()


def prefers_sigmoid(values: Tensor) -> bool:
    """Whether tanh is better made of a sigmoid: torch's own keeps to one thread and takes ten times as long.

    It is exact in small values too, though, and so not to be replaced in what is carried on from step to step.
    """
    return values.dtype == torch.float32 and values.numel() >= _MIN_NUMBERS and values.device.type == "cpu"


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which operations keep the types they are given."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def by_hand(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Have a function of tensors, one of which is given by position, make no graph and keep the types it is given."""

    @wraps(function)
    def alone(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        device = next(given.device for given in args if isinstance(given, Tensor))
        with torch.no_grad(), without_autocast(device):
            return function(*args, **kwargs)

    return alone
