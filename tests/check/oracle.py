"""What teaches each layer, found by training steps alone: no part of the library's reading of the graph is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from check.case import Case

Gradients = dict[str, dict[str, Tensor]]


def attached(case: Case, **options: Any) -> tuple[nn.Module, fa.Handle]:
    """The model with its rule attached."""
    model = case.model()
    return model, fa.attach(model, case.rule, example_inputs=case.batch(), **{**case.options, **options})


def step(case: Case, model: nn.Module) -> Gradients:
    """Gradients of one step under a random error, by layer; dropout is the same at every step."""
    model.zero_grad(set_to_none=True)
    inputs = case.batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        returned = model(**inputs) if isinstance(inputs, dict) else model(*_as_tuple(inputs))
        output = case.error_at(returned)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(3)))
    gradients: Gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("feedalign."):
            own = gradients.setdefault(_layer_of(name), {})
            own[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    return gradients


def _layer_of(parameter: str) -> str:
    """The module that a parameter belongs to; what a parametrization holds is that of the module around it."""
    module = parameter.partition(".parametrizations.")[0]
    return (parameter.rpartition(".")[0] if module == parameter else module) or "(model)"


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def moved(gradients: Gradients) -> set[str]:
    """Layers that have a gradient other than zero."""
    return {layer for layer, own in gradients.items() if any(bool(grad.any()) for grad in own.values())}


def differing(one: Gradients, other: Gradients) -> set[str]:
    """Layers whose gradients are not the same."""
    return {layer for layer, own in one.items() if any(not torch.equal(own[n], other[layer][n]) for n in own)}


def only(handle: fa.Handle, point: str | None) -> Mapping[str, Tensor]:
    """The feedback of a handle with zeros in the place of all matrices but one."""
    points = [row.point for row in handle.describe().rows if row.point not in {"output", "-"}]
    kept = {name: handle.feedback_at(name) for name in dict.fromkeys(points)}
    return {name: held if name == point else torch.zeros_like(held) for name, held in kept.items() if held is not None}


def products_of(model: nn.Module) -> set[str]:
    """Modules with a matrix of weights; norms have weights too, but no matrix that a signal would pass."""
    found = set()
    for name, module in model.named_modules():
        is_parametrized = nn.utils.parametrize.is_parametrized(module)
        if name and (is_parametrized or any(p.dim() > 1 for p in module.parameters(recurse=False))):
            found.add(name)
    return {name for name in found if not name.startswith("feedalign") and ".parametrizations" not in name}


@contextmanager
def cut_at(model: nn.Module, layers: set[str] | tuple[str, ...]) -> Iterator[None]:
    """Within it, no gradient leaves these layers at their inputs; all values are as ever."""
    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_pre_hook(_detach, with_kwargs=True) for name in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _detach(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(map(_without_graph, args)), {name: _without_graph(value) for name, value in kwargs.items()}


def _without_graph(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value._replace(data=value.data.detach())
    if isinstance(value, (tuple, list)):
        return type(value)(map(_without_graph, value))
    return value
