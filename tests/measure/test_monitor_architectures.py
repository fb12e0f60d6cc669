"""A Monitor on random architectures under any rule: no bit of the step changes, and the norms are those of `.grad`."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn

import feedalign as fa
from feedalign.measure import Monitor
from feedalign.measure.alignment import weights_of
from integration.gradients import step
from integration.random_models import Architecture, RandomModel, architectures, data_for
from integration.random_properties import RULES, attached, same_dropout


@settings(max_examples=30)
@given(architecture=architectures(), rule=st.sampled_from(RULES))
def test_any_architecture_under_any_rule(architecture: Architecture, rule: fa.Rule) -> None:
    x, y = data_for(architecture)
    watched, alone = RandomModel(architecture), RandomModel(architecture)
    plain = copy.deepcopy(alone)
    try:
        attached(alone, rule, x)
        same_dropout(lambda: step(alone, x, y))
    except fa.errors.FeedalignError:
        reject()
    monitor = Monitor(attached(watched, rule, x), every=1)

    def watched_step() -> None:
        with monitor.step():
            step(watched, x, y)

    same_dropout(watched_step)
    same_dropout(lambda: step(plain, x, y))
    for name, value in watched.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
    for parameter, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None)
        assert parameter.grad is None or other.grad is None or torch.equal(parameter.grad, other.grad)
    record = monitor.last
    assert record is not None
    assert record.replay_error is None or record.replay_error < 1e-12
    ruled, exact = (norms(model) for model in (alone, plain))
    for row in record.layers:
        assert row.norm == pytest.approx(ruled[row.layer], rel=1e-7, abs=1e-12)
        assert row.norm_backprop == pytest.approx(exact[row.layer], rel=1e-7, abs=1e-12)


def norms(model: nn.Module) -> dict[str, float]:
    """Of the gradients of each layer's weight."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = {layer: parameters[name].grad for layer, name in weights_of(parameters).items()}
    return {layer: 0.0 if grad is None else float(grad.double().norm()) for layer, grad in gradients.items()}
