"""What one measured training step shows: the rule's gradients as they are made, and backprop's from one run more."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.errors import MonitorError
from feedalign.handle import Handle
from feedalign.linear_like import feature_axis
from feedalign.measure.alignment import weights_of
from feedalign.measure.monitor_forward import Forward, add, random_states_kept
from feedalign.nested import named_tensors
from feedalign.transforms import inside_transform

# Models that run once more for a measurement: no other Monitor is to take that for a forward of the user's.
_RUNNING_AGAIN: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class _Removable(Protocol):
    def remove(self) -> None: ...


@dataclass
class Activity:
    """How many activations at a feedback point were not zero, in all forwards of a step."""

    nonzero: Tensor | int = 0
    above: Tensor | int = 0
    total: int = 0
    alive: Tensor | None = None

    def add(self, activation: Tensor, axis: int) -> None:
        """Count those of one forward; units are on `axis`."""
        fires = activation.detach() != 0
        self.nonzero = self.nonzero + fires.sum()
        self.above = self.above + (activation.detach() > 0).sum()
        self.total += activation.numel()
        others = [other for other in range(fires.dim()) if other != axis % max(fires.dim(), 1)]
        alive = fires.any(dim=others) if others else fires
        self.alive = alive if self.alive is None or self.alive.shape != alive.shape else self.alive | alive


@dataclass
class Gradients:
    """What one kind of backward left.

    Attributes:
        weights: By the parameter's name.
        signals: By the feedback point's name and the number of the forward.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    signals: dict[tuple[str, int], Tensor] = field(default_factory=dict)


class MeasuredStep:
    """Watches one training step of a model, and runs it once more without the rule.

    Args:
        model: The model.
        handle: The handle of the rule attached to it; None: there is none.
        points: The feedback point that teaches each layer, by the layer's name.
    """

    def __init__(self, model: nn.Module, handle: Handle | None, points: Mapping[str, str]) -> None:
        self.model, self.handle = model, handle
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = weights_of(self.parameters)
        self.ruled, self.exact = Gradients(), Gradients()
        self.activity: dict[str, Activity] = {}
        self.forwards: list[Forward] = []
        self.replay_error: float | None = None
        self._axes = _axes(model, points)
        self._running: Forward | None = None
        self._kept = self.ruled
        self._fingerprints: list[float] = []
        self._seen: dict[int, Node] = {}
        self._around = ExitStack()
        try:
            self._watch(points)
        except BaseException:
            self.close()
            raise

    @property
    def errors(self) -> list[Tensor]:
        """The errors that came back, of all forwards."""
        return [error for forward in self.forwards for error in forward.errors.values()]

    def close(self) -> None:
        """Take all hooks away."""
        self._around.close()

    def _watch(self, points: Mapping[str, str]) -> None:
        if "torch._dynamo" in sys.modules:
            # Compiled code does not see hooks that come and go.
            stance: Any = torch.compiler.set_stance("force_eager")
            self._around.enter_context(stance)
        model, modules = self.model, dict(self.model.named_modules())
        self._until_close(model.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True))
        self._until_close(model.register_forward_hook(self._end))
        for module in {label.partition("#")[0] for label in points.values()} & modules.keys():
            # Before the rule's own, which hands the graph on cut.
            hook = _PointHook(self, module, set(points.values()))
            self._until_close(modules[module].register_forward_hook(hook, prepend=True))
        for name in self.weights.values():
            self._until_close(self.parameters[name].register_hook(self._streamed(name)))

    def _until_close(self, hook: _Removable) -> None:
        self._around.callback(hook.remove)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model. A forward within another, as trainers have it, takes its place."""
        if model in _RUNNING_AGAIN or not torch.is_grad_enabled():
            return
        if inside_transform():
            raise MonitorError(
                "The model runs under a transform of torch.func, where no gradient can be looked at; leave the Monitor "
                "out there, or make it with every=0."
            )
        self._running = Forward.begin(model, args, kwargs)

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: object) -> object:
        """Forward hook of the model."""
        del args
        forward = self._running
        if model in _RUNNING_AGAIN or forward is None:
            return output
        self._running = None
        self.forwards.append(forward)
        self._fingerprints = self._fingerprints_now()
        watched = forward.watch(output)
        self._follow(output)
        return watched

    def _follow(self, output: object) -> None:
        """Hook the places where the model's graph hands a gradient to a weight.

        What arrives at the parameter itself would be more than the model's: the loss may use it too, as a penalty does.
        """
        names = {id(self.parameters[name]): name for name in self.weights.values()}
        waiting = _roots(output)
        while waiting:
            node = waiting.pop()
            if id(node) in self._seen:
                continue
            self._seen[id(node)] = node
            into = {}
            for edge, (child, _) in enumerate(node.next_functions):
                name = names.get(id(getattr(child, "variable", None)))
                if name is not None:
                    into[edge] = name
                elif child is not None:
                    waiting.append(child)
            if into:
                self._until_close(node.register_hook(self._arrived(into)))

    def _arrived(self, into: Mapping[int, str]) -> Callable[..., None]:
        kept = self.ruled.weights

        def note(gradients: tuple[Tensor | None, ...], _: object) -> None:
            for edge, name in into.items():
                gradient = gradients[edge]
                if gradient is not None:
                    add(kept, name, gradient)

        return note

    def _streamed(self, name: str) -> Callable[[Tensor], None]:
        """Hook on a weight: gradients made while the forward runs, as streaming does, are of a graph already gone."""

        def note(gradient: Tensor) -> None:
            if self._running is not None and self._kept is self.ruled:
                add(self.ruled.weights, name, gradient)

        return note

    def at_point(self, module: str, labels: set[str], activation: object) -> None:
        """Note an activation at a feedback point, and the gradient that will come to it.

        Args:
            module: The module's name.
            labels: Names of all feedback points.
            activation: What it returned.
        """
        forward = self._running
        if forward is None or not isinstance(activation, Tensor):
            return
        call = forward.calls.get(module, 0) + 1
        forward.calls[module] = call
        label = module if call == 1 else f"{module}#{call}"
        if label not in labels:
            return
        if self._kept is self.ruled:
            self.activity.setdefault(label, Activity()).add(activation, self._axes.get(label, -1))
        if activation.requires_grad:
            place, kept = (label, self._number(forward)), self._kept.signals
            activation.register_hook(lambda gradient: add(kept, place, gradient))

    def _number(self, forward: Forward) -> int:
        return self.forwards.index(forward) if forward in self.forwards else len(self.forwards)

    def replay(self) -> None:
        """Make backprop's gradients: one forward more for each that an error came to, and one backward.

        Raises:
            MonitorError: The weights have changed since the forward, or the model does not do the same again.
        """
        answered = [forward for forward in self.forwards if forward.errors]
        if not answered:
            return
        self._refuse(answered)
        names = list(self.weights.values())
        with self._once_more():
            roots: list[Tensor] = []
            errors: list[Tensor] = []
            self.replay_error = 0.0
            for forward in answered:
                self._running, forward.calls = forward, {}
                found = forward.again(self.model)
                self._running = None
                self.replay_error = max(self.replay_error, forward.replay_error(found))
                taught = [name for name in forward.errors if found[name].requires_grad]
                roots += [found[name] for name in taught]
                errors += [forward.errors[name] for name in taught]
            weights = [self.parameters[name] for name in names]
            made: tuple[Tensor | None, ...] = (None,) * len(names)
            if roots and weights:
                made = torch.autograd.grad(roots, weights, errors, allow_unused=True)
        for name, gradient in zip(names, made, strict=True):
            if gradient is not None:
                add(self.exact.weights, name, gradient)

    @contextmanager
    def _once_more(self) -> Iterator[None]:
        self._kept = self.exact
        _RUNNING_AGAIN.add(self.model)
        mode = nullcontext() if self.handle is None else self.handle.suspended()
        try:
            with random_states_kept(self.model), torch.enable_grad(), mode:
                yield
        finally:
            self._running = None
            _RUNNING_AGAIN.discard(self.model)

    def _fingerprints_now(self) -> list[float]:
        """Norms of the weights. Their versions do not tell: fused optimizers leave them as they are."""
        norms = [torch.linalg.vector_norm(self.parameters[name].detach()) for name in self.weights.values()]
        found: list[float] = torch.stack([norm.double().cpu() for norm in norms]).tolist() if norms else []
        return found

    def _refuse(self, answered: list[Forward]) -> None:
        if any(forward.is_differentiated_twice for forward in answered):
            raise MonitorError(
                "The loss is made of the model's gradients (create_graph=True, as a gradient penalty is), so that it "
                "reaches the weights by ways on which no error comes to the output; leave the Monitor out of this loop."
            )
        now = self._fingerprints_now()
        both = zip(self.weights.values(), self._fingerprints, now, strict=True)
        changed = [name for name, before, after in both if before != after and not math.isnan(before)]
        if changed:
            raise MonitorError(
                f"{', '.join(changed[:3])} changed between the forward and the end of the Monitor's step, so that "
                "backprop's gradient can no longer be made at the same weights: put the forward and loss.backward() "
                "inside the step, and optimizer.step() behind it."
            )


class _PointHook:
    """Forward hook at a feedback point."""

    def __init__(self, step: MeasuredStep, module: str, labels: set[str]) -> None:
        self.step, self.module, self.labels = step, module, labels

    def __call__(self, module: nn.Module, args: tuple[Any, ...], activation: object) -> None:
        del module, args
        self.step.at_point(self.module, self.labels, activation)


def _roots(output: object) -> list[Node]:
    return [tensor.grad_fn for _, tensor in named_tensors(output) if tensor.grad_fn is not None]


def _axes(model: nn.Module, points: Mapping[str, str]) -> dict[str, int]:
    """On which axis of each feedback point's activation the units are."""
    modules = dict(model.named_modules())
    return {
        point: 1 if layer in modules and feature_axis(modules[layer]) == "second" else -1
        for layer, point in points.items()
    }
