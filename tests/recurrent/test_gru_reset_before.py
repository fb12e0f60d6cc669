"""The paper's GRU: equal to the specification, to autograd and, where the two cells coincide, to torch's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from feedalign.recurrent import gru_reset_before, naive, products
from feedalign.recurrent.cell import Gradients, Ran, Trace, Wanted
from feedalign.recurrent.gru_reset_before import ResetBeforeGRU, unrolled
from feedalign.recurrent.rows import blocks
from recurrent.sequences import Sequences, assert_equal, by_autograd, reset_before_step, sequences

CELL = ResetBeforeGRU()
EVEN = (5, 5, 5)
LENGTHS = [pytest.param((5, 4, 4, 1), id="packed"), pytest.param(EVEN, id="even"), pytest.param((1, 1), id="one step")]

all_lengths = pytest.mark.parametrize("lengths", LENGTHS)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
per_gate_or_shared = pytest.mark.parametrize("per_gate", [False, True], ids=["shared", "per gate"])
with_and_without_bias = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def run(problem: Sequences) -> Ran:
    """Both directions, with the same weights."""
    initial = torch.stack([problem.initial[0], problem.initial[0]])
    return CELL.run(problem.rows(problem.inputs), (initial,), (problem.weights, problem.weights), problem.steps)


def trace_of(problem: Sequences, reverse: bool) -> Trace:
    """What the node hands to the gradients: views into both directions' run."""
    width = problem.hidden_size
    ran, own = run(problem), slice(width, None) if reverse else slice(width)
    return problem.trace(ran.output[:, own], [kept[:, own] for kept in ran.memory], reverse)


def specified(problem: Sequences, signal: Tensor, reverse: bool) -> Gradients:
    return naive.gradients(
        *(naive.GRU_RESET_BEFORE, signal, problem.inputs, problem.initial, problem.weights),
        mask=problem.mask,
        reverse=reverse,
    )


def constant_signal(problem: Sequences, per_gate: bool) -> tuple[Tensor, Tensor]:
    """The same signal at every step, as one row for each sample, and at every place."""
    first = problem.signals(per_gate)[:, 0]
    return first, first[:, None].expand(-1, problem.mask.shape[1], -1)


@all_lengths
@with_and_without_bias
def test_runs_as_the_specification_in_both_directions_at_once(lengths: tuple[int, ...], bias: bool) -> None:
    problem = sequences(3, lengths=lengths, bias=bias)
    ran = run(problem)
    for reverse, own in ((False, slice(4)), (True, slice(4, None))):
        output, final = naive.run(
            *(naive.GRU_RESET_BEFORE, problem.inputs, problem.initial, problem.weights),
            mask=problem.mask,
            reverse=reverse,
        )
        torch.testing.assert_close(ran.output[:, own], problem.rows(output), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ran.final[0][int(reverse)], final[0], rtol=1e-12, atol=1e-12)


def test_one_direction_runs_as_the_first_of_two() -> None:
    problem = sequences(3)
    both = run(problem)
    one = CELL.run(problem.rows(problem.inputs), (problem.initial[0][None],), (problem.weights,), problem.steps)
    assert torch.equal(one.output, both.output[:, :4])
    assert torch.equal(one.final[0][0], both.final[0][0])
    assert all(torch.equal(own, other[:, :4]) for own, other in zip(one.memory, both.memory, strict=True))


@all_lengths
@both_ways
@per_gate_or_shared
@with_and_without_bias
@pytest.mark.parametrize("num_rows", [1, 6, 400])
def test_gradients_are_the_specifications(
    lengths: tuple[int, ...],
    reverse: bool,
    per_gate: bool,
    bias: bool,
    num_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In blocks of a step, of some steps, and in one."""
    monkeypatch.setattr(gru_reset_before, "blocks_of", lambda output, steps: list(blocks(steps, num_rows)))
    problem = sequences(3, lengths=lengths, bias=bias)
    signal = problem.signals(per_gate)
    made = CELL.gradients(problem.rows(signal), trace_of(problem, reverse), Wanted())
    assert_equal(made, specified(problem, signal, reverse), problem)


@all_lengths
@both_ways
@per_gate_or_shared
@pytest.mark.parametrize("num_rows", [1, 6, 400])
def test_a_signal_with_one_row_for_each_sample_is_that_of_every_step(
    lengths: tuple[int, ...], reverse: bool, per_gate: bool, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gru_reset_before, "blocks_of", lambda output, steps: list(blocks(steps, num_rows)))
    problem = sequences(3, lengths=lengths)
    signal, everywhere = constant_signal(problem, per_gate)
    made = CELL.gradients(signal, trace_of(problem, reverse), Wanted())
    assert_equal(made, specified(problem, everywhere, reverse), problem)


@both_ways
def test_gradients_are_those_of_autograd_with_the_state_before_each_step_detached(reverse: bool) -> None:
    problem = sequences(3)
    signal = problem.signals()
    made = CELL.gradients(problem.rows(signal), trace_of(problem, reverse), Wanted())
    assert_equal(made, by_autograd(reset_before_step, problem, signal, reverse=reverse), problem)


def through_time(problem: Sequences, signal: Tensor, reverse: bool = False) -> Gradients:
    """Exact backprop through time, by the cell's own unrolled run."""
    rows = problem.rows(problem.inputs).requires_grad_()
    weights = type(problem.weights)(*(weight.clone().requires_grad_() for weight in problem.weights))  # type: ignore[union-attr]
    output, _, _ = unrolled(rows, problem.initial[0], weights, problem.steps, reverse)
    return Gradients(*torch.autograd.grad((output * problem.rows(signal)).sum(), [rows, *weights]))


def test_a_single_step_is_exact_backprop_and_two_are_not() -> None:
    for lengths, equal in (((1, 1, 1), True), ((2, 2, 2), False)):
        problem = sequences(3, lengths=lengths)
        signal = problem.signals()
        made = CELL.gradients(problem.rows(signal), trace_of(problem, False), Wanted())
        expected = through_time(problem, signal)
        if equal:
            assert_equal(made, expected)
        else:
            with pytest.raises(AssertionError, match="input"):
                assert_equal(made, expected, tolerance=0.01)


@pytest.mark.parametrize("only", Wanted._fields)
def test_makes_what_is_wanted_and_nothing_else(only: str) -> None:
    problem = sequences(3)
    signal, trace = problem.rows(problem.signals()), trace_of(problem, False)
    whole = CELL.gradients(signal, trace, Wanted())
    made = CELL.gradients(signal, trace, Wanted(*(field == only for field in Wanted._fields)))
    for field in Wanted._fields:
        if field == only:
            torch.testing.assert_close(getattr(made, field), getattr(whole, field))
        else:
            assert getattr(made, field) is None


@both_ways
@per_gate_or_shared
def test_leaves_signal_and_run_as_they_were(reverse: bool, per_gate: bool) -> None:
    problem = sequences(3, lengths=EVEN)
    signal, trace = constant_signal(problem, per_gate)[0], trace_of(problem, reverse)
    given = [signal, trace.inputs, trace.output, *trace.memory, *trace.initial, *trace.weights]
    copies = [tensor.clone() for tensor in given if tensor is not None]
    first = CELL.gradients(signal, trace, Wanted())
    CELL.push(None, torch.ones_like(trace.output), trace)
    assert_equal(first, CELL.gradients(signal, trace, Wanted()))
    assert all(torch.equal(one, other) for one, other in zip(given, copies, strict=True))


class Count(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += 1
        return func(*args, **(kwargs or {}))


@both_ways
@per_gate_or_shared
def test_gradients_take_as_many_operations_for_a_long_sequence_as_for_a_short_one(
    reverse: bool, per_gate: bool
) -> None:
    counts = []
    for num_steps in (3, 60):
        problem = sequences(3, lengths=(num_steps,) * 3)
        trace, signal = trace_of(problem, reverse), problem.rows(problem.signals(per_gate))
        with Count() as count:
            CELL.gradients(signal, trace, Wanted())
        counts.append(count.num)
    assert counts[0] == counts[1]


def test_the_transport_free_form_reads_no_transposed_weight() -> None:
    """Gradients of the weights are the same whatever the weight of the candidate, the run held fixed."""
    problem = sequences(3)
    trace = trace_of(problem, False)
    other = replace(trace, weights=trace.weights._replace(hh=torch.randn_like(trace.weights.hh)))
    wanted = Wanted()._replace(input=False)
    for per_gate in (True, False):
        signal = problem.rows(problem.signals(per_gate))
        one, two = (CELL.gradients(signal, given, wanted) for given in (trace, other))
        assert one.hh is not None
        assert two.hh is not None
        assert torch.equal(one.hh, two.hh) == per_gate


@all_lengths
@both_ways
@pytest.mark.parametrize("with_tangent", [True, False], ids=["tangent of input", "none"])
def test_pushes_a_tangent_through_time(lengths: tuple[int, ...], reverse: bool, with_tangent: bool) -> None:
    """Against autograd's derivative of a run to whose every state the perturbation is added."""
    problem = sequences(3, lengths=lengths)
    generator = torch.Generator().manual_seed(3)
    tangent = torch.randn(problem.inputs.shape, generator=generator, dtype=torch.float64) * with_tangent
    perturbation = torch.randn(*problem.mask.shape, 4, generator=generator, dtype=torch.float64)

    def perturbed(inputs: Tensor, added: Tensor) -> Tensor:
        outputs = {}
        for sample, length in enumerate(lengths):
            states = (problem.initial[0][sample : sample + 1],)
            for t in reversed(range(length)) if reverse else range(length):
                (h,) = reset_before_step(inputs[sample : sample + 1, t], states, problem.weights)
                states = (h + added[sample, t],)
                outputs[t, sample] = states[0]
        return torch.cat([outputs[key] for key in sorted(outputs)])

    given = problem.inputs.nan_to_num(), torch.zeros_like(perturbation)
    _, expected = torch.autograd.functional.jvp(perturbed, given, (tangent, perturbation))
    pushed = CELL.push(
        problem.rows(tangent) if with_tangent else None, problem.rows(perturbation), trace_of(problem, reverse)
    )
    torch.testing.assert_close(pushed, expected, rtol=1e-12, atol=1e-12)


@all_lengths
@both_ways
@with_and_without_bias
def test_the_run_that_autograd_follows_is_the_same(lengths: tuple[int, ...], reverse: bool, bias: bool) -> None:
    problem = sequences(3, lengths=lengths, bias=bias)
    ran = run(problem)
    rows, own = problem.rows(problem.inputs), slice(4, None) if reverse else slice(4)
    output, final, gates = unrolled(rows, problem.initial[0], problem.weights, problem.steps, reverse)
    torch.testing.assert_close(output, ran.output[:, own], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final, ran.final[0][int(reverse)], rtol=1e-12, atol=1e-12)
    for made, kept in zip(zip(*gates, strict=True), ran.memory, strict=True):
        torch.testing.assert_close(torch.cat(made), kept[:, own], rtol=1e-12, atol=1e-12)


def test_backprop_through_time_passes_the_numerical_check() -> None:
    problem = sequences(3, lengths=(3, 2), input_size=2, hidden_size=2)
    rows = problem.rows(problem.inputs)

    def output(*given: Tensor) -> tuple[Tensor, Tensor]:
        states, final, _ = unrolled(given[0], given[1], type(problem.weights)(*given[2:]), problem.steps, True)
        return states, final

    given = [tensor.clone().requires_grad_() for tensor in (rows, problem.initial[0], *problem.weights)]  # type: ignore[union-attr]
    assert torch.autograd.gradcheck(output, given)


@both_ways
@per_gate_or_shared
def test_several_networks_run_and_learn_at_once_under_vmap(reverse: bool, per_gate: bool) -> None:
    """Inside it no operation can write to memory of the cell's own."""
    several = [sequences(3, seed=seed) for seed in (0, 1)]
    steps = several[0].steps

    def learn(rows: Tensor, signal: Tensor, initial: Tensor, *own: Tensor) -> tuple[Tensor, Gradients]:
        weights, place = type(several[0].weights)(*own), slice(4, None) if reverse else slice(4)
        ran = CELL.run(rows, (torch.stack([initial, initial]),), (weights, weights), steps)
        memory = tuple(kept[:, place] for kept in ran.memory)
        trace = Trace(rows, ran.output[:, place], memory, (initial,), weights, steps, reverse)
        return ran.output, CELL.gradients(signal, trace, Wanted())

    signals = [problem.signals(per_gate) for problem in several]
    given = [
        (problem.rows(problem.inputs), problem.rows(signal), problem.initial[0], *problem.weights)
        for problem, signal in zip(several, signals, strict=True)
    ]
    stacked = [torch.stack(parts) for parts in zip(*given, strict=True)]  # type: ignore[arg-type]
    outputs, made = torch.func.vmap(learn)(*stacked)
    for index, (problem, signal) in enumerate(zip(several, signals, strict=True)):
        torch.testing.assert_close(outputs[index], run(problem).output, rtol=1e-12, atol=1e-12)
        assert_equal(Gradients(*(part[index] for part in made)), specified(problem, signal, reverse), problem)


def test_an_empty_batch_has_no_gradient() -> None:
    weights = sequences(3).weights
    steps = sequences(3, lengths=(1,)).steps.even(4, 0)
    rows, initial = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(1, 0, 4, dtype=torch.float64)
    ran = CELL.run(rows, (initial,), (weights,), steps)
    assert ran.output.shape == (0, 4)
    made = CELL.gradients(ran.output, Trace(rows, ran.output, ran.memory, (initial[0],), weights, steps), Wanted())
    assert all(value is not None and not value.any() for value in made)


def single(problem: Sequences) -> Sequences:
    return replace(
        problem,
        inputs=problem.inputs.float(),
        initial=(problem.initial[0].float(),),
        weights=type(problem.weights)(*(None if own is None else own.float() for own in problem.weights)),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("by_convolution", [False, True], ids=["as ever", "products by convolution"])
@both_ways
def test_in_single_precision_it_is_close(reverse: bool, by_convolution: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_convolution:  # as large products are made
        for owner in (products, gru_reset_before):
            monkeypatch.setattr(owner, "convolves", lambda rows, num_columns: True)
        monkeypatch.setattr(products, "_MIN_ROWS_OF_SUM", 1)
    problem = sequences(3, lengths=(6, 6, 3), input_size=8, hidden_size=32)
    problem.weights.hh.mul_(0.3)
    signal = problem.signals()
    trace = trace_of(single(problem), reverse)
    made = CELL.gradients(problem.rows(signal).float(), trace, Wanted())
    expected, _ = naive.run(
        *(naive.GRU_RESET_BEFORE, problem.inputs, problem.initial, problem.weights), mask=problem.mask, reverse=reverse
    )
    assert trace.output.dtype == torch.float32
    torch.testing.assert_close(trace.output.double(), problem.rows(expected), rtol=1e-4, atol=1e-5)
    for own, other in zip(made[1:], specified(problem, signal, reverse)[1:], strict=True):
        assert own is not None
        torch.testing.assert_close(own.double(), other, rtol=1e-3, atol=1e-4)
