"""One training step, its gradients by parameter name, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa

Gradients = dict[str, Tensor | None]

ALL_RULES: list[fa.Rule] = [rule() for rule in fa.ALL_RULES]
SEVERAL_RULES: list[fa.Rule] = [fa.FA(), fa.BRSF(), fa.DFA(), fa.SignDFA(), fa.DRTP()]


def attached(make: Callable[[], nn.Module], rule: Any, inputs: Any, **options: Any) -> nn.Module:
    """A fresh model with a rule attached; the same feedback every time."""
    model = make()
    fa.attach(model, rule, example_inputs=inputs, **options)
    return model


def cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all targets, for outputs `[..., C]`."""
    return F.cross_entropy(output.reshape(-1, output.shape[-1]), targets.reshape(-1))


def step(model: Callable[[Any], Tensor], x: Any, y: Tensor, scale: float = 1.0) -> None:
    """Forward and backward, as in anyone's training loop."""
    (scale * cross_entropy(model(x), y)).backward()


def gradients(model: nn.Module) -> Gradients:
    """Copies of all gradients."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def gradients_of_step(model: nn.Module, x: Any, y: Tensor) -> Gradients:
    """Gradients of one step from zero."""
    model.zero_grad()
    step(model, x, y)
    return gradients(model)


def assert_same_gradients(found: Gradients, expected: Gradients, tolerance: float = 1e-6) -> None:
    """Compare all gradients within an absolute and relative tolerance; None equals None alone."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        other = found[name]
        assert (value is None) == (other is None), f"{name}: {other} instead of {value}"
        if value is not None:
            torch.testing.assert_close(other, value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_hidden_layers_learn(found: Gradients, rule: Any) -> None:
    """A comparison of nothing with nothing proves nothing."""
    hidden = next(iter(found.values()))
    if isinstance(rule, fa.Shallow):
        assert hidden is None
    else:
        assert hidden is not None
        assert hidden.any()


def layerwise_feedback(model: nn.Module, layers: Sequence[nn.Module]) -> list[Tensor]:
    """What was drawn for each layer; where there is none, weights that show at once if a layer below learns by them."""
    store = fa.handle_of(model).store
    names = {module: name.replace(".", "_") for name, module in model.named_modules()}
    drawn = [store.drawn(names[layer], layer.weight) for layer in layers]
    return [
        torch.full_like(layer.weight.detach(), 7.0) if one is None else one
        for layer, one in zip(layers, drawn, strict=True)
    ]
