"""Pushforwards of max pooling: the tangent's entries at the places of the maxima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _single

from feedalign.pushforward.directions import Pushforward

_ENOUGH_CHANNELS = 6  # that channels last pays


def _channels_last(source: Tensor) -> Tensor:
    """Lay the source out so that the CPU's kernel compares several channels at once, in a fraction of the time."""
    if source.device.type != "cpu" or torch.compiler.is_compiling() or source.shape[1] < _ENOUGH_CHANNELS:
        return source
    if source.dim() == 4:
        return source.contiguous(memory_format=torch.channels_last)
    return source.contiguous(memory_format=torch.channels_last_3d) if source.dim() == 5 else source


def _maxima1d(module: nn.MaxPool1d, source: Tensor) -> Tensor:
    kernel, stride, padding, dilation = map(
        _single, (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    plane = _channels_last(source.unsqueeze(-2))
    return F.max_pool2d_with_indices(
        plane, (1, *kernel), (1, *stride), (0, *padding), (1, *dilation), module.ceil_mode, True
    )[1].squeeze(-2)


def _windows(module: nn.MaxPool2d | nn.MaxPool3d) -> tuple[Any, ...]:
    return module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode, True


def taken_at(num_spatial: int, places: Tensor, tangent: Tensor, output: Tensor) -> Tensor:
    """Return a tangent's entries at the places of the maxima.

    Args:
        num_spatial: Number of the sizes that are pooled over.
        places: Of each maximum in the source's flattened plane, `[N, C, ...]` of the output's shape.
        tangent: `[K * N, C, ...]` of the source's shape.
        output: `[N, C, ...]`.

    Returns:
        `[K * N, C, ...]` of the output's shape.
    """
    places = places.flatten(-num_spatial)
    planes = tangent.flatten(-num_spatial)
    if tangent.shape[0] != output.shape[0]:
        places = places.expand(tangent.shape[0] // output.shape[0], *places.shape).flatten(0, 1)
    return planes.gather(-1, places).view(*tangent.shape[:-num_spatial], *output.shape[-num_spatial:])


def _at_the_maxima(num_spatial: int, maxima: Callable[[Any, Tensor], Tensor]) -> Pushforward:
    """`maxima` returns each maximum's place in the source's flattened plane."""

    def pushed(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
        return taken_at(num_spatial, maxima(module, source), tangent, output)

    return pushed


MAX_POOLING: dict[type[nn.Module], Pushforward] = {
    nn.MaxPool1d: _at_the_maxima(1, _maxima1d),
    nn.MaxPool2d: _at_the_maxima(2, lambda m, x: F.max_pool2d_with_indices(_channels_last(x), *_windows(m))[1]),
    nn.MaxPool3d: _at_the_maxima(3, lambda m, x: F.max_pool3d_with_indices(_channels_last(x), *_windows(m))[1]),
    nn.AdaptiveMaxPool1d: _at_the_maxima(1, lambda m, x: F.adaptive_max_pool1d(x, m.output_size, True)[1]),
    nn.AdaptiveMaxPool2d: _at_the_maxima(
        2, lambda m, x: F.adaptive_max_pool2d(_channels_last(x), m.output_size, True)[1]
    ),
    nn.AdaptiveMaxPool3d: _at_the_maxima(3, lambda m, x: F.adaptive_max_pool3d(x, m.output_size, True)[1]),
}
"""Max pooling; unknown with `return_indices`, whose output is no tensor."""
