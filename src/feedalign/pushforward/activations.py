"""Pushforwards of the activations: one fused kernel where torch has one.

An elementwise function's Jacobian is diagonal, so torch's backward kernels serve tangents as they are. An in-place
activation has overwritten its source with its output: it is known only if the output tells the slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.points import FeedbackPoint
from feedalign.pushforward.directions import Linearization, Pushforward, broadcast, one_by_one

_aten = torch.ops.aten

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _leaky_relu(source: Tensor, output: Tensor, tangent: Tensor, slope: float) -> Tensor:
    """With a slope below zero the output's sign does not tell the source's, which is then whole: see `unknown_now`."""
    pushed: Tensor = _aten.leaky_relu_backward(tangent, output if slope >= 0 else source, slope, slope >= 0)
    return pushed


def _elu(module: Any, source: Tensor, output: Tensor, tangent: Tensor, scales: tuple[float, float, float]) -> Tensor:
    """`scales` are alpha, scale and the source's scale."""
    from_output = module.inplace
    pushed: Tensor = _aten.elu_backward(tangent, *scales, from_output, output if from_output else source)
    return pushed


def _threshold(module: nn.Threshold, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
    pushed: Tensor = _aten.threshold_backward(tangent, output if module.inplace else source, module.threshold)
    return pushed


_ELEMENTWISE: dict[type[nn.Module], Pushforward] = {
    nn.ReLU: lambda _m, _x, y, dx: _aten.threshold_backward(dx, y, 0),
    # The clamp's output is within its bounds exactly where its source is.
    nn.ReLU6: lambda m, _x, y, dx: _aten.hardtanh_backward(dx, y, m.min_val, m.max_val),
    nn.Hardtanh: lambda m, _x, y, dx: _aten.hardtanh_backward(dx, y, m.min_val, m.max_val),
    nn.Threshold: _threshold,
    nn.Tanh: lambda _m, _x, y, dx: _aten.tanh_backward(dx, y),
    nn.Sigmoid: lambda _m, _x, y, dx: _aten.sigmoid_backward(dx, y),
    nn.LeakyReLU: lambda m, x, y, dx: _leaky_relu(x, y, dx, m.negative_slope),
    nn.RReLU: lambda m, x, y, dx: _leaky_relu(x, y, dx, (m.lower + m.upper) / 2),
    nn.ELU: lambda m, x, y, dx: _elu(m, x, y, dx, (m.alpha, 1.0, 1.0)),
    nn.SELU: lambda m, x, y, dx: _elu(m, x, y, dx, (_SELU_ALPHA, _SELU_SCALE, 1.0)),
    nn.CELU: lambda m, x, y, dx: _elu(m, x, y, dx, (m.alpha, 1.0, 1 / m.alpha)),
    nn.Hardshrink: lambda m, x, _y, dx: _aten.hardshrink_backward(dx, x, m.lambd),
    nn.Softshrink: lambda m, x, _y, dx: _aten.softshrink_backward(dx, x, m.lambd),
    nn.Hardsigmoid: lambda _m, x, _y, dx: _aten.hardsigmoid_backward(dx, x),
    nn.Hardswish: lambda _m, x, _y, dx: _aten.hardswish_backward(dx, x),
    nn.SiLU: lambda _m, x, _y, dx: _aten.silu_backward(dx, x),
    nn.Mish: lambda _m, x, _y, dx: _aten.mish_backward(dx, x),
    nn.Softplus: lambda m, x, _y, dx: _aten.softplus_backward(dx, x, m.beta, m.threshold),
    nn.Softsign: lambda _m, x, _y, dx: dx / (1 + x.abs()).square(),
    nn.LogSigmoid: lambda _m, x, _y, dx: dx * torch.sigmoid(-x),
    nn.Tanhshrink: lambda _m, x, _y, dx: dx * x.tanh().square(),
}


def _softmax(output: Tensor, dim: int) -> Callable[[Tensor], Tensor]:
    """The softmax's Jacobian is symmetric, so here too torch's backward kernel serves."""
    return lambda dx: _aten._softmax_backward_data(dx, output, dim, output.dtype)


def _softmin(module: nn.Softmin, _source: Tensor, output: Tensor) -> Callable[[Tensor], Tensor]:
    softmax = _softmax(output, _dim(module))
    return lambda dx: softmax(dx).neg()


def _log_softmax(module: nn.LogSoftmax, _source: Tensor, output: Tensor) -> Callable[[Tensor], Tensor]:
    probabilities, dim = output.exp(), _dim(module)
    return lambda dx: dx - (probabilities * dx).sum(dim, keepdim=True)


def _prelu(module: Any, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    weight = module.weight
    if source.dim() > 1:
        weight = weight.view(-1, *[1] * (source.dim() - 2))

    def step(dx: Tensor) -> Tensor:
        # At zero torch's forward mode has the slope 1 (its backward pass that of the weight). The mask is hardtanh's,
        # with no bound below: on CPUs torch.where takes ten times as long as that kernel where signs are random.
        negative = _aten.hardtanh_backward(dx, source, -math.inf, 0.0)
        return torch.addcmul(dx - negative, negative, weight)

    return step


def _gelu(module: nn.GELU, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda dx: _aten.gelu_backward(dx, source, approximate=module.approximate)


def _glu(module: nn.GLU, source: Tensor, output: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda dx: _aten.glu_jvp(output, source, dx, module.dim)


def _dim(module: nn.Softmin | nn.Softmax | nn.LogSoftmax) -> int:
    assert module.dim is not None  # unknown_now has refused the others
    return module.dim


_NOT_BROADCAST: dict[type[nn.Module], Linearization] = {
    nn.PReLU: _prelu,
    nn.GELU: _gelu,  # oneDNN's kernel takes no strides of zero
    nn.Softmax: lambda m, _x, y: _softmax(y, _dim(m)),
    nn.Softmax2d: lambda _m, _x, y: _softmax(y, -3),
    nn.Softmin: _softmin,
    nn.LogSoftmax: _log_softmax,
    nn.GLU: _glu,
}


ACTIVATIONS: dict[type[nn.Module], Pushforward] = {
    nn.Identity: lambda _m, _x, _y, dx: dx,
    FeedbackPoint: lambda _m, _x, _y, dx: dx,
    nn.AlphaDropout: lambda _m, _x, _y, dx: dx,
    nn.FeatureAlphaDropout: lambda _m, _x, _y, dx: dx,
    **{kind: broadcast(push) for kind, push in _ELEMENTWISE.items()},
    **{kind: one_by_one(linearize) for kind, linearize in _NOT_BROADCAST.items()},
}
"""The activations, and the identities."""


def _overwrites(module: Any) -> bool:
    return bool(module.inplace)


def _has_no_dim(module: Any) -> bool:
    """Torch then guesses the dimension from the source's shape, which it has deprecated."""
    return module.dim is None


UNKNOWN_WHEN: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.Threshold: lambda m: m.inplace and m.value > m.threshold,
    nn.LeakyReLU: lambda m: m.inplace and m.negative_slope < 0,
    nn.RReLU: lambda m: m.training or (m.inplace and m.lower + m.upper < 0),
    nn.ELU: lambda m: m.inplace and m.alpha < 0,
    nn.CELU: lambda m: m.inplace and m.alpha < 0,
    nn.SiLU: _overwrites,
    nn.Mish: _overwrites,
    nn.Hardswish: _overwrites,
    nn.Hardsigmoid: _overwrites,
    nn.Softmax: _has_no_dim,
    nn.Softmin: _has_no_dim,
    nn.LogSoftmax: _has_no_dim,
    # Random in training.
    nn.AlphaDropout: lambda m: m.training,
    nn.FeatureAlphaDropout: lambda m: m.training,
}
"""Settings in which an activation's source and output do not tell its slope."""
