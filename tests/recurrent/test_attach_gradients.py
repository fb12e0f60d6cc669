"""DFA on recurrent modules: every gradient is the specification's, a loop over time on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from integration.gradients import assert_same_gradients, gradients
from recurrent.by_steps import batch_first, gradients_by_steps, run_of, same_for_all_steps, taught
from recurrent.readers import HIDDEN, KINDS, SHARED, Case, Reader, cross_entropy, feedback_for

TOLERANCE = 1e-12
PACKED = (3, 5, 1, 4)

FORMS: dict[str, Case] = {
    "one layer": Case(readout="last"),
    "two layers, steps first": Case(options={"num_layers": 2, "batch_first": False}, readout="last"),
    "three layers": Case(options={"num_layers": 3}),
    "both directions": Case(options={"bidirectional": True}, readout="first and last"),
    "two layers in both directions, steps first": Case(
        options={"num_layers": 2, "bidirectional": True, "batch_first": False}
    ),
    "without biases": Case(options={"num_layers": 2, "bidirectional": True, "bias": False}),
    "given states": Case(options={"num_layers": 2, "bidirectional": True}, has_states=True),
    "packed": Case(lengths=PACKED),
    "packed as sorted": Case(options={"batch_first": False}, lengths=(5, 4, 4, 1), is_sorted=True),
    "packed, two layers in both directions, given states": Case(
        options={"num_layers": 2, "bidirectional": True}, lengths=PACKED, has_states=True
    ),
    "packed without biases": Case(options={"bias": False}, lengths=PACKED, has_states=True),
    "more rows than a block has": Case(
        options={"bidirectional": True}, readout="mean", num_samples=70, num_steps=21, has_states=True
    ),
    "packed, more rows than a block has": Case(
        options={"bidirectional": True},
        lengths=tuple(range(21, 0, -1)) + (21, 1, 2) * 23,
        num_samples=90,
        num_steps=21,
        has_states=True,
    ),
}
IN_EVERY_FORM = ("tanh", "GRU", "LSTM", "GRU before, own reset")
HARDEST = (
    "two layers in both directions, steps first",
    "without biases",
    "packed, two layers in both directions, given states",
    "more rows than a block has",
)
CASES = [
    pytest.param(form.of(kind=kind), id=f"{kind}: {name}")
    for kind in KINDS
    for name, form in FORMS.items()
    if kind in IN_EVERY_FORM or name in HARDEST
]


def attached(case: Case, rule: Any = None, inputs: tuple[Any, ...] | None = None, seed: int = 0) -> Reader:
    """The model with the rule and the feedback of `feedback_for`."""
    model = case.model(seed)
    given = case.inputs() if inputs is None else inputs
    fa.attach(model, rule or fa.DFA(), example_inputs=given, feedback=feedback_for(model.rnn))
    return model


def gradients_of(model: nn.Module, inputs: tuple[Any, ...], targets: Tensor) -> dict[str, Tensor | None]:
    """Those of one step from zero."""
    model.zero_grad()
    cross_entropy(model(*inputs), targets).backward()
    return gradients(model)


def assert_learns_by_steps(case: Case, rule: Any = None, **how: Any) -> None:
    """One step of the attached model gives the gradients by hand, and every parameter has one."""
    model, inputs, targets = attached(case, rule), case.inputs(), case.targets()
    found = gradients_of(model, inputs, targets)
    expected = gradients_by_steps(case, feedback_for(model.rnn), inputs, targets, **how)
    assert_same_gradients(found, {name: expected[name] for name in found}, TOLERANCE)
    assert all(grad.any() for grad in expected.values())
    torch.testing.assert_close(model(*inputs), case.model()(*inputs), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_has_the_gradient_of_the_specification_and_outputs_are_the_plain_ones(case: Case) -> None:
    assert_learns_by_steps(case)


@pytest.mark.parametrize("readout", ["last", "first and last", "mean", "state", "cell"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_it_does_not_matter_what_of_the_sequence_is_read(kind: str, batch_first: bool, readout: str) -> None:
    if readout == "cell" and kind != "LSTM":
        pytest.skip("only an LSTM has a cell state")
    for bidirectional in (False, True):
        if bidirectional or readout != "first and last":
            case = Case(kind, {"num_layers": 2, "batch_first": batch_first, "bidirectional": bidirectional})
            assert_learns_by_steps(case.of(readout=readout))


STEPS = {
    "one layer": Case(readout="steps"),
    "two layers in both directions": Case(options={"num_layers": 2, "bidirectional": True}, readout="steps"),
    "packed": Case(lengths=PACKED, readout="steps"),
    "packed in both directions": Case(options={"bidirectional": True}, lengths=PACKED, readout="steps"),
    "nine steps": Case(readout="steps", num_steps=9, options={"bidirectional": True}),
}


@pytest.mark.parametrize(("kind", "gamma"), [
    ("tanh", 0.0), ("tanh", 0.7), ("tanh", 1.0), ("GRU", 1.0), ("LSTM", 0.7), ("GRU before, own reset", 0.7),
    ("GRU separate", 0.7),
])  # fmt: skip
@pytest.mark.parametrize("batch_first", [True, False], ids=["samples first", "steps first"])
@pytest.mark.parametrize("form", STEPS)
def test_errors_of_single_steps_are_summed_over_later_ones(
    form: str, batch_first: bool, kind: str, gamma: float
) -> None:
    case = STEPS[form].of(kind=kind, batch_first=batch_first)
    assert_learns_by_steps(case, fa.DFA(gamma=gamma), gamma=gamma)


@pytest.mark.parametrize("batch_first", [True, False])
def test_an_error_at_the_last_step_alone_is_one_of_the_whole_sequence(batch_first: bool) -> None:
    """The paper's own case, with gamma 1."""
    options = {"num_layers": 2, "batch_first": batch_first}
    by_step, whole = Case(options=options, readout="steps"), Case(options=options, readout="last")
    model, inputs, targets = attached(by_step), by_step.inputs(), whole.targets()
    cross_entropy(model(*inputs).select(1 if batch_first else 0, -1), targets).backward()
    assert_same_gradients(gradients(model), gradients_of(attached(whole), inputs, targets), TOLERANCE)


def test_a_direction_that_runs_backwards_hears_of_earlier_errors() -> None:
    """An error at the last step alone: no state of the backward direction but the one there had a part in it."""
    case = Case(options={"bidirectional": True}, readout="steps")
    model, inputs, targets = attached(case), case.inputs(), case.targets()
    cross_entropy(model(*inputs)[:, -1], targets[:, -1]).backward()
    found = gradients(model)
    plain = case.model()
    output = plain(*inputs)
    (error,) = torch.autograd.grad(cross_entropy(output[:, -1], targets[:, -1]), output)
    (matrix,) = feedback_for(plain.rnn).values()
    signal = same_for_all_steps(error[:, -1], matrix, case.num_steps).clone()
    signal[:, :-1, HIDDEN:] = 0
    expected = taught(plain.rnn, run_of(case, plain, inputs)[0], [signal]).gradients
    for name, grad in expected.items():
        torch.testing.assert_close(found[f"rnn.{name}"], grad, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "GRU before"])
def test_dropout_between_layers_is_that_of_torch(kind: str, batch_first: bool, bidirectional: bool) -> None:
    options = {"num_layers": 3, "dropout": 0.4, "batch_first": batch_first, "bidirectional": bidirectional}
    case = Case(kind, options)
    model, inputs, targets = attached(case), case.inputs(), case.targets()
    expected = seeded(lambda: case.model()(*inputs))
    torch.testing.assert_close(seeded(lambda: model(*inputs)), expected, rtol=0, atol=TOLERANCE)
    assert not torch.allclose(seeded(lambda: model(*inputs), 1), expected)
    found = seeded(lambda: gradients_of(model, inputs, targets))
    dropped = dropouts(2, case)
    by_hand = seeded(lambda: gradients_by_steps(
        case, feedback_for(model.rnn), inputs, targets, between=lambda rows: rows * next(dropped)
    ))  # fmt: skip
    assert_same_gradients(found, {name: by_hand[name] for name in found}, TOLERANCE)
    model.eval()
    torch.testing.assert_close(model(*inputs), case.model().eval()(*inputs), rtol=0, atol=TOLERANCE)


def dropouts(num: int, case: Case) -> Iterator[Tensor]:
    """What a seeded run multiplies the rows between layers with."""
    shape = (case.num_steps * case.num_samples, HIDDEN * case.num_directions)
    ones = torch.ones(shape, dtype=torch.float64)
    return iter(seeded(lambda: [nn.functional.dropout(ones, 0.4) for _ in range(num)]))


def test_dropout_between_layers_of_packed_sequences_is_that_of_torch() -> None:
    case = Case("LSTM", {"num_layers": 2, "dropout": 0.4}, lengths=PACKED)
    inputs = case.inputs()
    output = seeded(lambda: attached(case)(*inputs))
    torch.testing.assert_close(output, seeded(lambda: case.model()(*inputs)), rtol=0, atol=TOLERANCE)


def seeded(run: Callable[[], Any], seed: int = 0) -> Any:
    """Run from a random state that does not depend on what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return run()


@pytest.mark.parametrize("readout", ["valid", "steps"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM", "GRU before, own reset", "LSTM separate"])
def test_lengths_of_padded_sequences_teach_as_packed_ones_do(kind: str, batch_first: bool, readout: str) -> None:
    """Where the last valid step is read, or steps with errors are the valid ones; what the padding holds is one."""
    packed = Case(kind, {"num_layers": 2, "batch_first": batch_first}, lengths=PACKED, readout=readout)
    packed = packed.of(readout="state") if readout == "valid" else packed
    x, lengths = packed.inputs()
    expected = gradients_of(attached(packed), (x, lengths), packed.targets())
    padded = packed.of(lengths=None, readout=readout)
    for padding, as_mask in ((0.0, False), (3.0, True)):
        filled = x.nan_to_num(padding)
        model = ReadsValid(0, case=padded).double()
        handle = fa.attach(model, fa.DFA(), example_inputs=(filled, lengths), feedback=feedback_for(model.rnn))
        handle.lengths(torch.arange(5) < lengths[:, None] if as_mask else lengths)
        assert_same_gradients(gradients_of(model, (filled, lengths), packed.targets()), expected, TOLERANCE)


class ReadsValid(Reader):
    """Does not pack; reads the last valid step of padded sequences, or all steps."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        if self.case.readout == "valid":
            output = batch_first(self.case, output)[torch.arange(len(lengths)), lengths - 1]
        return self.head(output)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("readout", ["last", "steps"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU before, own reset"])
def test_a_mask_may_leave_out_any_steps(kind: str, readout: str, bidirectional: bool, batch_first: bool) -> None:
    """Their errors and they themselves teach no state, whatever loss there is on them."""
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
    case = Case(kind, options, "linear", readout)
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(6)) > 0.4
    model, inputs, targets = attached(case, fa.DFA(gamma=0.5)), case.inputs(), case.targets()
    fa.handle_of(model).lengths(mask)
    found = gradients_of(model, inputs, targets)
    how = {"gamma": 0.5, "counts": mask}
    expected = gradients_by_steps(case, feedback_for(model.rnn), inputs, targets, **how)
    assert_same_gradients(found, {name: expected[name] for name in found}, TOLERANCE)


def test_without_lengths_the_padding_teaches_too() -> None:
    case = Case(readout="valid", lengths=PACKED)
    x, lengths = case.inputs()
    found = []
    for told in (False, True):
        model = ReadsValid(0, case=case).double()
        handle = fa.attach(model, fa.DFA(), example_inputs=(x.nan_to_num(), lengths))
        if told:
            handle.lengths(lengths)
        found.append(gradients_of(model, (x.nan_to_num(), lengths), case.targets())["rnn.weight_hh_l0"])
    assert not torch.allclose(*found)


def test_lengths_are_those_of_one_forward() -> None:
    case = Case(readout="last")
    model, inputs, targets = attached(case), case.inputs(), case.targets()
    expected = gradients_of(model, inputs, targets)
    fa.handle_of(model).lengths(torch.tensor(PACKED))
    with torch.no_grad():
        model(*inputs)
    of_lengths = gradients_of(model, inputs, targets)
    assert not torch.allclose(of_lengths["rnn.weight_hh_l0"], expected["rnn.weight_hh_l0"])
    assert_same_gradients(gradients_of(model, inputs, targets), expected, tolerance=0)


@pytest.mark.parametrize("form", [{"bidirectional": True, "num_layers": 2}, {"batch_first": False}])
@pytest.mark.parametrize(
    "kind", ["relu", "GRU", "LSTM", "GRU before, own reset", "GRU separate", "GRU before separate"]
)
@pytest.mark.parametrize("below", ["embedding", "linear"])
def test_layers_below_have_the_exact_gradient_of_each_step(below: str, kind: str, form: dict[str, Any]) -> None:
    case = Case(kind, form, below)
    assert_learns_by_steps(case)
    assert_learns_by_steps(case.of(readout="steps"), fa.DFA(gamma=0.5), gamma=0.5)


@pytest.mark.parametrize("readout", ["state", "steps"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_below_packed_sequences_have_the_exact_gradient_of_each_step(bidirectional: bool, readout: str) -> None:
    assert_learns_by_steps(Case("LSTM", {"bidirectional": bidirectional}, "embedding", readout, lengths=PACKED))


FROZEN = ["rnn.weight_ih_l0", "rnn.weight_hh_l1", "rnn.bias_hh_l0", "embedding", "rnn", "head", "_l0", "_reverse"]


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM separate"])
def test_frozen_parameters_have_no_gradient_and_the_others_keep_theirs(kind: str, frozen: str) -> None:
    case = Case(kind, {"num_layers": 2, "bidirectional": True}, "embedding")
    inputs, targets = case.inputs(), case.targets()
    expected = gradients_of(attached(case), inputs, targets)
    model = case.model()
    names = [name for name, parameter in model.named_parameters() if frozen in name]
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    feedback = feedback_for(model.rnn)
    if frozen == "rnn":
        # The lowest point still teaches what lies below it; the other has nothing to teach.
        del feedback["rnn.layer1"]
    fa.attach(model, fa.DFA(), example_inputs=inputs, feedback=feedback)
    found = gradients_of(model, inputs, targets)
    assert names
    assert_same_gradients(found, {n: None if n in names else grad for n, grad in expected.items()}, TOLERANCE)


@pytest.mark.parametrize("kind", [*SHARED, "GRU separate"])
def test_gradients_accumulate_and_follow_the_losss_scale(kind: str) -> None:
    case = Case(kind, {"num_layers": 2}, below="linear")
    model, inputs, targets = attached(case), case.inputs(), case.targets()
    expected = gradients_of(model, inputs, targets)
    model.zero_grad()
    for rows in (slice(0, 2), slice(2, 4)):
        (0.5 * cross_entropy(model(inputs[0][rows]), targets[rows])).backward()
    assert_same_gradients(gradients(model), expected, TOLERANCE)
    model.zero_grad()
    (100 * cross_entropy(model(*inputs), targets)).backward()
    assert_same_gradients(gradients(model), {name: 100 * grad for name, grad in expected.items()}, TOLERANCE)
    model.zero_grad()
    (cross_entropy(model(*inputs), targets) + cross_entropy(model(*inputs), targets)).backward()
    assert_same_gradients(gradients(model), {name: 2 * grad for name, grad in expected.items()}, TOLERANCE)
    model.zero_grad()
    loss = cross_entropy(model(*inputs), targets)
    for _ in range(2):
        loss.backward(retain_graph=True)
    assert_same_gradients(gradients(model), {name: 2 * grad for name, grad in expected.items()}, TOLERANCE)


@pytest.mark.parametrize(("num_samples", "num_steps"), [(3, 5), (1, 5), (4, 8), (4, 1), (9, 2)])
@pytest.mark.parametrize("readout", ["state", "steps"])
@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM"])
def test_the_size_of_batches_and_sequences_may_change(
    kind: str, readout: str, num_samples: int, num_steps: int
) -> None:
    case = Case(kind, {"num_layers": 2, "bidirectional": True, "batch_first": False}, readout=readout)
    model = attached(case)
    inputs, targets = case.inputs(5, num_samples, num_steps), case.targets(num_samples, num_steps)
    found = gradients_of(model, inputs, targets)
    expected = gradients_by_steps(case, feedback_for(model.rnn), inputs, targets)
    assert_same_gradients(found, {name: expected[name] for name in found}, TOLERANCE)


@pytest.mark.parametrize(("options", "readout"), [
    ({}, "steps"), ({"bidirectional": True, "num_layers": 2}, "state"), ({"batch_first": False}, "steps"),
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_gives_zeros(kind: str, readout: str, options: dict[str, Any]) -> None:
    case = Case(kind, options, readout=readout)
    model = attached(case)
    x = case.inputs()[0]
    empty = x[:0] if case.batch_first else x[:, :0]
    model(empty).sum().backward()
    assert all(grad is not None and not grad.any() for grad in gradients(model).values())


def test_an_empty_batch_with_lengths_gives_zeros() -> None:
    case = Case()
    model = attached(case)
    fa.handle_of(model).lengths(torch.zeros(0, dtype=torch.long))
    model(case.inputs()[0][:0]).sum().backward()
    assert not any(grad.any() for grad in gradients(model).values())


def test_a_sequence_without_a_size_for_samples_is_one_sample() -> None:
    case = Case("LSTM", {"num_layers": 2}, readout="last", has_states=True)
    x, _, *states = case.inputs(num_samples=1)
    expected = gradients_of(attached(case), (x, None, *states), case.targets(1))

    class Single(Reader):
        def forward(self, x: Tensor, *states: Tensor) -> Tensor:
            return self.head(self.rnn(x, tuple(state[:, 0] for state in states))[0][-1:])

    model = Single(0, case=case).double()
    fa.attach(model, fa.DFA(), example_inputs=(x[0], *states), feedback=feedback_for(model.rnn))
    cross_entropy(model(x[0], *states), case.targets(1)).backward()
    assert_same_gradients(gradients(model), expected, TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_gradients_of_the_states_at_hand_are_made_at_one_step(kind: str) -> None:
    """At T = 1 from zero, with the output weight as feedback, DFA is backprop."""
    case = Case(kind, num_steps=1, readout="last", has_states=True)
    model, inputs, targets = case.model(), case.inputs(), case.targets()
    if "reset" in kind or "separate" in kind:
        pytest.skip("several signals for one state: no weight stands for them")
    exact = gradients_of(model, inputs, targets)
    fa.attach(model, fa.DFA(), example_inputs=inputs, feedback={"rnn.layer0": model.head.weight})
    assert_same_gradients(gradients_of(model, inputs, targets), exact, TOLERANCE)
