"""How far a rule's signals and gradients point away from backprop's, on the same model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from feedalign.blocks import layer_of
from feedalign.errors import AttachError
from feedalign.handle import Handle
from feedalign.measure.attached import attached, points_in
from feedalign.measure.by_layer import ByLayer
from feedalign.probe import Inputs, as_arguments, left_as_found
from feedalign.store import CHILD_NAME


@dataclass(frozen=True)
class LayerAlignment:
    """Angles in degrees between the rule's and backprop's quantities of one layer; nan where one of them is zero.

    Attributes:
        layer: The layer's name.
        point: The feedback point that teaches it; None for layers without one.
        signal: Between teaching signals, at the feedback point's output.
        delta: Between modulatory signals, at the layer's own output: after the activation's slope.
        weight: Between gradients of the weight.
    """

    layer: str
    point: str | None
    signal: float
    delta: float
    weight: float


@dataclass(frozen=True)
class Alignment(ByLayer[LayerAlignment]):
    """Angles of all layers, in the order of the forward."""

    layers: tuple[LayerAlignment, ...]

    def __str__(self) -> str:
        # Parameters of the model's own have no name before theirs.
        names = [row.layer or "(model)" for row in self.layers]
        width = max([5, *map(len, names)])
        lines = [f"{'layer'.ljust(width)}  signal   delta  weight   (degrees to backprop)"]
        lines += [
            f"{name.ljust(width)}  {row.signal:6.1f}  {row.delta:6.1f}  {row.weight:6.1f}"
            for name, row in zip(names, self.layers, strict=True)
        ]
        return "\n".join(lines)


@dataclass
class _Gradients:
    """What one backward left at points, at layers' outputs, and in weights."""

    signals: dict[str, Tensor] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def alignment(model: nn.Module | Handle, loss_fn: Callable[[Any, Any], Tensor], batch: tuple[Inputs, Any]) -> Alignment:
    """Measure the angles between an attached rule and backprop on one batch.

    The same model runs twice from the same random state, once with the rule suspended. Parameters' `.grad`, random
    states and buffers are left as they were. Angles are between whole flattened tensors. A streaming rule is measured
    as it learns from the error.

    Args:
        model: A model with a rule attached to it or to a part of it, or its handle.
        loss_fn: `loss_fn(model(inputs), targets)`, a scalar.
        batch: Inputs, as for `attach(example_inputs=...)`, and targets.

    Returns:
        The angles, layer by layer.

    Raises:
        AttachError: No rule is attached or it was removed, or the batch is no pair of inputs and targets.
        WrappedModelError: The model is sharded.

    Source: the angle of gradients, Bacho & Chu 2024, Fig. 8; of modulatory signals, Frenkel et al. 2021, Fig. 2;
    of teaching signals, Launay et al. 2020, appendix A.
    """
    model, handle = attached(model)
    pair: object = batch
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not callable(loss_fn):
        raise AttachError(
            "Give alignment(model, loss_fn, (inputs, targets)), where loss_fn(output, targets) is a scalar."
        )
    ruled = _gradients(model, handle, loss_fn, batch, with_rule=True)
    exact = _gradients(model, handle, loss_fn, batch, with_rule=False)
    layers, points = [], points_in(model, handle)
    for layer, weight in exact.weights.items():
        point = points.get(layer)
        layers.append(
            LayerAlignment(
                layer,
                point,
                angle(ruled.signals.get(point or ""), exact.signals.get(point or "")),
                angle(ruled.deltas.get(layer), exact.deltas.get(layer)),
                angle(ruled.weights.get(layer), weight),
            )
        )
    return Alignment(tuple(layers))


def angle(one: Tensor | None, other: Tensor | None) -> float:
    """Return the angle between two tensors, flattened, in degrees from 0 to 180.

    Args:
        one: A tensor, or None for zero.
        other: One of the same shape, or None for zero.

    Returns:
        The angle; nan where either is zero. From the difference of unit vectors, exact also at 0 degrees.
    """
    if one is None or other is None:
        return math.nan
    first, second = one.flatten().double(), other.flatten().double()
    if not bool(first.any()) or not bool(second.any()):
        return math.nan
    # Squares of very small and very large numbers are zero and infinite.
    first, second = first / first.abs().max(), second / second.abs().max()
    first, second = first / first.norm(), second / second.norm()
    return math.degrees(2 * math.atan2(float((first - second).norm()), float((first + second).norm())))


def as_scalar(loss: object) -> Tensor:
    """Return a loss if it is a scalar tensor.

    Args:
        loss: What a loss function returned.

    Returns:
        The loss.

    Raises:
        AttachError: It is something else.
    """
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise AttachError(f"The loss function returned {found}; it is to return a scalar tensor with its graph.")
    return loss


def weight_gradients(
    model: nn.Module, handle: Handle, loss_fn: Callable[[Any, Any], Tensor], batch: tuple[Inputs, Any]
) -> dict[str, Tensor]:
    """Return backprop's gradient of each layer's weight on one batch; the model is left as it was.

    Args:
        model: The attached model.
        handle: Its handle.
        loss_fn: `loss_fn(model(inputs), targets)`, a scalar.
        batch: Inputs and targets.

    Returns:
        Gradients by layer.
    """
    return _gradients(model, handle, loss_fn, batch, with_rule=False).weights


def _gradients(
    model: nn.Module,
    handle: Handle,
    loss_fn: Callable[[Any, Any], Tensor],
    batch: tuple[Inputs, Any],
    with_rule: bool,
) -> _Gradients:
    inputs, targets = batch
    args, kwargs = as_arguments(inputs)
    found = _Gradients()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights = weights_of(parameters)
    points = set(points_in(model, handle).values())
    hooks = _tensor_hooks(model, found, points, list(weights))
    try:
        mode = handle.from_error() if with_rule else handle.suspended()
        with left_as_found(model), torch.enable_grad(), mode:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            loss = as_scalar(loss_fn(functional_call(model, buffers, args, dict(kwargs)), targets))
            # Typed as if no gradient were ever missing; a frozen or shallow layer has None.
            grads: tuple[Tensor | None, ...] = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    by_name = dict(zip(parameters, grads, strict=True))
    for layer, name in weights.items():
        grad = by_name[name]
        found.weights[layer] = grad if grad is not None else torch.zeros_like(parameters[name])
    return found


def weights_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Return the name of each layer's weight, its largest parameter if that is a matrix, by the layer's name.

    Args:
        parameters: By name; feedback that the rule learns belongs to no layer.

    Returns:
        Names of parameters by layer.
    """
    largest: dict[str, str] = {}
    for name, parameter in parameters.items():
        layer = layer_of(name)
        if layer.rpartition(".")[2] == CHILD_NAME:
            continue
        if parameter.dim() > 1 and (layer not in largest or parameter.numel() > parameters[largest[layer]].numel()):
            largest[layer] = name
    return largest


def _tensor_hooks(model: nn.Module, found: _Gradients, points: set[str], layers: list[str]) -> list[Any]:
    """Forward hooks that run before the rule's own and ask each activation for its gradient."""
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    hooks = []
    for wanted, kept in ((points, found.signals), (set(layers), found.deltas)):
        for label in wanted:
            name, _, call = label.partition("#")
            keeper = _Keeper(kept, label, int(call or 1))
            hooks.append(modules[name].register_forward_hook(keeper, prepend=True))
    return hooks


class _Keeper:
    """Forward hook that keeps the gradient at one call of a module."""

    def __init__(self, kept: dict[str, Tensor], label: str, call: int) -> None:
        self.kept, self.label, self.call, self.calls = kept, label, call, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        del module, args
        self.calls += 1
        if self.calls == self.call and isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._keep)

    def _keep(self, grad: Tensor) -> None:
        self.kept[self.label] = grad.detach()
