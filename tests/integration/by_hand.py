"""The rules by hand on any model: plain autograd on a plain model, cut and rerouted with `detach()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from integration.gradients import Gradients, cross_entropy


def gradients_by_hand(
    model: nn.Module, rule: fa.Rule, feedback: Sequence[Tensor], x: Any, y: Tensor, points: Sequence[str]
) -> Gradients:
    """Gradients of a mean cross-entropy.

    Args:
        model: A plain model.
        rule: The rule.
        feedback: In the order in which the points fire `[C, D]`, or in the model's order of layers `[out, in, ...]`.
        x: Inputs.
        y: Class indices.
        points: Names of the modules whose every call is a feedback point.
    """
    if isinstance(rule, (fa.FA, fa.USF, fa.FRSF, fa.BRSF)):
        with layers_fed_back(model, layerwise_weights(model, rule, feedback)):
            return _backprop(model, x, y)
    if isinstance(rule, fa.Backprop):
        return _backprop(model, x, y)
    with graph_cut(model, points) as taps:
        output = model(x)
    logits = output.detach().clone().requires_grad_()
    (error,) = torch.autograd.grad(cross_entropy(logits, y), logits)
    roots, signals = ([output], [error]) if output.requires_grad else ([], [])
    if not isinstance(rule, fa.Shallow):
        vector = broadcast_by_hand(rule, error, y)
        roots += taps
        signals += [delivered(vector @ matrix, tap) for matrix, tap in zip(feedback, taps, strict=True)]
    return _named(model, torch.autograd.grad(roots, _trainable(model), signals, allow_unused=True))


def broadcast_by_hand(rule: fa.Rule, error: Tensor, y: Tensor) -> Tensor:
    """What is projected, for a mean cross-entropy."""
    if isinstance(rule, fa.SignDFA):
        return error.sign() / y.numel()
    if isinstance(rule, fa.DRTP):
        return -F.one_hot(y, error.shape[-1]).to(error.dtype) / y.numel()
    return error


def delivered(signal: Tensor, tap: Tensor) -> Tensor:
    """Repeat a signal without positions over those of the tap; else only the shape is restored."""
    if signal.numel() < tap.numel():
        return signal.unsqueeze(1).expand_as(tap)
    return signal.reshape_as(tap)


def layerwise_weights(model: nn.Module, rule: fa.Rule, feedback: Sequence[Tensor]) -> list[Tensor]:
    """What stands for each layer's weight in the way back."""
    weights = [layer.weight.detach() for layer in layers(model)]
    if isinstance(rule, fa.FA):
        return list(feedback)
    if isinstance(rule, fa.USF):
        return [w.sign() / (3 * w[0].numel()) ** 0.5 for w in weights]
    return [m.abs() * w.sign() for m, w in zip(feedback, weights, strict=True)]


@contextmanager
def layers_fed_back(model: nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Let each layer compute with its weight, and send gradients to its input through another one."""
    fed_back = layers(model)
    for layer, weight in zip(fed_back, weights, strict=True):
        layer.forward = _fed_back(layer, weight)
    try:
        yield
    finally:
        for layer in fed_back:
            del layer.forward


def _fed_back(layer: nn.Module, weight: Tensor) -> Callable[[Tensor], Tensor]:
    plain = type(layer).forward

    def forward(x: Tensor) -> Tensor:
        way_back = F.linear(x, weight) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, None)
        return plain(layer, x.detach()) + (way_back - way_back.detach())

    return forward


@contextmanager
def graph_cut(model: nn.Module, points: Sequence[str]) -> Iterator[list[Tensor]]:
    """Cut the graph behind each call of the points and collect the activations."""
    taps: list[Tensor] = []

    def cut(module: nn.Module, args: Any, activation: Tensor) -> Tensor:
        if activation.requires_grad:
            taps.append(activation)
        return activation.detach()

    hooks = [model.get_submodule(point).register_forward_hook(cut) for point in points]
    yield taps
    for hook in hooks:
        hook.remove()


def layers(model: nn.Module) -> list[nn.Module]:
    """Not the output projection of attention, which runs without being called."""
    return [module for module in model.modules() if type(module) in {nn.Linear, nn.Conv2d}]


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _backprop(model: nn.Module, x: Any, y: Tensor) -> Gradients:
    grads = torch.autograd.grad(cross_entropy(model(x), y), _trainable(model), allow_unused=True)
    return _named(model, grads)


def _named(model: nn.Module, grads: Sequence[Tensor | None]) -> Gradients:
    found = dict(zip([n for n, p in model.named_parameters() if p.requires_grad], grads, strict=True))
    return {name: found.get(name) for name, _ in model.named_parameters()}
