"""The specification: equal to autograd on each step with the state before it detached, and to torch's own layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from feedalign.recurrent import naive
from feedalign.recurrent.naive import NaiveCell, ParameterSignals
from recurrent.sequences import (
    Sequences,
    Step,
    assert_equal,
    by_autograd,
    by_autograd_per_gate,
    gru_step,
    lstm_step,
    relu_step,
    reset_before_step,
    reset_state,
    sequences,
    tanh_step,
)

CELLS = {
    "rnn-tanh": (naive.RNN_TANH, tanh_step, 1, 1),
    "rnn-relu": (naive.RNN_RELU, relu_step, 1, 1),
    "gru-reset-before": (naive.GRU_RESET_BEFORE, reset_before_step, 3, 1),
    "gru-reset-after": (naive.GRU_RESET_AFTER, gru_step, 3, 1),
    "lstm": (naive.LSTM, lstm_step, 4, 2),
}
TORCH_LAYERS: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "rnn-tanh": nn.RNN,
    "rnn-relu": lambda i, h: nn.RNN(i, h, nonlinearity="relu"),
    "gru-reset-after": nn.GRU,
    "lstm": nn.LSTM,
}
every_cell = pytest.mark.parametrize(("cell", "step", "num_gates", "num_states"), CELLS.values(), ids=CELLS)
torch_cells = pytest.mark.parametrize("name", TORCH_LAYERS)
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
with_and_without_bias = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])


def gradients(cell: NaiveCell, problem: Sequences, signal: Tensor, reverse: bool = False) -> naive.Gradients:
    made = naive.gradients(
        cell, signal, problem.inputs, problem.initial, problem.weights, mask=problem.mask, reverse=reverse
    )
    assert made.input is not None
    return made


@every_cell
@both_ways
@with_and_without_bias
def test_gradients_are_those_of_each_step_with_the_state_before_it_detached(
    cell: NaiveCell, step: Step, num_gates: int, num_states: int, reverse: bool, bias: bool
) -> None:
    problem = sequences(num_gates, num_states=num_states, bias=bias)
    signal = problem.signals()
    expected = by_autograd(step, problem, signal, reverse=reverse)
    assert_equal(gradients(cell, problem, signal, reverse), expected)


@every_cell
@both_ways
def test_each_gate_may_have_its_own_signal(
    cell: NaiveCell, step: Step, num_gates: int, num_states: int, reverse: bool
) -> None:
    problem = sequences(num_gates, num_states=num_states)
    signal = problem.signals(per_gate=True)
    taught = {0: reset_state} if cell is naive.GRU_RESET_BEFORE else None
    expected = by_autograd_per_gate(step, problem, signal, reverse=reverse, taught=taught)
    assert_equal(gradients(cell, problem, signal, reverse), expected)


@every_cell
def test_one_signal_repeated_for_every_gate_is_the_shared_one_unless_it_replaces_a_weight(
    cell: NaiveCell, step: Step, num_gates: int, num_states: int
) -> None:
    problem = sequences(num_gates, num_states=num_states)
    signal = problem.signals()
    shared, repeated = gradients(cell, problem, signal), gradients(cell, problem, signal.repeat(1, 1, num_gates))
    if cell is not naive.GRU_RESET_BEFORE:
        assert_equal(shared, repeated)
        return
    assert shared.hh is not None
    assert repeated.hh is not None
    assert not torch.allclose(shared.hh[:4], repeated.hh[:4], rtol=0.1)
    torch.testing.assert_close(shared.hh[4:], repeated.hh[4:], rtol=1e-12, atol=1e-12)


@every_cell
def test_every_parameter_may_have_its_own_signals(cell: NaiveCell, step: Step, num_gates: int, num_states: int) -> None:
    problem = sequences(num_gates, num_states=num_states)
    signals = ParameterSignals(*(problem.signals(per_gate=True, seed=seed) for seed in (1, 2, 3)))
    made = naive.separate_gradients(cell, signals, problem.inputs, problem.initial, problem.weights, mask=problem.mask)
    taught = {0: reset_state} if cell is naive.GRU_RESET_BEFORE else None
    by_ih, by_hh, by_bias = (by_autograd_per_gate(step, problem, signal, taught=taught) for signal in signals)
    expected = naive.Gradients(by_ih.input, by_ih.ih, by_hh.hh, by_bias.bias_ih, by_bias.bias_hh)
    assert_equal(made, expected)


@torch_cells
@both_ways
def test_runs_as_torchs_layer_on_packed_sequences(name: str, reverse: bool) -> None:
    """torch's layer of two directions: the second one is the reverse."""
    cell, _, num_gates, num_states = CELLS[name]
    problem = sequences(num_gates, num_states=num_states)
    layer = TORCH_LAYERS[name](3, 4).double()
    layer = type(layer)(3, 4, bidirectional=True, **({"nonlinearity": "relu"} if name == "rnn-relu" else {})).double()
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), (*problem.weights, *problem.weights), strict=True):
            parameter.copy_(value)
        packed = PackedSequence(problem.rows(problem.inputs), problem.steps.sizes())
        initial = tuple(torch.stack([state, state]) for state in problem.initial)
        expected, final = layer(packed, initial if num_states == 2 else initial[0])
    output, states = naive.run(
        cell, problem.inputs, problem.initial, problem.weights, mask=problem.mask, reverse=reverse
    )
    mine = slice(4, None) if reverse else slice(4)
    torch.testing.assert_close(problem.rows(output), expected.data[:, mine], rtol=1e-12, atol=1e-12)
    assert not output[~problem.mask].any()
    for got, whole in zip(states, final if num_states == 2 else (final,), strict=True):
        torch.testing.assert_close(got, whole[int(reverse)], rtol=1e-12, atol=1e-12)


@both_ways
def test_runs_the_papers_gru(reverse: bool) -> None:
    problem = sequences(3, lengths=(4, 4, 4))
    states, expected = problem.initial, {}
    for t in reversed(range(4)) if reverse else range(4):
        states = reset_before_step(problem.inputs[:, t], states, problem.weights)
        expected[t] = states[0]
    output, final = naive.run(naive.GRU_RESET_BEFORE, problem.inputs, problem.initial, problem.weights, reverse=reverse)
    torch.testing.assert_close(output, torch.stack([expected[t] for t in range(4)], 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final[0], states[0], rtol=1e-12, atol=1e-12)


def backprop(name: str, problem: Sequences, signal: Tensor) -> list[Tensor]:
    """Exact backprop through time by torch's layer."""
    layer = TORCH_LAYERS[name](3, 4).double()
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), problem.weights, strict=True):
            parameter.copy_(value)
    initial = tuple(state[None] for state in problem.initial)
    inputs = problem.inputs.transpose(0, 1).clone().requires_grad_()
    output, _ = layer(inputs, initial if len(initial) == 2 else initial[0])
    return list(torch.autograd.grad((output.transpose(0, 1) * signal).sum(), [inputs, *layer.parameters()]))


@torch_cells
def test_a_single_step_is_exact_backprop(name: str) -> None:
    cell, _, num_gates, num_states = CELLS[name]
    problem = sequences(num_gates, num_states=num_states, lengths=(1, 1, 1))
    signal = problem.signals()
    of_input, *of_weights = backprop(name, problem, signal)
    expected = naive.Gradients(of_input.transpose(0, 1), *of_weights)
    assert_equal(gradients(cell, problem, signal), expected)


@torch_cells
def test_two_steps_are_not(name: str) -> None:
    cell, _, num_gates, num_states = CELLS[name]
    problem = sequences(num_gates, num_states=num_states, lengths=(2, 2, 2))
    signal = problem.signals()
    _, of_ih, of_hh, *_ = backprop(name, problem, signal)
    made = gradients(cell, problem, signal)
    assert made.ih is not None
    assert made.hh is not None
    assert not torch.allclose(made.ih, of_ih, rtol=0.01)
    assert not torch.allclose(made.hh, of_hh, rtol=0.01)


@both_ways
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
def test_a_teaching_signal_hears_of_all_errors_that_its_state_can_influence(gamma: float, reverse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    feedback = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    mask = naive.mask_of(torch.tensor([6, 4, 1]), 6)
    masked = errors.where(mask[..., None], torch.nan)
    signals = naive.teaching_signals(masked, feedback, gamma, mask=mask, reverse=reverse)
    for sample, length in enumerate((6, 4, 1)):
        for t in range(length):
            later = range(t + 1) if reverse else range(t, length)
            expected = sum(gamma ** abs(s - t) * (errors[sample, s] @ feedback) for s in later)
            torch.testing.assert_close(signals[sample, t], expected, rtol=1e-12, atol=1e-12)


def test_an_error_at_the_end_alone_teaches_every_step_alike() -> None:
    errors = torch.zeros(3, 5, 2, dtype=torch.float64)
    errors[:, -1] = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    feedback = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = (errors[:, -1] @ feedback)[:, None].expand(-1, 5, -1)
    assert torch.equal(naive.teaching_signals(errors, feedback), expected)


def printed_update(problem: Sequences, signal: Tensor) -> dict[str, Tensor]:
    """Appendix A as it stands, read as far as its shapes allow: `[H, ...]` for each parameter that it lists."""
    (h,), weights = problem.initial, problem.weights
    w_r = weights.hh.chunk(3)[0]
    totals = {name: torch.zeros(()) for name in ("W_z", "V_z", "W_r", "V_r", "W_c", "V_c")}
    for t in range(problem.lengths[0]):
        x, be = problem.inputs[:, t], signal[:, t]
        r, z, c = naive._reset_before_gates(x, h, weights)
        factor_z = (be * h - be * c) * (r * (1 - r))
        factor_c = (be * (1 - z) * (1 - c * c)) @ w_r.T
        factor_r = factor_c * h * (r * (1 - r))
        of_step = {"W_z": factor_z.T @ h, "V_z": factor_z.T @ x, "W_r": factor_r.T @ h, "V_r": factor_r.T @ x}
        of_step |= {"W_c": factor_c.T @ (r * h), "V_c": factor_c.T @ x}
        totals = {name: total + of_step[name] for name, total in totals.items()}
        h = (1 - z) * c + z * h
    return totals


def test_the_update_as_the_paper_prints_it_is_another() -> None:
    """Candidate and reset gate learn at random; the update gate's factor is near for gates near 1/2."""
    problem = sequences(3, lengths=(6, 6, 6), input_size=8, hidden_size=32, bias=False)
    problem.weights.hh.mul_(0.2)
    signal = problem.signals()
    made = gradients(naive.GRU_RESET_BEFORE, problem, signal)
    assert made.hh is not None
    assert made.ih is not None
    mended = dict(zip(("W_r", "W_z", "W_c"), made.hh.chunk(3), strict=True))
    mended |= dict(zip(("V_r", "V_z", "V_c"), made.ih.chunk(3), strict=True))
    printed = printed_update(problem, signal)
    cosine = {
        name: float(torch.cosine_similarity(mended[name].flatten(), printed[name].flatten(), 0)) for name in mended
    }
    assert all(abs(cosine[name]) < 0.4 for name in ("W_r", "V_r", "W_c", "V_c")), cosine
    assert all(0.5 < cosine[name] < 0.999 for name in ("W_z", "V_z")), cosine


def test_padding_may_hold_anything_and_teaches_nothing() -> None:
    """The sequences are padded with NaN; without the mask it would spread."""
    problem = sequences(3)
    made = gradients(naive.GRU_RESET_BEFORE, problem, problem.signals())
    assert all(value is not None and value.isfinite().all() for value in made)
    unmasked = naive.gradients(
        naive.GRU_RESET_BEFORE, problem.signals(), problem.inputs, problem.initial, problem.weights
    )
    assert unmasked.hh is not None
    assert unmasked.hh.isnan().any()
