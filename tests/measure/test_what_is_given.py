"""Every measurement takes the attached model, a module around it or the handle, and says what it cannot take."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.errors import AttachError, FeedbackShapeError, WrappedModelError

X, LABELS = torch.arange(24.0).reshape(6, 4) / 24, torch.arange(6) % 3
MEASUREMENTS: dict[str, Callable[[Any], Any]] = {
    "alignment": lambda given: fa.measure.alignment(given, F.cross_entropy, (X, LABELS)),
    "bias": lambda given: fa.measure.bias(given, F.cross_entropy, (X, LABELS), num_draws=2),
    "variance": lambda given: fa.measure.variance(given, F.cross_entropy, (X, LABELS), num_draws=2),
    "feedback_distance": fa.measure.feedback_distance,
    "cost": lambda given: fa.measure.cost(given, X),
    "monitor": lambda given: monitored(fa.measure.Monitor(given)),
}


def monitored(monitor: fa.measure.Monitor) -> fa.measure.MonitorRecord | None:
    with monitor.step():
        F.cross_entropy(monitor.model(X), LABELS).backward()
    return monitor.last


class Around(nn.Module):
    """What a trainer or a wrapper puts around a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def attached() -> fa.Handle:
    return fa.attach(network(), fa.DFA(), example_inputs=X)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_handle_its_model_and_a_module_around_it_measure_the_same(name: str) -> None:
    handle, measure = attached(), MEASUREMENTS[name]
    expected = str(measure(handle.model))
    assert str(measure(handle)) == expected
    # Layers have their names in what was given; columns are as wide as these.
    around = str(measure(Around(handle.model)))
    assert around.replace("net.", "").split() == expected.split()


def test_points_of_a_module_around_are_named_in_it() -> None:
    row = fa.measure.alignment(Around(attached().model), F.cross_entropy, (X, LABELS))["net.0"]
    assert row.point == "net.1"
    assert 0 < row.signal < 180


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_data_parallel_is_refused_as_in_training(name: str) -> None:
    with pytest.raises(WrappedModelError, match=r"DataParallel.*model\.module"):
        MEASUREMENTS[name](nn.DataParallel(attached().model))


class Both(nn.Module):
    """Two networks, each with a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = network(), network()
        fa.attach(self.a, fa.DFA(), example_inputs=X)
        fa.attach(self.b, fa.FA(), example_inputs=X)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_module_that_holds_several_attached_models_is_refused(name: str) -> None:
    """With one rule set aside the other would still act, and be taken for backprop."""
    both = Both()
    with pytest.raises(AttachError, match=r"Both holds 2 attached models, 'a', 'b'.*each on its own"):
        MEASUREMENTS[name](both)
    assert MEASUREMENTS[name](both.a)


@pytest.mark.parametrize("rule", [fa.FA(), fa.Backprop(), fa.WeightPerturbed()], ids=lambda rule: rule.name)
def test_a_rule_without_feedback_points_has_no_feedback_distance(rule: fa.Rule) -> None:
    handle = fa.attach(network(), rule, example_inputs=X)
    with pytest.raises(FeedbackShapeError, match=rf"fa\.{type(rule).__name__} has no feedback points"):
        fa.measure.feedback_distance(handle)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_what_is_no_attached_model_is_refused(name: str) -> None:
    handle, measure = attached(), MEASUREMENTS[name]
    with pytest.raises(AttachError, match=r"given int for its model.*or the handle"):
        measure(3)
    handle.remove()
    with pytest.raises(AttachError, match="rule of this handle was removed"):
        measure(handle)
    fa.attach(handle.model, fa.FA(), example_inputs=X)
    with pytest.raises(AttachError, match="rule of this handle was removed"):
        measure(handle)
    fa.handle_of(handle.model).remove()
    if name != "cost":
        with pytest.raises(AttachError, match="No rule is attached"):
            measure(handle.model)


@pytest.mark.parametrize(
    "rule", [fa.FA(), fa.WeightPerturbed(), fa.FDFA(limits=fa.Limits(delay=1))], ids=lambda rule: rule.name
)
def test_costs_of_a_module_around_are_those_of_what_is_inside(rule: fa.Rule) -> None:
    with fa.attach(network(), rule, example_inputs=X) as handle:
        inside, outside = fa.measure.cost(handle, X), fa.measure.cost(Around(handle.model), X)
    assert [replace(row, layer=row.layer.removeprefix("net.")) for row in outside.layers] == list(inside.layers)
