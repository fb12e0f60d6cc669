"""The numbers of a Monitor: those of plain backward passes, and telling where a rule is silently off."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from attach.models import (
    Convolutional,
    FunctionalActivations,
    OneNumber,
    Perceptron,
    Regularised,
    ReturnsDict,
    ReturnsTuple,
    Seeded,
    SharedActivation,
    SharedLinear,
    batch,
    images,
)
from feedalign.measure import Monitor, MonitorRecord

x, y = batch(8, dtype=torch.float64)

Loss = Callable[[nn.Module], Tensor]


def cross_entropy(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(x), y)


def pair(make: Callable[[], nn.Module], rule: fa.Rule, inputs: Any = x, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A model with the rule, and the same one without."""
    model = make().double()
    plain = copy.deepcopy(model)
    fa.attach(model, rule, example_inputs=inputs, **options)
    return model, plain


def observe(model: nn.Module, loss_of: Loss = cross_entropy, **options: Any) -> MonitorRecord:
    """One monitored step; the gradients stay in `.grad`."""
    monitor = Monitor(model, every=1, **options)
    with monitor.step():
        loss_of(model).backward()
    assert monitor.last is not None
    return monitor.last


def degrees(one: Tensor, other: Tensor) -> float:
    cosine = float((one * other).sum() / (one.norm() * other.norm()))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def assert_gradients(record: MonitorRecord, model: nn.Module, plain: nn.Module, loss_of: Loss = cross_entropy) -> None:
    """The record is that of the `.grad` of the model, and of what backprop leaves in the plain one."""
    loss_of(plain).backward()
    for row in record.layers:
        ruled, exact = (one.get_submodule(row.layer).weight.grad for one in (model, plain))
        assert row.norm == pytest.approx(float(ruled.norm()), rel=1e-9)
        assert row.norm_backprop == pytest.approx(float(exact.norm()), rel=1e-9)
        assert row.ratio == pytest.approx(float(ruled.norm() / exact.norm()), rel=1e-9)
        assert row.angle == row.angle_ewma == pytest.approx(degrees(ruled, exact), abs=1e-5)
    assert record.replay_error == 0
    assert any(row.angle > 5 for row in record.layers if row.angle is not None), "backprop's gradients all over"


RULES = [fa.DFA(), fa.FA(), fa.DRTP(), fa.SignDFA(), fa.BRSF(), fa.LocalGreedy(), fa.ActivityPerturbed()]


@pytest.mark.parametrize("rule", [*RULES, fa.WeightPerturbed(), fa.NoisyBackprop()], ids=lambda rule: rule.name)
def test_gradients_are_those_of_plain_backward_passes(rule: fa.Rule) -> None:
    model, plain = pair(Perceptron, rule)
    assert_gradients(observe(model), model, plain)


@pytest.mark.parametrize("make", [SharedLinear, SharedActivation, FunctionalActivations])
def test_so_are_those_of_modules_used_twice_and_of_points_set_by_hand(make: Callable[[], nn.Module]) -> None:
    model, plain = pair(make, fa.DFA())
    assert_gradients(observe(model), model, plain)


def test_so_are_those_of_convolutions_whose_units_are_channels() -> None:
    inputs, labels = (tensor.double() if tensor.is_floating_point() else tensor for tensor in images())
    model, plain = pair(Convolutional, fa.DFA(), inputs)

    def loss_of(one: nn.Module) -> Tensor:
        return F.cross_entropy(one(inputs), labels)

    record = observe(model, loss_of)
    assert_gradients(record, model, plain, loss_of)
    assert [row.units for row in record.layers] == [4, 3, 8, None]


def test_signals_are_the_projected_error_and_backprops_gradient() -> None:
    model, plain = pair(Perceptron, fa.DFA())
    record = observe(model)
    hidden = plain.act1(plain.fc1(x)).detach().requires_grad_()
    output = plain.head(plain.act2(plain.fc2(hidden)))
    output.retain_grad()
    F.cross_entropy(output, y).backward()
    assert output.grad is not None
    assert hidden.grad is not None
    signal = output.grad @ fa.handle_of(model).store.feedback("act1")
    row = record["fc1"]
    assert row.point == "act1"
    assert row.signal_norm == pytest.approx(float(signal.norm()))
    assert row.signal_norm_backprop == pytest.approx(float(hidden.grad.norm()))
    assert row.signal_angle == pytest.approx(degrees(signal, hidden.grad), abs=1e-5)
    assert record.error_norm == pytest.approx(float(output.grad.norm()))
    assert record["head"].signal_norm is None
    found = fa.measure.feedback_distance(model)
    assert record.feedback is not None
    assert (record.feedback.relative, record.feedback.angle) == (found.relative, found.angle)


class Known(Seeded):
    """Six inputs pass four rectifiers of signs +, -, 0, +."""

    def build(self) -> None:
        self.fc, self.act, self.head = nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
        self.fc.weight.data.copy_(torch.diag(torch.tensor([1.0, -1.0, 0.0, 2.0]))[:, [0, 1, 2, 3, 0]] * 1.0)
        self.fc.weight.data[:, 4] = 0
        self.fc.bias.data.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.act(self.fc(inputs)))


def test_densities_and_dead_units_are_counted() -> None:
    model = Known().double()
    inputs = torch.ones(6, 5, dtype=torch.float64)
    inputs[:2, 0] = -1.0
    fa.attach(model, fa.DFA(), example_inputs=inputs)
    record = observe(model, lambda one: F.cross_entropy(one(inputs), torch.zeros(6, dtype=torch.long)))
    row = record["fc"]
    assert (row.density, row.above_zero, row.dead, row.units) == (10 / 24, 10 / 24, 2, 4)
    tanh, _ = pair(Perceptron, fa.DFA())
    other = observe(tanh)["fc1"]
    shares = torch.tanh(tanh.fc1(x))
    assert (other.density, other.dead, other.units) == (1.0, 0, 7)
    assert other.above_zero == pytest.approx(float((shares > 0).double().mean()))


def test_moving_averages_are_those_of_the_angles() -> None:
    model, _ = pair(Perceptron, fa.DFA())
    monitor, optimizer = Monitor(model, every=1), torch.optim.SGD(model.parameters(), lr=0.5)
    average = None
    for _ in range(4):
        optimizer.zero_grad()
        with monitor.step():
            cross_entropy(model).backward()
        optimizer.step()
        assert monitor.last is not None
        row = monitor.last["fc1"]
        assert row.angle is not None
        average = row.angle if average is None else 0.95 * average + 0.05 * row.angle
        assert row.angle_ewma == pytest.approx(average)


def test_dropout_and_batch_statistics_are_the_same_for_both_gradients() -> None:
    model, _ = pair(Regularised, fa.Backprop())
    record = observe(model)
    assert all(row.angle == 0 and row.ratio == 1 and row.signal_angle in {0, None} for row in record.layers)
    assert record.replay_error == 0


def test_a_penalty_on_the_weights_is_no_part_of_the_rules_gradient() -> None:
    record, penalised = (observe(pair(Perceptron, fa.DFA())[0], loss_of) for loss_of in (cross_entropy, with_penalty))
    assert [row.angle for row in penalised.layers] == pytest.approx([row.angle for row in record.layers])
    assert [row.norm for row in penalised.layers] == pytest.approx([row.norm for row in record.layers])


def with_penalty(model: nn.Module) -> Tensor:
    return cross_entropy(model) + 10 * sum(p.pow(2).sum() for p in model.parameters())


def twice_used(model: nn.Module) -> Tensor:
    returned = model(inputs=x, labels=y)
    return returned["loss"] + returned["logits"].pow(2).mean()


def test_an_error_that_comes_by_two_ways_is_counted_once() -> None:
    """The loss made inside the forward, and the logits that it is made of, both in the user's loss."""
    model, plain = pair(ReturnsDict, fa.DFA(), {"inputs": x, "labels": y}, output="head")
    assert_gradients(observe(model, twice_used), model, plain, twice_used)


def test_a_tuple_and_a_squeezed_output_are_followed() -> None:
    model, plain = pair(ReturnsTuple, fa.DFA(), output="head")

    def first(one: nn.Module) -> Tensor:
        return F.cross_entropy(one(x)[0], y)

    assert_gradients(observe(model, first), model, plain, first)
    model, plain = pair(OneNumber, fa.DFA())

    def squared(one: nn.Module) -> Tensor:
        return one(x).pow(2).mean()

    assert_gradients(observe(model, squared), model, plain, squared)


class Recomputed(Perceptron):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = checkpoint(lambda h: self.act1(self.fc1(h)), inputs, use_reentrant=False)
        return self.head(self.act2(self.fc2(hidden)))


def test_recomputed_activations_are_counted_once() -> None:
    model, plain = pair(Recomputed, fa.DFA())
    record = observe(model)
    assert_gradients(record, model, plain)
    assert record["fc1"].density == 1.0


def test_a_streaming_rule_is_measured_as_it_streams() -> None:
    learning, _ = pair(Perceptron, fa.DRTP())
    streaming, plain = pair(Perceptron, fa.DRTP())
    fa.handle_of(streaming).targets(y)
    record, expected = observe(streaming), observe(learning)
    assert_gradients(record, streaming, plain)
    for row, wanted in zip(record.layers, expected.layers, strict=True):
        assert (row.angle, row.signal_norm) == (pytest.approx(wanted.angle), pytest.approx(wanted.signal_norm))


class Unrolled(Seeded):
    def build(self) -> None:
        self.rnn, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rnn(inputs.unsqueeze(-1))[0][:, -1])


def test_a_recurrent_layer_is_compared_with_backprop_through_time() -> None:
    model, plain = pair(Unrolled, fa.DFA())
    record = observe(model)
    cross_entropy(plain).backward()
    row = record["rnn"]
    ruled, exact = (one.rnn.weight_hh_l0.grad for one in (model, plain))
    assert row.angle == pytest.approx(degrees(ruled, exact), abs=1e-5)
    assert row.angle > 5
    assert row.point == "rnn.layer0"
    assert row.units == 4
    assert row.signal_norm
    assert row.signal_norm_backprop is None
    assert record.replay_error is not None
    assert record.replay_error < 1e-12


# What a rule that is silently off looks like.


def test_a_rule_that_was_removed_is_at_zero_degrees_of_backprop() -> None:
    model, _ = pair(Perceptron, fa.DFA())
    monitor = Monitor(model, every=1)
    records = []
    for is_removed in (False, True):
        if is_removed:
            fa.handle_of(model).remove()
        with monitor.step():
            cross_entropy(model).backward()
        assert monitor.last is not None
        records.append(monitor.last)
    on, off = records
    assert "DFA" in str(on.rule)
    assert on["fc1"].angle is not None
    assert on["fc1"].angle > 5
    assert off.rule is None
    for row in off.layers:
        assert (row.angle, row.ratio) == (0, 1)
    assert off["fc1"].signal_angle == 0
    assert off["fc1"].signal_norm == off["fc1"].signal_norm_backprop != on["fc1"].signal_norm
    assert off["fc1"].density == 1.0


def test_an_error_path_that_is_cut_has_no_error_and_no_signal() -> None:
    model, _ = pair(Perceptron, fa.DFA())
    monitor, other = Monitor(model, every=1), nn.Linear(3, 3).double()
    with monitor.step():
        cross_entropy(model).backward()
    with monitor.step():
        F.cross_entropy(other(model(x).detach()), y).backward()
    record = monitor.last
    assert record is not None
    assert (record.step, record.error_norm, record.replay_error) == (2, 0, None)
    for row in record.layers:
        assert (row.norm, row.norm_backprop) == (0, 0)
        assert row.angle is row.angle_ewma is row.ratio is None
    assert record["fc1"].signal_norm == 0


def test_feedback_that_was_lost_sends_no_signal_where_backprop_would() -> None:
    model, _ = pair(Perceptron, fa.DFA())
    fa.handle_of(model).store.feedback("act1").zero_()
    record = observe(model)
    assert (record["fc1"].signal_norm, record["fc1"].norm, record["fc1"].angle) == (0, 0, None)
    assert record["fc1"].norm_backprop
    assert record["fc2"].signal_norm


def test_a_rule_that_cuts_and_teaches_nothing_shows() -> None:
    record = observe(pair(Perceptron, fa.Shallow())[0])
    assert [(row.norm, row.angle) for row in record.layers[:2]] == [(0, None), (0, None)]
    assert record["head"].angle == 0


def test_a_model_that_does_another_thing_the_second_time_shows() -> None:
    class OwnGenerator(Perceptron):
        def build(self, activation: type[nn.Module] = nn.Tanh) -> None:
            super().build(activation)
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs + torch.randn(8, 5, generator=self.generator, dtype=torch.float64))

    record = observe(pair(OwnGenerator, fa.Backprop())[0])
    assert record.replay_error is not None
    assert record.replay_error > 0.01
    assert record["fc1"].angle is not None
    assert record["fc1"].angle > 1
