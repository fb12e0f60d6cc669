"""Layers with a weight: which axis their features are on, and the product that makes their input gradient."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from feedalign.placement import FeatureAxis
from feedalign.recurrent.point import LayerSteps

_POSITIONLESS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.LayerNorm, nn.RNNBase, nn.MultiheadAttention)


def is_transformers_conv1d(module: nn.Module) -> bool:
    """Whether a module is Transformers' `Conv1D`: a linear layer whose weight is stored `[in, out]`."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def is_geometric_linear(module: nn.Module) -> bool:
    """Whether a module is the `Linear` of PyTorch Geometric's layers, which is no `nn.Linear` but computes the same."""
    return type(module).__name__ == "Linear" and type(module).__module__ == "torch_geometric.nn.dense.linear"


def feature_axis(module: nn.Module) -> FeatureAxis | None:
    """Return on which axis a layer puts its features; None for modules that do not change it."""
    if isinstance(module, _ConvNd):
        return "second"
    linear_elsewhere = is_transformers_conv1d(module) or is_geometric_linear(module)
    if isinstance(module, (*_POSITIONLESS, LayerSteps)) or linear_elsewhere:
        return "last"
    return None


class Adjoint(Protocol):
    """Input gradient of a layer, made with a feedback weight."""

    def __call__(self, grad: Tensor, feedback: Tensor, source_shape: tuple[int, ...]) -> Tensor:
        """Return the gradient at the layer's input.

        Args:
            grad: Gradient at the layer's output.
            feedback: Feedback weight, `[out, in, ...]`.
            source_shape: Shape of the layer's input.
        """
        ...


class LinearAdjoint:
    """`grad @ B` for `nn.Linear`, PyTorch Geometric's `Linear` and Transformers' `Conv1D`, B `[out, in]`."""

    def __call__(self, grad: Tensor, feedback: Tensor, source_shape: tuple[int, ...]) -> Tensor:
        """See `Adjoint`."""
        del source_shape
        return grad @ feedback


class ConvAdjoint:
    """The transposed convolution with B, for `nn.Conv1d/2d/3d`, grouped, strided, dilated and padded."""

    def __init__(self, layer: _ConvNd) -> None:
        self.num_spatial = len(layer.kernel_size)
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.pad_mode = layer.padding_mode
        # Sizes added before and after each spatial dimension, last dimension first, as F.pad wants them.
        self.pads: list[int] = list(layer._reversed_padding_repeated_twice)

    def __call__(self, grad: Tensor, feedback: Tensor, source_shape: tuple[int, ...]) -> Tensor:
        """See `Adjoint`."""
        unbatched = len(source_shape) == self.num_spatial + 1
        shape = (1, *source_shape) if unbatched else source_shape
        padded = [size + sum(self.pads[2 * i : 2 * i + 2]) for i, size in enumerate(reversed(shape[2:]))]
        symmetric = self.pad_mode == "zeros" and self.pads[::2] == self.pads[1::2]
        gradient: Tensor = torch.ops.aten.convolution_backward(
            grad.unsqueeze(0) if unbatched else grad,
            grad.new_empty(1).expand(shape if symmetric else (*shape[:2], *reversed(padded))),
            feedback,
            None,
            self.stride,
            self.pads[::2][::-1] if symmetric else [0] * self.num_spatial,
            self.dilation,
            False,
            [0] * self.num_spatial,
            self.groups,
            (True, False, False),
        )[0]
        if not symmetric:
            gradient = self._unpad(gradient, shape)
        return gradient.squeeze(0) if unbatched else gradient

    def _unpad(self, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Send the gradient of the padded input back through the padding, whatever its mode."""
        mode = "constant" if self.pad_mode == "zeros" else self.pad_mode
        pulled_back: Any = torch.func.vjp(
            lambda x: nn.functional.pad(x, self.pads, mode=mode), gradient.new_zeros(shape)
        )
        unpadded: Tensor = pulled_back[1](gradient)[0]
        return unpadded


def adjoint_of(module: nn.Module) -> Adjoint | None:
    """Return the product that makes a layer's input gradient, or None for modules that are not linear-like.

    A subclass with a forward of its own may compute anything, so it does not count.
    """
    if is_transformers_conv1d(module) or is_geometric_linear(module):
        return LinearAdjoint()
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        return LinearAdjoint()
    plain = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    if isinstance(module, _ConvNd) and type(module).forward in plain:
        return ConvAdjoint(module)
    return None


def own_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return a module's own parameters, those behind a parametrization such as `weight_norm` included."""
    own = list(module.parameters(recurse=False))
    if nn.utils.parametrize.is_parametrized(module):
        own += list(module.parametrizations.parameters())  # type: ignore[union-attr]
    return own


def forward_weight(module: nn.Module) -> Tensor:
    """Return a linear-like layer's weight, detached, as `[out, in, ...]`."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if is_transformers_conv1d(module) else weight.detach()
