"""torch's cells: each runs as torch.nn, and learns as autograd says of each step with the states before it detached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from feedalign.recurrent import products, rows
from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.gru import GRU
from feedalign.recurrent.lstm import LSTM
from feedalign.recurrent.rnn import ReluRNN, TanhRNN
from feedalign.recurrent.steps import Steps
from recurrent.sequences import (
    Sequences,
    Step,
    assert_equal,
    by_autograd,
    by_autograd_per_gate,
    gru_step,
    lstm_step,
    relu_step,
    sequences,
    tanh_step,
)

CELLS: dict[str, tuple[Cell, Step]] = {
    "rnn-tanh": (TanhRNN(), tanh_step),
    "rnn-relu": (ReluRNN(), relu_step),
    "gru": (GRU(), gru_step),
    "lstm": (LSTM(), lstm_step),
}
MODULES: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "rnn-tanh": (nn.RNN, {}),
    "rnn-relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
}
LENGTHS = {"packed": (5, 4, 4, 1), "even": (5, 5, 5), "one step": (1, 1), "one sample": (6,), "longer": (12, 12, 3)}
H = 4

every_cell = pytest.mark.parametrize("name", CELLS)
all_lengths = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
even_or_packed = pytest.mark.parametrize("lengths", [LENGTHS["even"], LENGTHS["packed"]], ids=["even", "packed"])
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
with_and_without_bias = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


@pytest.fixture(autouse=True)
def _memory_holds_nan() -> Iterator[None]:
    """No number is read that was not written."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[3, 1000], ids=["many blocks", "one block"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROWS_OF_A_BLOCK", request.param)
    monkeypatch.setattr(rows, "NUMBERS_OF_A_BLOCK", 0)
    monkeypatch.setattr(rows, "NUMBERS_TO_KEEP", 0)


in_blocks = pytest.mark.usefixtures("_blocks")


def problem_of(name: str, **options: Any) -> Sequences:
    cell = CELLS[name][0]
    return sequences(cell.num_gates, num_states=cell.num_states, **options)


def run(name: str, problem: Sequences) -> Ran:
    """Both directions, with the same weights."""
    initial = tuple(torch.stack([state, state]) for state in problem.initial)
    return CELLS[name][0].run(problem.rows(problem.inputs), initial, (problem.weights, problem.weights), problem.steps)


def trace_of(name: str, problem: Sequences, reverse: bool = False) -> Trace:
    """What the node hands to the gradients: views into both directions' run."""
    ran, own = run(name, problem), slice(H, None) if reverse else slice(H)
    return problem.trace(ran.output[:, own], [kept[:, own] for kept in ran.memory], reverse)


def gradients(name: str, signal: Tensor, trace: Trace, wanted: Wanted = Wanted()) -> Gradients:  # noqa: B008
    return CELLS[name][0].gradients(signal, trace, wanted)


def module_of(name: str, problem: Sequences) -> nn.RNNBase:
    """torch's module with the weights of the problem in both directions."""
    kind, options = MODULES[name]
    bias = problem.weights.bias_ih is not None
    module = kind(problem.inputs.shape[-1], H, bias=bias, bidirectional=True, dtype=problem.inputs.dtype, **options)
    for ending in ("", "_reverse"):
        for field, value in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), problem.weights, strict=True):
            if value is not None:
                getattr(module, f"{field}_l0{ending}").data = value
    return module


@every_cell
@all_lengths
@with_and_without_bias
@in_blocks
def test_it_runs_as_the_module_of_torch(name: str, lengths: tuple[int, ...], bias: bool) -> None:
    problem = problem_of(name, lengths=lengths, bias=bias)
    ran = run(name, problem)
    states = tuple(torch.stack([state, state]) for state in problem.initial)
    packed = PackedSequence(problem.rows(problem.inputs), problem.steps.sizes())
    output, final = module_of(name, problem)(packed, states if len(states) > 1 else states[0])
    torch.testing.assert_close(ran.output, output.data.detach(), rtol=1e-12, atol=1e-12)
    for own, expected in zip(ran.final, final if len(states) > 1 else (final,), strict=True):
        torch.testing.assert_close(own, expected.detach(), rtol=1e-12, atol=1e-12)
    assert not any(tensor.requires_grad for tensor in (ran.output, *ran.final, *ran.memory))


@every_cell
@even_or_packed
def test_one_direction_runs_as_the_first_of_two(name: str, lengths: tuple[int, ...]) -> None:
    problem = problem_of(name, lengths=lengths)
    both = run(name, problem)
    initial = tuple(state[None] for state in problem.initial)
    one = CELLS[name][0].run(problem.rows(problem.inputs), initial, (problem.weights,), problem.steps)
    for own, other in zip((one.output, *one.memory), (both.output, *both.memory), strict=False):
        torch.testing.assert_close(own, other[:, :H], rtol=1e-14, atol=1e-14)
    for own, other in zip(one.final, both.final, strict=True):
        torch.testing.assert_close(own, other[:1], rtol=1e-14, atol=1e-14)


@all_lengths
@both_ways
@in_blocks
def test_an_lstm_remembers_its_cell_states(lengths: tuple[int, ...], reverse: bool) -> None:
    problem = problem_of("lstm", lengths=lengths)
    (kept,) = run("lstm", problem).memory
    cells = torch.full((len(lengths), lengths[0], H), torch.nan, dtype=torch.float64)
    for sample, length in enumerate(lengths):
        states = tuple(state[sample : sample + 1] for state in problem.initial)
        for t in reversed(range(length)) if reverse else range(length):
            states = lstm_step(problem.inputs[sample : sample + 1, t], states, problem.weights)
            cells[sample, t] = states[1][0]
    own = slice(H, None) if reverse else slice(H)
    torch.testing.assert_close(kept[:, own], problem.rows(cells), rtol=1e-12, atol=1e-12)


@every_cell
@all_lengths
@both_ways
@with_and_without_bias
@in_blocks
def test_gradients_are_those_of_each_step_alone(name: str, lengths: tuple[int, ...], reverse: bool, bias: bool) -> None:
    problem = problem_of(name, lengths=lengths, bias=bias)
    signal = problem.signals()
    made = gradients(name, problem.rows(signal), trace_of(name, problem, reverse))
    assert_equal(made, by_autograd(CELLS[name][1], problem, signal, reverse=reverse), problem)


@pytest.mark.parametrize(("name", "num_kept"), [("gru", 4), ("lstm", 5)])
@all_lengths
@pytest.mark.parametrize("per_gate", [False, True], ids=["shared", "per gate"])
def test_gates_are_kept_where_they_are_few(
    name: str, num_kept: int, lengths: tuple[int, ...], per_gate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(name, lengths=lengths)
    inputs, initial = problem.rows(problem.inputs), tuple(state[None] for state in problem.initial)
    signal, added = problem.rows(problem.signals(per_gate)), problem.rows(problem.signals())
    cell, steps = CELLS[name][0], problem.steps
    found = []
    for limit, num in ((steps.num_rows * problem.weights.hh.shape[0], num_kept), (0, num_kept - 4)):
        monkeypatch.setattr(rows, "NUMBERS_TO_KEEP", limit)
        ran = cell.run(inputs, initial, (problem.weights,), steps)
        assert len(ran.memory) == num
        trace = problem.trace(ran.output, ran.memory, reverse=False)
        before = [kept.clone() for kept in ran.memory]
        found.append((cell.gradients(signal, trace, Wanted()), cell.push(inputs, added, trace)))
        assert all(torch.equal(kept, copy) for kept, copy in zip(ran.memory, before, strict=True))
    (kept, pushed), (again, expected) = found
    assert_equal(kept, again, tolerance=1e-13)
    torch.testing.assert_close(pushed, expected, rtol=1e-13, atol=1e-13)


@every_cell
@even_or_packed
@both_ways
@in_blocks
def test_each_gate_may_have_a_signal_of_its_own(name: str, lengths: tuple[int, ...], reverse: bool) -> None:
    problem = problem_of(name, lengths=lengths)
    signal = problem.signals(per_gate=True)
    made = gradients(name, problem.rows(signal), trace_of(name, problem, reverse))
    assert_equal(made, by_autograd_per_gate(CELLS[name][1], problem, signal, reverse=reverse), problem)


@every_cell
@all_lengths
@both_ways
@pytest.mark.parametrize("per_gate", [False, True], ids=["shared", "per gate"])
@in_blocks
def test_a_signal_of_samples_is_that_of_all_their_steps(
    name: str, lengths: tuple[int, ...], reverse: bool, per_gate: bool
) -> None:
    problem = problem_of(name, lengths=lengths)
    trace, first = trace_of(name, problem, reverse), problem.signals(per_gate)[:, 0]
    everywhere = problem.rows(first[:, None].expand(-1, lengths[0], -1))
    assert_equal(gradients(name, first, trace), gradients(name, everywhere, trace), tolerance=1e-14)


@every_cell
@both_ways
@even_or_packed
@in_blocks
def test_states_that_begin_at_zero(name: str, lengths: tuple[int, ...], reverse: bool) -> None:
    problem = problem_of(name, lengths=lengths)
    for state in problem.initial:
        state.zero_()
    signal = problem.signals()
    made = gradients(name, problem.rows(signal), trace_of(name, problem, reverse))
    assert_equal(made, by_autograd(CELLS[name][1], problem, signal, reverse=reverse), problem)


@every_cell
@both_ways
def test_an_empty_batch_teaches_nothing(name: str, reverse: bool) -> None:
    problem = problem_of(name)
    cell, steps, inputs = CELLS[name][0], Steps.even(5, 0), problem.inputs.new_empty(0, 3)
    initial = tuple(state[:0] for state in problem.initial)
    ran = cell.run(inputs, tuple(state[None] for state in initial), (problem.weights,), steps)
    assert ran.output.shape == (0, H)
    assert all(state.shape == (1, 0, H) for state in ran.final)
    trace = Trace(inputs, ran.output, ran.memory, initial, problem.weights, steps, reverse)
    made = gradients(name, torch.empty_like(ran.output), trace)
    assert made.input is not None
    assert made.input.shape == (0, 3)
    assert all(of is not None and not of.any() for of in made[1:])
    assert cell.push(None, torch.empty_like(ran.output), trace).shape == (0, H)


@every_cell
@in_blocks
def test_a_signal_may_be_expanded_and_nothing_given_is_written_to(name: str) -> None:
    problem = problem_of(name, lengths=LENGTHS["even"])
    trace = trace_of(name, problem)
    signal = torch.randn(1, H, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = [signal, trace.inputs, trace.output, *trace.memory, *trace.initial, *trace.weights]
    before = [tensor.clone() for tensor in given if tensor is not None]
    num_rows = problem.steps.num_rows
    made = gradients(name, signal.expand(num_rows, H), trace)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, before, strict=True))
    assert_equal(made, gradients(name, signal.repeat(num_rows, 1), trace), tolerance=1e-14)


@every_cell
@pytest.mark.parametrize("field", Wanted._fields)
@pytest.mark.parametrize("per_gate", [False, True], ids=["shared", "per gate"])
def test_what_is_not_wanted_is_not_made(name: str, field: str, per_gate: bool) -> None:
    problem = problem_of(name)
    trace, signal = trace_of(name, problem), problem.rows(problem.signals(per_gate))
    everything = gradients(name, signal, trace)
    without = gradients(name, signal, trace, Wanted()._replace(**{field: False}))
    assert_equal(without, everything._replace(**{field: None}), tolerance=1e-14)
    alone = gradients(name, signal, trace, Wanted(*(other == field for other in Wanted._fields)))
    nothing = Gradients(*(None,) * len(Gradients._fields))
    assert_equal(alone, nothing._replace(**{field: getattr(everything, field)}), tolerance=1e-14)


@every_cell
def test_gradients_of_the_biases_are_two_tensors(name: str) -> None:
    problem = problem_of(name)
    made = gradients(name, problem.rows(problem.signals()), trace_of(name, problem))
    assert made.bias_ih is not None
    assert made.bias_hh is not None
    assert made.bias_ih.data_ptr() != made.bias_hh.data_ptr()


@every_cell
def test_parameters_that_ask_for_gradients_make_no_graph(name: str) -> None:
    problem = problem_of(name)
    weights = Weights(*(None if own is None else own.clone().requires_grad_() for own in problem.weights))
    learning = Sequences(problem.inputs, problem.initial, weights, problem.lengths, H, problem.num_gates)
    trace = trace_of(name, learning)
    signal = problem.rows(problem.signals())
    made = [*gradients(name, signal, trace), CELLS[name][0].push(None, signal, trace)]
    assert not any(tensor is not None and tensor.requires_grad for tensor in made)


@every_cell
@all_lengths
@both_ways
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("has_tangent", [True, False], ids=["input too", "states only"])
def test_a_tangent_is_pushed_through_time(
    name: str, lengths: tuple[int, ...], reverse: bool, has_tangent: bool
) -> None:
    problem = problem_of(name, lengths=lengths)
    inputs, perturbation = problem.rows(problem.inputs), problem.rows(problem.signals())
    tangent = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2), dtype=inputs.dtype)
    if not has_tangent:
        tangent.zero_()
    pushed = CELLS[name][0].push(tangent if has_tangent else None, perturbation, trace_of(name, problem, reverse))

    def unrolled(inputs: Tensor, added: Tensor) -> Tensor:
        return unrolled_with(name, problem, inputs, added, reverse)

    with forward_ad.dual_level():
        dual = unrolled(
            forward_ad.make_dual(inputs, tangent),
            forward_ad.make_dual(torch.zeros_like(perturbation), perturbation),
        )
        expected = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(pushed, expected, rtol=1e-12, atol=1e-12)


def unrolled_with(name: str, problem: Sequences, inputs: Tensor, added: Tensor, reverse: bool) -> Tensor:
    """The states `[R, H]` of a run in which something is added to the state after every step."""
    sizes = problem.steps.batch_sizes
    by_step, added_by_step = inputs.split(sizes), added.split(sizes)
    states: list[Tensor] = list(added_by_step)
    carried = problem.initial
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        before = tuple(torch.cat([state[: sizes[t]], state[sizes[t] :]])[: sizes[t]] for state in carried)
        after = CELLS[name][1](by_step[t], before, problem.weights)
        after = (after[0] + added_by_step[t], *after[1:])
        states[t] = after[0]
        carried = tuple(torch.cat([new, old[sizes[t] :]]) for new, old in zip(after, carried, strict=True))
    return torch.cat(states)


@every_cell
@both_ways
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_other_types(name: str, reverse: bool, dtype: torch.dtype, tolerance: float) -> None:
    problem = problem_of(name, lengths=LENGTHS["even"])
    signal = problem.rows(problem.signals())
    exact = gradients(name, signal, trace_of(name, problem, reverse))
    weights = Weights(*(None if own is None else own.to(dtype) for own in problem.weights))
    initial = tuple(state.to(dtype) for state in problem.initial)
    rough = Sequences(problem.inputs.to(dtype), initial, weights, problem.lengths, H, problem.num_gates)
    made = gradients(name, signal.to(dtype), trace_of(name, rough, reverse))
    for one, other in zip(made, exact, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == dtype
        assert (one.double() - other).norm() < tolerance * other.norm()


@every_cell
@even_or_packed
def test_under_autocast_it_runs_and_learns(name: str, lengths: tuple[int, ...]) -> None:
    problem = problem_of(name, lengths=lengths)
    weights = Weights(*(None if own is None else own.float() for own in problem.weights))
    initial = tuple(state.float() for state in problem.initial)
    single = Sequences(problem.inputs.float(), initial, weights, lengths, H, problem.num_gates)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = trace_of(name, single)
    assert all(kept.dtype == trace.output.dtype for kept in trace.memory)
    signal = problem.rows(problem.signals())
    made = gradients(name, signal.to(trace.output.dtype), trace.to(trace.output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gradients(name, signal.float(), trace.to(torch.float32))
        pushed = CELLS[name][0].push(trace.inputs, signal.float(), trace)
    assert all(of is not None and of.dtype == torch.float32 for of in (*inside, pushed))
    exact = gradients(name, signal, trace_of(name, problem))
    for one, other in zip(made, exact, strict=True):
        assert one is not None
        assert other is not None
        assert (one.double() - other).norm() < 0.1 * other.norm()


@every_cell
@even_or_packed
@both_ways
def test_models_side_by_side_under_vmap(name: str, lengths: tuple[int, ...], reverse: bool) -> None:
    problems = [problem_of(name, lengths=lengths, seed=seed) for seed in (0, 1)]
    signals = [problem.rows(problem.signals()) for problem in problems]
    inputs = [problem.rows(problem.inputs) for problem in problems]
    steps, cell = problems[0].steps, CELLS[name][0]

    def learn(weights: Weights, states: tuple[Tensor, ...], inputs: Tensor, signal: Tensor) -> Gradients:
        weights = Weights(*weights)
        both = tuple(torch.stack([state, state]) for state in states)
        ran, own = cell.run(inputs, both, (weights, weights), steps), slice(H, None) if reverse else slice(H)
        memory = tuple(kept[:, own] for kept in ran.memory)
        return cell.gradients(
            signal, Trace(inputs, ran.output[:, own], memory, states, weights, steps, reverse), Wanted()
        )

    stacked_weights = tuple(torch.stack(own) for own in zip(*(problem.weights for problem in problems), strict=True))
    stacked_states = tuple(torch.stack(own) for own in zip(*(problem.initial for problem in problems), strict=True))
    made = torch.func.vmap(learn)(stacked_weights, stacked_states, torch.stack(inputs), torch.stack(signals))
    for number, problem in enumerate(problems):
        expected = gradients(name, signals[number], trace_of(name, problem, reverse))
        assert_equal(Gradients(*(own[number] for own in made)), expected, tolerance=1e-12)


@every_cell
def test_many_signals_of_one_run_under_vmap(name: str) -> None:
    problem = problem_of(name)
    trace = trace_of(name, problem)
    signals = torch.stack([problem.rows(problem.signals(seed=seed)) for seed in (1, 2)])
    made = torch.func.vmap(lambda signal: gradients(name, signal, trace))(signals)
    for number, signal in enumerate(signals):
        assert_equal(Gradients(*(own[number] for own in made)), gradients(name, signal, trace), tolerance=1e-12)


@pytest.fixture
def _always_convolves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(products, "_MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(products, "_MIN_ROWS_OF_SUM", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_always_convolves")
@pytest.mark.parametrize(("num_rows", "size", "columns"), [(1, 1, 1), (7, 3, 20), (33, 16, 5)])
def test_products_by_convolution(num_rows: int, size: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(num_rows, 2 * size, generator=generator)[:, :size]
    weight, bias = torch.randn(size, columns, generator=generator).t(), torch.randn(columns, generator=generator)
    delta = torch.randn(num_rows, columns + 1, generator=generator)[:, 1:]
    total = torch.randn(columns, size, generator=generator)
    assert products.convolves(given, columns)
    torch.testing.assert_close(products.product(given, weight, bias), F.linear(given, weight, bias))
    torch.testing.assert_close(products.product(given, weight), given @ weight.t())
    added = products.add_product(delta.clone(), given, weight)
    torch.testing.assert_close(added, delta + given @ weight.t())
    torch.testing.assert_close(products.add_sum(total.clone(), delta, given), total + delta.t() @ given)


@every_cell
@both_ways
@even_or_packed
@pytest.mark.usefixtures("_always_convolves", "_blocks")
def test_gradients_by_convolution(name: str, reverse: bool, lengths: tuple[int, ...]) -> None:
    problem = problem_of(name, lengths=lengths)
    weights = Weights(*(None if own is None else own.float() for own in problem.weights))
    initial = tuple(state.float() for state in problem.initial)
    single = Sequences(problem.inputs.float(), initial, weights, lengths, H, problem.num_gates)
    signal = problem.rows(problem.signals())
    made = gradients(name, signal.float(), trace_of(name, single, reverse))
    expected = gradients(name, signal, trace_of(name, problem, reverse))
    for one, other in zip(made, expected, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)
