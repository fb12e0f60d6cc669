"""Everything of a model that attaching and removing a rule must leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_HOOK_TABLES = [name for name in vars(nn.Module()) if name.endswith(("_hooks", "_with_kwargs", "_always_called"))]


@dataclass(frozen=True)
class ModelState:
    """A snapshot; tensors are cloned, objects named by their identity."""

    keys: list[str]
    modules: dict[str, int]
    parameters: dict[str, int]
    hooks: dict[tuple[str, str], tuple[int, ...]]
    training: dict[str, bool]
    requires_grad: dict[str, bool]
    values: dict[str, Tensor]
    grads: dict[str, Tensor | None]
    random: Tensor


def state_of(model: nn.Module) -> ModelState:
    """Take a snapshot of a model and of the global random state."""
    modules = dict(model.named_modules())
    return ModelState(
        keys=list(model.state_dict()),
        modules={name: id(module) for name, module in modules.items()},
        parameters={name: id(parameter) for name, parameter in model.named_parameters()},
        hooks={(n, t): tuple(getattr(m, t)) for n, m in modules.items() for t in _HOOK_TABLES if getattr(m, t)},
        training={name: module.training for name, module in modules.items()},
        requires_grad={name: parameter.requires_grad for name, parameter in model.named_parameters()},
        values={name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)},
        grads={n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        random=torch.get_rng_state(),
    )


def assert_same_state(found: ModelState, expected: ModelState) -> None:
    """Compare two snapshots, each part under its own name."""
    for part in ("keys", "modules", "parameters", "hooks", "training", "requires_grad"):
        assert getattr(found, part) == getattr(expected, part), part
    for part in ("values", "grads"):
        assert_same_tensors(getattr(found, part), getattr(expected, part))
    assert torch.equal(found.random, expected.random), "the global random state moved"


def assert_same_tensors(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare tensors (or None) by name, bit by bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = found[name] is None if value is None else torch.equal(found[name], value)
        assert same, name


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Assert that what runs inside leaves the model and the random state as they were."""
    before = state_of(model)
    yield
    assert_same_state(state_of(model), before)
