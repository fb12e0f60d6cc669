"""Letting the recurrent modules of a model run step by step, where a rule is to teach them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from feedalign.errors import NoFeedbackPointError, UnsuitableModelError
from feedalign.points import Points, select
from feedalign.recurrent.point import layer_name
from feedalign.recurrent.stepwise import StepwiseForward
from feedalign.recurrent.support import cell_of
from feedalign.rules.base import PointRule, Rule, rule_for
from feedalign.rules.control import Shallow


@contextmanager
def stepwise(model: nn.Module, rules: Mapping[str, Rule], points: Points | None) -> Iterator[list[StepwiseForward]]:
    """Give recurrent modules that a rule cuts at a feedback point for each layer; take it back if anything fails.

    Args:
        model: The model.
        rules: Globs to rules.
        points: As given to `attach`.

    Yields:
        The forwards that were set.

    Raises:
        UnsuitableModelError: A module that is to be taught cannot be taught step by step.
        NoFeedbackPointError: A name, a type or the predicate selects no module.
    """
    installed: list[StepwiseForward] = []
    try:
        for name, module in list(model.named_modules()):
            is_taught = isinstance(module, nn.RNNBase) and _is_cut(name, module, rules)
            if is_taught and _is_supported(model, name, module, points):
                installed.append(StepwiseForward(module, name))
        if points is not None:
            chosen = set(select(model, points))
            for forward in list(installed):
                if not chosen.intersection(forward.points):
                    installed.remove(forward)
                    forward.remove()
        yield installed
    except BaseException:
        for forward in installed:
            forward.remove()
        raise


def _is_cut(name: str, module: nn.RNNBase, rules: Mapping[str, Rule]) -> bool:
    """Whether a rule cuts at any layer; a module without a rule is refused later, by name."""
    layers = [layer_name(name, layer) for layer in range(module.num_layers)]
    found = [rule_for([layer, name], rules) for layer in layers]
    return any(rule is None or isinstance(rule, (PointRule, Shallow)) for rule in found)


def _is_supported(model: nn.Module, name: str, module: nn.RNNBase, points: Points | None) -> bool:
    """Whether a module has a cell; one that is asked for by name, or by default, must."""
    if points is None:
        cell_of(module, name)
        return True
    try:
        cell_of(module, name)
    except UnsuitableModelError:
        with contextlib.suppress(NoFeedbackPointError):
            if name in select(model, points):
                raise
        return False
    return True
