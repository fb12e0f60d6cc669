"""The tangent that a change of a module's own parameters makes at its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.pushforward.normalization import uses_batch_statistics


@dataclass(frozen=True)
class OwnTerm:
    """`dy = (dy/dweight) dweight + (dy/dbias) dbias` of one call of a module.

    Attributes:
        shared: `(module, source, dweight, dbias or None) -> dy`: the module itself with the directions for parameters.
        per_sample: `(module, source, dweight [N, ...]) -> dy`, each sample with its own direction.
        bias_axis: Where the bias' dimensions lie in the output: from the second on, or the last.
    """

    shared: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
    per_sample: Callable[[Any, Tensor, Tensor], Tensor]
    bias_axis: Literal["second", "last"]

    def __call__(self, module: nn.Module, source: Tensor, output: Tensor, directions: Mapping[str, Tensor]) -> Tensor:
        """Return the tangent at the output.

        Args:
            module: The module, in the mode of its call.
            source: Its input x, `[N, ...]`.
            output: Its output y, `[N, ...]`.
            directions: By parameter name, of the parameter's shape, or `[N, *shape]` with one direction per sample;
                what is left out does not change.

        Returns:
            dy, of the output's shape.
        """
        weight, bias = directions.get("weight"), directions.get("bias")
        bias_per_sample = bias is not None and bias.dim() > module.bias.dim()  # type: ignore[operator]
        if weight is None:
            term = torch.zeros_like(output)
        elif weight.dim() > module.weight.dim():  # type: ignore[operator]
            term = self.per_sample(module, source, weight)
        elif bias_per_sample:
            term = self.shared(module, source, weight, None)
        else:
            return self.shared(module, source, weight, bias)
        return term if bias is None else term + _placed(bias, bias_per_sample, output, self.bias_axis)


def _placed(vector: Tensor, per_sample: bool, output: Tensor, axis: Literal["second", "last"]) -> Tensor:
    """View a parameter's direction so that it broadcasts against the output."""
    if not per_sample:
        vector = vector.unsqueeze(0)
    gap = [1] * (output.dim() - vector.dim())
    if axis == "second":
        return vector.view(*vector.shape, *gap)
    return vector.view(vector.shape[0], *gap, *vector.shape[1:])


def _linear_per_sample(_module: nn.Linear, source: Tensor, weight: Tensor) -> Tensor:
    return _rows(source, weight.transpose(1, 2))


def _rows(source: Tensor, weight: Tensor) -> Tensor:
    """`source [N, ..., D] @ weight [N, D, H]`."""
    rows = source.reshape(source.shape[0], -1, source.shape[-1])
    return torch.bmm(rows, weight).view(*source.shape[:-1], weight.shape[-1])


def _transformers_conv1d(_module: nn.Module, source: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(source, weight.T, bias)


TRANSFORMERS_CONV1D = OwnTerm(_transformers_conv1d, lambda _m, x, weight: _rows(x, weight), "last")
"""Transformers' `Conv1D`, whose type cannot be imported."""


def _conv_per_sample(module: Any, source: Tensor, weight: Tensor) -> Tensor:
    """One convolution in which each sample's channels are a group of their own."""
    padding = module.padding
    if module.padding_mode != "zeros":
        source, padding = F.pad(source, module._reversed_padding_repeated_twice, module.padding_mode), 0
    convolve = (F.conv1d, F.conv2d, F.conv3d)[source.dim() - 3]
    num_samples = source.shape[0]
    folded = convolve(
        source.reshape(1, -1, *source.shape[2:]),
        weight.flatten(0, 1),
        None,
        module.stride,
        padding,
        module.dilation,
        num_samples * module.groups,
    )
    return folded.view(num_samples, -1, *folded.shape[2:])


def _batch_norm(module: Any, source: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if uses_batch_statistics(module):
        return F.batch_norm(source, None, None, weight, bias, True, 0.0, module.eps)
    return F.batch_norm(source, module.running_mean, module.running_var, weight, bias, False, 0.0, module.eps)


def _layer_norm(module: Any, source: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.layer_norm(source, module.normalized_shape, weight, bias, module.eps)


def _group_norm(module: Any, source: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.group_norm(source, module.num_groups, weight, bias, module.eps)


def _normalization(
    normalize: Callable[[Any, Tensor, Tensor | None, Tensor | None], Tensor], axis: Literal["second", "last"]
) -> OwnTerm:
    def per_sample(module: Any, source: Tensor, weight: Tensor) -> Tensor:
        return normalize(module, source, None, None) * _placed(weight, True, source, axis)

    return OwnTerm(normalize, per_sample, axis)


def _prelu(_module: nn.PReLU, source: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    return source.clamp(max=0) * (_placed(weight, False, source, "second") if source.dim() > 1 else weight)


def _prelu_per_sample(_module: nn.PReLU, source: Tensor, weight: Tensor) -> Tensor:
    return source.clamp(max=0) * _placed(weight, True, source, "second")


def _embedding(module: nn.Embedding, source: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    return _without_padding(module, source, F.embedding(source, weight))


def _embedding_per_sample(module: nn.Embedding, source: Tensor, weight: Tensor) -> Tensor:
    samples = torch.arange(source.shape[0], device=source.device).view(-1, *[1] * (source.dim() - 1))
    return _without_padding(module, source, weight[samples, source])


def _without_padding(module: nn.Embedding, source: Tensor, term: Tensor) -> Tensor:
    """The padding row does not change: its gradient is zero."""
    if module.padding_idx is None:
        return term
    return term.masked_fill((source == module.padding_idx).unsqueeze(-1), 0)


_BATCH_NORM = _normalization(_batch_norm, "second")
_CONV = OwnTerm(lambda m, x, weight, bias: m._conv_forward(x, weight, bias), _conv_per_sample, "second")

OWN_TERMS: dict[type[nn.Module], OwnTerm] = {
    nn.Linear: OwnTerm(lambda _m, x, weight, bias: F.linear(x, weight, bias), _linear_per_sample, "last"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BATCH_NORM),
    nn.LayerNorm: _normalization(_layer_norm, "last"),
    nn.GroupNorm: _normalization(_group_norm, "second"),
    nn.PReLU: OwnTerm(_prelu, _prelu_per_sample, "second"),
    nn.Embedding: OwnTerm(_embedding, _embedding_per_sample, "last"),
}
"""The modules whose own parameters' tangents are known."""
