"""The rules by hand on any model: plain autograd on a plain model, cut and rerouted with `detach()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.rules import LayerwiseRule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule
from integration.gradients import Gradients, cross_entropy
from integration.steps_by_hand import POINT, StepsByHand, sum_of_later


def gradients_by_hand(
    model: nn.Module,
    rule: fa.Rule,
    feedback: Mapping[str, Tensor] | Sequence[Tensor],
    x: Any,
    y: Tensor,
    points: Sequence[str],
    drawn: Sequence[Tensor] = (),
) -> Gradients:
    """Gradients of a mean cross-entropy, those of learned feedback by number.

    Args:
        model: A plain model.
        rule: The rule.
        feedback: By name in the store, in the order in which points fire: matrices `[C, D]`, or heads and their biases;
            for layer-wise rules in the model's order of layers `[out, in, ...]`.
        x: Inputs.
        y: Class indices.
        points: Names of the modules whose every call is a feedback point.
        drawn: Perturbations `[K, ...]`: of parameters in the model's order, or of activations as points fire.
    """
    if isinstance(rule, LayerwiseRule):
        with layers_fed_back(model, layerwise_weights(model, rule, list(feedback))):
            return _backprop(model, x, y)
    if isinstance(rule, fa.Backprop):
        return _backprop(model, x, y)
    if isinstance(rule, WeightRule):
        return _with_vectors_of_their_own(model, rule, x, y, drawn)
    assert isinstance(feedback, Mapping)
    with torch.random.fork_rng(), activations(model, points, cut=False) as whole:
        tangent_of = model(x)
    with activations(model, points, cut=True) as taps:
        output = model(x)
    perturbed = [name for name in taps if not (isinstance(rule, fa.LocalGreedy) and name in feedback)]
    moved = {name: (whole[name], u) for name, u in zip(taps, drawn, strict=False) if name in perturbed}
    tangents = tangents_by_hand(tangent_of, list(moved.values())) if drawn else []
    logits = output.detach().clone().requires_grad_()
    (error,) = torch.autograd.grad(cross_entropy(logits, y), logits)
    targets = F.one_hot(y, error.shape[-1]).to(error.dtype)
    passed = Passed(taps, error, targets, feedback, drawn, tangents)
    roots, signals = ([output], [error]) if output.requires_grad else ([], [])
    if not isinstance(rule, fa.Shallow):
        roots, signals = [*roots, *taps.values()], signals + signals_by_hand(rule, passed)
    found = _named(model, torch.autograd.grad(roots, _trainable(model), signals, allow_unused=True))
    return found | {f"feedback {i}": gradient for i, gradient in enumerate(learned_by_hand(rule, passed))}


@dataclass(frozen=True)
class Passed:
    """One forward and its error: activations by name, targets as rows, and what was held and drawn."""

    taps: Mapping[str, Tensor]
    error: Tensor
    targets: Tensor
    feedback: Mapping[str, Tensor]
    drawn: Sequence[Tensor]
    tangents: Sequence[Tensor]

    def head(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of the head at a point."""
        return self.feedback[name], self.feedback[f"{name}_bias"]


def signals_by_hand(rule: fa.Rule, passed: Passed) -> list[Tensor]:
    """Teaching signals in the order of the activations."""
    if not isinstance(rule, SlopeRule):
        vector = broadcast_by_hand(rule, passed.error, passed.targets)
        pairs = zip(passed.feedback.values(), passed.taps.items(), strict=True)
        return [delivered(_heard(vector, name) @ feedback, tap) for feedback, (name, tap) in pairs]
    signals = []
    for (name, tap), u in zip(passed.taps.items(), passed.drawn, strict=True):
        error, tangents = passed.error, passed.tangents
        if name in passed.feedback:
            weight, _ = head = passed.head(name)
            error, tangents = local_error(head, tap, passed.targets), [features(d, error) @ weight.T for d in u]
        parts = [per_sample((error * t).flatten(1).sum(1), d) for t, d in zip(tangents, u, strict=True)]
        signals.append(torch.stack(parts).mean(0))
    return signals


def _heard(vector: Tensor, name: str) -> Tensor:
    """A state of a recurrent layer hears of the errors of its own and all later steps."""
    return sum_of_later(vector) if name.endswith(POINT) else vector


def learned_by_hand(rule: fa.Rule, passed: Passed) -> list[Tensor]:
    """Gradients of learned feedback: matrices, or each head's weight and bias."""
    error = passed.error
    if isinstance(rule, fa.DKP):
        return [_rows(error).T @ _rows(features(tap.detach(), error, summed=True)) for tap in passed.taps.values()]
    if isinstance(rule, fa.FDFA):
        pairs = zip(passed.feedback.values(), passed.drawn, strict=True)
        return [feedback - jacobian_by_hand(passed.tangents, u, error) for feedback, u in pairs]
    learned: list[Tensor] = []
    for name in [name for name in passed.taps if name in passed.feedback and isinstance(rule, fa.LocalGreedy)]:
        delta = _rows(local_error(passed.head(name), passed.taps[name], passed.targets))
        learned += [delta.T @ _rows(features(passed.taps[name].detach(), error)), delta.sum(0)]
    return learned


def tangents_by_hand(output: Tensor, moved: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Tangents of an output for each of K perturbations `[K, ...]` of several activations at once.

    By differentiating gradients, never by forward-mode derivatives.
    """
    weights = torch.zeros_like(output, requires_grad=True)
    back = torch.autograd.grad(output, [tap for tap, _ in moved], weights, create_graph=True, allow_unused=True)
    pairs = [(g, u) for g, (_, u) in zip(back, moved, strict=True) if g is not None]
    slopes = [sum((g * u[k]).sum() for g, u in pairs) for k in range(len(moved[0][1]))]
    return [torch.autograd.grad(slope, weights, retain_graph=True)[0] for slope in slopes]


def per_sample(factors: Tensor, tensor: Tensor) -> Tensor:
    """Multiply each sample with its factor."""
    return factors.reshape(-1, *[1] * (tensor.dim() - 1)) * tensor


def local_error(head: tuple[Tensor, Tensor], tap: Tensor, targets: Tensor) -> Tensor:
    """Error of a head under the mean cross-entropy."""
    local = features(tap.detach(), targets) @ head[0].T + head[1]
    return (local.softmax(-1) - targets) / targets[..., 0].numel()


def jacobian_by_hand(tangents: Sequence[Tensor], drawn: Tensor, error: Tensor) -> Tensor:
    """Mean over perturbations, samples and positions of tangent times perturbation, `[C, D]`."""
    terms = [_rows(t).T @ _rows(features(u, error)) / len(_rows(t)) for t, u in zip(tangents, drawn, strict=True)]
    return torch.stack(terms).mean(0)


def features(tensor: Tensor, error: Tensor, summed: bool = False) -> Tensor:
    """What a matrix meets of an activation: all entries of an image; under an error without positions their mean."""
    if tensor.dim() == 4:
        return tensor.flatten(1)
    if tensor.dim() > error.dim():
        return tensor.sum(1) if summed else tensor.mean(1)
    return tensor


def _rows(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, -2)


def _with_vectors_of_their_own(
    model: nn.Module, rule: WeightRule, x: Any, y: Tensor, drawn: Sequence[Tensor]
) -> Gradients:
    """Exact gradients and noise; or the slope along the directions, times these."""
    exact = _backprop(model, x, y)
    reached = [name for name, gradient in exact.items() if gradient is not None]
    directions = dict(zip(reached, drawn, strict=True))
    if isinstance(rule, fa.NoisyBackprop):
        noise = {name: rule.std * d[0] for name, d in directions.items()}
        return {name: None if g is None else g + noise[name] for name, g in exact.items()}
    slopes = sum((d * exact[n]).flatten(1).sum(1) for n, d in directions.items())
    moved = {name: per_sample(slopes, d).mean(0) for name, d in directions.items()}
    return {name: moved.get(name) for name in exact}


def broadcast_by_hand(rule: fa.Rule, error: Tensor, targets: Tensor) -> Tensor:
    """What is projected, for a mean cross-entropy and targets `[..., C]`."""
    num_targets = targets[..., 0].numel()
    if isinstance(rule, fa.SignDFA):
        return error.sign() / num_targets
    return -targets / num_targets if isinstance(rule, fa.DRTP) else error


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
    found: list[Tensor] = []
    with activations(model, points, cut=True, found=found):
        yield found


@contextmanager
def activations(
    model: nn.Module, points: Sequence[str], *, cut: bool, found: list[Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect the activations with a graph at each call of the points, by their names in the store."""
    taps: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    names = {model.get_submodule(point): point for point in points}
    for module in model.modules():
        if isinstance(module, StepsByHand):
            module.through_time = not cut

    def note(module: nn.Module, args: Any, activation: Tensor) -> Tensor | None:
        point = names[module]
        if not cut:
            # A place of its own in the graph: a module that returns its input as it is has none.
            activation = activation.clone()
        counts[point] = counts.get(point, 0) + 1
        if activation.requires_grad:
            key = point.replace(".", "_")
            taps[key if counts[point] == 1 else f"{key}__{counts[point]}"] = activation
            if found is not None:
                found.append(activation)
        # A copy: what follows may change it in place.
        return activation.detach().clone() if cut else activation.clone()

    hooks = [module.register_forward_hook(note) for module in names]
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
