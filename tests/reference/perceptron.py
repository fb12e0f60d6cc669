"""A network of fully connected layers: forward, and what a layer does with the teaching signal it is given."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Perceptron(NamedTuple):
    """Weights `[n_l, n_{l-1}]` and biases `[n_l]` of layers 1 to L; the output layer is linear."""

    weights: list[Tensor]
    biases: list[Tensor]
    nonlinearity: str


class Pass(NamedTuple):
    """What a forward leaves: H_0 ... H_{L-1}, A_1 ... A_{L-1}, and the output A_L."""

    activations: list[Tensor]
    preactivations: list[Tensor]
    output: Tensor


class Draws(NamedTuple):
    """Directions, K for each sample.

    `hidden`: of H_1 ... H_{L-1}, `[K, N, n_l]`; `output`: of A_L, `[K, N, C]`; `weights` and `biases`: of W_1 ... W_L
    and b_1 ... b_L, `[K, N, n_l, n_{l-1}]` and `[K, N, n_l]`. Noise of gradients: `[n_l, n_{l-1}]` and `[n_l]`.
    """

    hidden: Sequence[Tensor] = ()
    output: Tensor | None = None
    weights: Sequence[Tensor] = ()
    biases: Sequence[Tensor] = ()


class Head(NamedTuple):
    """A linear layer `[C, n_l]`, `[C]` that predicts the targets from H_l."""

    weight: Tensor
    bias: Tensor


class Case(NamedTuple):
    """All that a rule may use to make the teaching signals of the hidden layers.

    `error` `[N, C]`; `targets` `[N, C]`; `scale`, of each sample in the loss, `[N, 1]`; `feedback`: B_1 ... B_{L-1} of
    a direct rule, R_1 ... R_L of a layer-wise one; `heads` of the first layers; `loss`: its name; `num_positions`: how
    many rows that follow each other are one sample; `options`: the rule's.
    """

    net: Perceptron
    passed: Pass
    error: Tensor
    targets: Tensor
    scale: Tensor
    feedback: list[Tensor]
    draws: Draws = Draws()
    heads: Sequence[Head] = ()
    loss: str = ""
    num_positions: int = 1
    options: Mapping[str, Any] = MappingProxyType({})


Signals = list[Tensor | None]


def sign(x: Tensor) -> Tensor:
    return (x > 0).double() - (x < 0).double()


def activate(nonlinearity: str, a: Tensor) -> Tensor:
    if nonlinearity == "tanh":
        return (torch.exp(a) - torch.exp(-a)) / (torch.exp(a) + torch.exp(-a))
    if nonlinearity == "sigmoid":
        return 1 / (1 + torch.exp(-a))
    if nonlinearity == "relu":
        return a * (a > 0)
    assert nonlinearity == "identity"
    return a


def slope(nonlinearity: str, a: Tensor) -> Tensor:
    if nonlinearity == "relu":
        return (a > 0).double()
    h = activate(nonlinearity, a)
    if nonlinearity == "tanh":
        return 1 - h * h
    return h * (1 - h) if nonlinearity == "sigmoid" else torch.ones_like(a)


def forward(net: Perceptron, x: Tensor) -> Pass:
    activations, preactivations = [x], []
    for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
        preactivations.append(activations[-1] @ weight.T + bias)
        activations.append(activate(net.nonlinearity, preactivations[-1]))
    return Pass(activations, preactivations, activations[-1] @ net.weights[-1].T + net.biases[-1])


def deltas(net: Perceptron, passed: Pass, signals: Signals) -> Signals:
    """Modulatory signals `Delta_l = S_l * f'(A_l)` of the hidden layers."""
    return [
        None if signal is None else signal * slope(net.nonlinearity, a)
        for signal, a in zip(signals, passed.preactivations, strict=True)
    ]


def gradients(case: Case, signals: Signals, at_output: Tensor | None = None) -> dict[str, Tensor | None]:
    """Gradients of `fc1.weight`, `fc1.bias`, ...: hidden layers from their signals, the output layer from the error.

    `at_output` `[N, C]` takes the error's place there.
    """
    found: dict[str, Tensor | None] = {}
    last = case.error if at_output is None else at_output
    for layer, delta in enumerate([*deltas(case.net, case.passed, signals), last], start=1):
        found[f"fc{layer}.weight"] = None if delta is None else delta.T @ case.passed.activations[layer - 1]
        found[f"fc{layer}.bias"] = None if delta is None else delta.sum(0)
    return found


def signals_layer_by_layer(case: Case, backward_weights: list[Tensor]) -> Signals:
    """`S_l = Delta_{l+1} M_{l+1}`, from the output down; `backward_weights` are M_1 ... M_L, of which M_1 is idle."""
    signals: Signals = []
    delta = case.error
    for backward_weight, a in zip(backward_weights[:0:-1], case.passed.preactivations[::-1], strict=True):
        signal = delta @ backward_weight
        signals.insert(0, signal)
        delta = signal * slope(case.net.nonlinearity, a)
    return signals
