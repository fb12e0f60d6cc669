"""Where results may be written to memory of ours."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from feedalign.transforms import inside_transform


def is_plain(tensor: Tensor) -> bool:
    """Whether operations do just what they say: no compiler, transform or autocast changes or follows them."""
    if torch.compiler.is_compiling() or inside_transform():
        return False
    return not torch.is_autocast_enabled(tensor.device.type)


def may_write(first: Tensor, *others: Tensor | None) -> bool:
    """Whether results computed from these tensors may be written to memory made beforehand.

    Args:
        first: One of them.
        others: The others.
    """
    return is_plain(first) and all(other is None or other.dtype == first.dtype for other in others)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which operations keep the types they are given."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
