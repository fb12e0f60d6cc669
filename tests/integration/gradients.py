"""One training step, its gradients by parameter name, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign import perturbation, perturber
from feedalign.layerwise import Gate
from feedalign.perturbation import magnitude
from feedalign.rules import LearnedRule

Gradients = dict[str, Tensor | None]

ALL_RULES: list[fa.Rule] = [rule() for rule in fa.ALL_RULES]
SEVERAL_RULES: list[fa.Rule] = [fa.FA(), fa.BRSF(), fa.DFA(), fa.SignDFA(), fa.DRTP(), fa.FDFA(), fa.LocalGreedy()]
PERTURBING: list[fa.Rule] = [fa.FDFA(), fa.ActivityPerturbed(), fa.LocalGreedy(), fa.WeightPerturbed()]
AVERAGED = fa.FDFA(update="ema", rate=0.25, projects="new")
DRAWS_ANEW = (fa.BRSF, fa.NoisyBackprop, fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy, fa.WeightPerturbed)
"""Rules that draw at every forward: two forwards differ, and a batch differs from its halves."""

WITHOUT_DRAWS: list[fa.Rule] = [rule for rule in ALL_RULES if not isinstance(rule, DRAWS_ANEW)]


def attached(make: Callable[[], nn.Module], rule: Any, inputs: Any, **options: Any) -> nn.Module:
    """A fresh model with a rule attached; the same feedback every time, and none that starts at zero."""
    model = make()
    if isinstance(rule, LearnedRule):
        options.setdefault("feedback", fa.KaimingUniform())
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


def is_learned_feedback(name: str) -> bool:
    """Whether a parameter belongs to the rule."""
    return "feedalign" in name.split(".")


def own_gradients(model: nn.Module) -> Gradients:
    """Copies of the gradients of the model's own parameters."""
    return {name: grad for name, grad in gradients(model).items() if not is_learned_feedback(name)}


def numbered_gradients(model: nn.Module) -> Gradients:
    """All gradients; those of learned feedback by number, since where it is registered depends on the model."""
    learned = [grad for name, grad in gradients(model).items() if is_learned_feedback(name)]
    return own_gradients(model) | {f"feedback {i}": grad for i, grad in enumerate(learned)}


def direct_feedback(model: nn.Module) -> dict[str, Tensor]:
    """Matrices and heads, learned or fixed, by name in the store."""
    store = fa.handle_of(model).store
    held = {**dict(store.named_parameters()), **dict(store.named_buffers())}
    return {name: tensor.detach() for name, tensor in held.items() if name not in {"seed", "counter"}}


def set_clock(model: nn.Module, like: nn.Module) -> None:
    """Let a model draw next what another one would."""
    mine, theirs = fa.handle_of(model).store, fa.handle_of(like).store
    if theirs.has_clock:
        mine.seed, mine.counter = theirs.seed.clone(), theirs.counter.clone()


@contextmanager
def draws_recorded() -> Iterator[list[Tensor]]:
    """Collect what is drawn, `[K, ...]`: for parameters in the model's order, at points as they fire.

    The noise of limits is drawn in the backward.
    """
    drawn: list[Tensor] = []
    draw = perturbation._placed

    def record(*args: Any) -> list[Tensor]:
        made = draw(*args)
        drawn.extend(made)
        return made

    with mock.patch.object(perturbation, "_placed", record):
        yield drawn


@contextmanager
def draws_given(drawn: Sequence[Tensor]) -> Iterator[None]:
    """Let a forward draw these numbers, in its own precision and on its own device."""
    given = iter(drawn)
    with mock.patch.object(perturber, "perturbations", lambda likes, *args: [next(given).to(like) for like in likes]):
        yield


def layerwise_feedback(model: nn.Module, layers: Sequence[nn.Module]) -> list[Tensor]:
    """What was drawn for each layer; where there is none, weights that show at once if a layer below learns by them."""
    return [_drawn_for(layer) for layer in layers]


def _drawn_for(layer: nn.Module) -> Tensor:
    gate = next((hook.__self__ for hook in layer._forward_hooks.values() if _is_gates(hook)), None)
    held = () if gate is None else gate._held()
    if not held:
        return torch.full_like(layer.weight.detach(), 7.0)
    return magnitude(layer.weight.detach(), held[0], gate.back.place) if gate.rule.redraws else held[0]


def _is_gates(hook: object) -> bool:
    return isinstance(getattr(hook, "__self__", None), Gate)
