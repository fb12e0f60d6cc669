"""Measurements on attached recurrent models: alignment, bias and variance, distance of feedback, memory of DFA."""

from __future__ import annotations

import math

import pytest
import torch

import feedalign as fa
from attach.model_state import left_as_it_was
from feedalign.errors import FeedbackShapeError
from recurrent.readers import SHARED, Case, cross_entropy, feedback_for


def loss_of(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(output, targets)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.ActivityPerturbed()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("form", [
    Case(options={"num_layers": 2, "bidirectional": True}, below="linear"),
    Case("LSTM", readout="steps"),
    Case("tanh", lengths=(3, 5, 1, 4)),
])  # fmt: skip
def test_angles_of_weights_are_those_of_gradients_through_time(form: Case, rule: fa.Rule) -> None:
    model, (x, lengths, *_), y = form.model(), form.inputs(), form.targets()
    inputs = (x,) if lengths is None else (x, lengths)
    options = {"feedback": feedback_for(model.rnn)} if isinstance(rule, fa.DFA) else {}
    handle = fa.attach(model, rule, example_inputs=inputs, **options)
    counter = handle.store.counter.clone() if handle.store.has_clock else None
    with left_as_it_was(model):
        found = fa.measure.alignment(model, loss_of, (inputs, y))
    exact, ruled = form.model(), model
    loss_of(exact(*inputs), y).backward()
    if counter is not None:
        handle.store.counter = counter
    loss_of(ruled(*inputs), y).backward()
    (row,) = [row for row in found.layers if row.layer == "rnn"]
    largest = max(exact.rnn.named_parameters(), key=lambda pair: pair[1].numel())[0]
    one, other = (model.rnn.get_parameter(largest).grad.flatten() for model in (ruled, exact))
    cosine = float(one @ other / one.norm() / other.norm())
    assert row.weight == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-6)
    assert 1 < row.weight < 179
    (head,) = [row for row in found.layers if row.layer == "head"]
    assert head.weight == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", SHARED)
def test_one_step_with_the_output_weight_as_feedback_is_aligned(kind: str) -> None:
    case = Case(kind, num_steps=1, readout="last", has_states=True)
    model, inputs = case.model(), case.inputs()
    fa.attach(model, fa.DFA(), example_inputs=inputs, feedback={"rnn.layer0": model.head.weight})
    found = fa.measure.alignment(model, loss_of, (inputs, case.targets()))
    assert [row.weight for row in found.layers] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_streaming_rule_is_measured_as_it_learns_from_the_error() -> None:
    case = Case("GRU", {"num_layers": 2})
    model, (x, *_) = case.model(), case.inputs()
    handle = fa.attach(model, fa.DRTP(), example_inputs=x)
    expected = fa.measure.alignment(model, loss_of, (x, case.targets()))
    handle.targets(case.targets())
    found = fa.measure.alignment(model, loss_of, (x, case.targets()))
    assert [row.weight for row in found.layers] == [row.weight for row in expected.layers]
    assert handle.is_streaming


def test_perturbed_states_are_unbiased_and_direct_feedback_is_not() -> None:
    case = Case("GRU", {"num_layers": 2}, num_steps=3)
    batch = (case.inputs()[0], case.targets())
    found = {}
    for rule in (fa.ActivityPerturbed(), fa.DFA()):
        model = case.model()
        fa.attach(model, rule, example_inputs=batch[0])
        found[rule] = fa.measure.bias(model, loss_of, batch, num_draws=100)["rnn"]
    perturbed, direct = found.values()
    assert perturbed.averaged < 1.3 * perturbed.expected < 60
    assert direct.averaged > 60
    assert fa.measure.variance(model, loss_of, batch, num_draws=2)["rnn"].estimation == 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_feedback_right_below_the_output_layer_is_compared_with_its_weight(bidirectional: bool) -> None:
    case = Case("GRU", {"num_layers": 2, "bidirectional": bidirectional}, readout="steps")
    model = case.model()
    feedback = feedback_for(model.rnn) | {"rnn.layer1": model.head.weight}
    fa.attach(model, fa.DFA(), example_inputs=case.inputs(), feedback=feedback)
    found = fa.measure.feedback_distance(model)
    assert (found.point, found.layer, found.distance) == ("rnn.layer1", "head", 0.0)


@pytest.mark.parametrize("form", [Case("GRU separate", readout="steps"), Case("GRU")])
def test_feedback_that_stands_for_no_weight_is_not_compared(form: Case) -> None:
    model = form.model()
    fa.attach(model, fa.DFA(), example_inputs=form.inputs())
    with pytest.raises(FeedbackShapeError, match="no weight for its feedback"):
        fa.measure.feedback_distance(model)
