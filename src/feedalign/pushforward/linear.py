"""Pushforwards of the linear modules: the module itself without its constants, on all directions at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.pushforward.directions import Pushforward


def _linear(module: nn.Linear, _source: Tensor, _output: Tensor, tangent: Tensor) -> Tensor:
    return F.linear(tangent, module.weight)


def transformers_conv1d(module: Any, _source: Tensor, _output: Tensor, tangent: Tensor) -> Tensor:
    """Push a tangent through Transformers' `Conv1D`, whose weight is `[in, out]`; see `Pushforward`."""
    pushed: Tensor = tangent @ module.weight
    return pushed


def _conv(module: Any, _source: Tensor, _output: Tensor, tangent: Tensor) -> Tensor:
    pushed: Tensor = module._conv_forward(tangent, module.weight, None)
    return pushed


def _conv_transpose(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
    """The output's size tells the `output_size=` that the call may have been given."""
    num_spatial = len(module.kernel_size)
    unbatched = tangent.dim() == num_spatial + 1
    output_padding = [
        size - ((source_size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
        for size, source_size, stride, padding, dilation, kernel in zip(
            output.shape[-num_spatial:],
            source.shape[-num_spatial:],
            module.stride,
            module.padding,
            module.dilation,
            module.kernel_size,
            strict=True,
        )
    ]
    pushed = torch.convolution(
        tangent.unsqueeze(0) if unbatched else tangent,
        module.weight,
        None,
        module.stride,
        module.padding,
        module.dilation,
        True,
        output_padding,
        module.groups,
    )
    return pushed.squeeze(0) if unbatched else pushed


def _itself(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
    """A module with neither constant nor state."""
    pushed: Tensor
    if tangent.shape[0] == source.shape[0] or output.shape[0] == source.shape[0]:
        pushed = module.forward(tangent)
    else:  # it works on the batch dimension too: Flatten(0), Unflatten(0, ...)
        pushed = torch.cat([module.forward(part) for part in tangent.split(source.shape[0])])
    return pushed


def _constant_pad(module: Any, _source: Tensor, _output: Tensor, tangent: Tensor) -> Tensor:
    return F.pad(tangent, module.padding)


LINEAR: dict[type[nn.Module], Pushforward] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _conv_transpose),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), _constant_pad),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), _constant_pad),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), _itself),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), _itself),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), _itself),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _itself),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _itself),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _itself),
    **dict.fromkeys((nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), _itself),
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.Unfold, nn.Fold), _itself),
}
"""The linear modules."""
