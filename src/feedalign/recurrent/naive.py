"""The specification: recurrent layers and their local gradients as a loop over time, to be read and compared with.

Notation, for one step of one layer: `x` `[N, I]` its input, `h` `[N, H]` the state before it, `h'` the state after it,
`s` `[N, H]` the teaching signal that stands for `dL/dh'`, `*` the elementwise and `@` the matrix product. Parameters
are stacked as torch stacks them (see `Weights`): `W_ir` are the rows of `weight_ih` that belong to gate r. Where each
gate has a signal of its own, `s_r` is that of r; otherwise `s_r = s_z = ... = s`.

In every step the state before it is held constant: nothing is sent back in time. The gradient of a parameter is the
sum, over samples and steps, of what each step would give it alone.

Source: "Direct Feedback Alignment for Recurrent Neural Networks", Eqs. 3-5 and Appendix A. The paper writes V for
`weight_ih`, W for `weight_hh`, c for the gate n, and one bias for the sum of torch's two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.recurrent.cell import Gradients, Weights

State = tuple[Tensor, ...]
Local = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class NaiveCell(NamedTuple):
    """A recurrent cell, as two functions of one step.

    Attributes:
        step: `(x, states, weights) -> states`, each state `[N, H]`, the first one the output.
        local_gradients: `(signal, x, states, weights)` -> gradients of x `[N, I]`, `weight_ih`, `weight_hh`, `bias_ih`
            and `bias_hh`; the states before the step are constants. The signal is `[N, H]`, or `[N, G * H]` with one
            for each gate.
    """

    step: Callable[[Tensor, State, Weights], State]
    local_gradients: Callable[[Tensor, Tensor, State, Weights], Local]


class ParameterSignals(NamedTuple):
    """A teaching signal for every parameter of every gate, each `[N, T, G * H]`.

    Attributes:
        ih: Those of `weight_ih` (B_V in the paper's Fig. 1).
        hh: Those of `weight_hh` (B_W in the paper's Fig. 1).
        bias: Those of the biases.
    """

    ih: Tensor
    hh: Tensor
    bias: Tensor


def run(
    cell: NaiveCell,
    inputs: Tensor,
    initial: State,
    weights: Weights,
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run a cell over sequences.

    Args:
        cell: One of this module's.
        inputs: `[N, T, I]`.
        initial: The states before the first step, each `[N, H]`.
        weights: One direction of one layer.
        mask: Which steps there are, `[N, T]` bool; elsewhere the state stays as it is and the output is zero.
        reverse: Run from the last step to the first.

    Returns:
        The output `[N, T, H]`, and the states after all steps, each `[N, H]`.
    """
    states, outputs = initial, {}
    for t in _times(inputs, reverse):
        there = _there(inputs, mask, t)
        after = cell.step(_only(there, inputs[:, t]), states, weights)
        outputs[t] = _only(there, after[0])
        states = _where(there, after, states)
    return _in_order(outputs), states


def gradients(
    cell: NaiveCell,
    signal: Tensor,
    inputs: Tensor,
    initial: State,
    weights: Weights,
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> Gradients:
    """Sum what each step gives alone, with the state before it held constant (Eqs. 4-5).

    Args:
        cell: One of this module's.
        signal: The teaching signal of every step, `[N, T, H]`; or `[N, T, G * H]`, one for each gate.
        inputs: See `run`.
        initial: See `run`.
        weights: See `run`.
        mask: Which steps there are, `[N, T]` bool; nothing is learned from the others.
        reverse: See `run`.

    Returns:
        The gradients, that of the input `[N, T, I]`; None for biases that there are not.
    """
    states, of_inputs = initial, {}
    totals: list[Tensor] = []
    for t in _times(inputs, reverse):
        there = _there(inputs, mask, t)
        x = _only(there, inputs[:, t])
        of_inputs[t], *of_weights = cell.local_gradients(_only(there, signal[:, t]), x, states, weights)
        totals = [total + of for total, of in zip(totals, of_weights, strict=True)] if totals else of_weights
        states = _where(there, cell.step(x, states, weights), states)
    ih, hh, bias_ih, bias_hh = totals
    return Gradients(
        input=_in_order(of_inputs),
        ih=ih,
        hh=hh,
        bias_ih=None if weights.bias_ih is None else bias_ih,
        bias_hh=None if weights.bias_hh is None else bias_hh,
    )


def separate_gradients(
    cell: NaiveCell,
    signals: ParameterSignals,
    inputs: Tensor,
    initial: State,
    weights: Weights,
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> Gradients:
    """Give every parameter what its own teaching signal makes of it ("B can also be different", end of Appendix A).

    Args:
        cell: One of this module's.
        signals: The teaching signals.
        inputs: See `run`.
        initial: See `run`.
        weights: See `run`.
        mask: See `gradients`.
        reverse: See `run`.

    Returns:
        The gradients; the input has that of `weight_ih`'s signals.
    """
    of_ih, of_hh, of_bias = (
        gradients(cell, signal, inputs, initial, weights, mask=mask, reverse=reverse) for signal in signals
    )
    return Gradients(of_ih.input, of_ih.ih, of_hh.hh, of_bias.bias_ih, of_bias.bias_hh)


def teaching_signals(
    errors: Tensor, feedback: Tensor, gamma: float = 1.0, *, mask: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """Project all errors that a state can still influence: `g_t = (sum_{s >= t} gamma^(s - t) E_s) B`.

    An error at the last step alone, and gamma 1, give `g_t = E B` at every step: the paper's Eqs. 4-5. With gamma 0 a
    step hears of its own error alone.

    Args:
        errors: The error of every step's output, `[N, T, C]`.
        feedback: B, `[C, H]`.
        gamma: What an error counts one step before, from 0 to 1.
        mask: Which steps have an error, `[N, T]` bool.
        reverse: The layer runs from the last step to the first: its states influence the outputs of earlier steps.

    Returns:
        `[N, T, H]`.
    """
    total, signals = torch.zeros_like(errors[:, 0]), {}
    for t in _times(errors, not reverse):
        total = _only(_there(errors, mask, t), errors[:, t]) + gamma * total
        signals[t] = total @ feedback
    return _in_order(signals)


def mask_of(lengths: Tensor, num_steps: int) -> Tensor:
    """Return which steps there are, `[N, T]` bool, in sequences of these lengths `[N]`, padded at their ends."""
    return torch.arange(num_steps, device=lengths.device) < lengths[:, None]


def _tanh_step(x: Tensor, states: State, weights: Weights) -> State:
    """`h' = tanh(x @ W_ih^T + b_ih + h @ W_hh^T + b_hh)` (Eq. 3)."""
    return (torch.tanh(_preactivation(x, states[0], weights)),)


def _tanh_gradients(signal: Tensor, x: Tensor, states: State, weights: Weights) -> Local:
    """`delta = s * (1 - h'^2)`, `G_hh = delta^T @ h` (Eq. 4), `G_ih = delta^T @ x` (Eq. 5), `G_b = delta`."""
    (after,) = _tanh_step(x, states, weights)
    delta = signal * (1 - after**2)
    return _through_products(delta, x, delta, states[0], weights)


def _relu_step(x: Tensor, states: State, weights: Weights) -> State:
    """`h' = max(0, x @ W_ih^T + b_ih + h @ W_hh^T + b_hh)` (Eq. 3)."""
    return (_preactivation(x, states[0], weights).clamp(min=0),)


def _relu_gradients(signal: Tensor, x: Tensor, states: State, weights: Weights) -> Local:
    """As for tanh, with `delta = s * [h' > 0]`."""
    (after,) = _relu_step(x, states, weights)
    delta = signal * (after > 0)
    return _through_products(delta, x, delta, states[0], weights)


def _reset_before_gates(x: Tensor, h: Tensor, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """`r`, `z` and `n`, each `[N, H]`."""
    w_hr, w_hz, w_hn = weights.hh.chunk(3)
    b_hr, b_hz, b_hn = (0.0, 0.0, 0.0) if weights.bias_hh is None else weights.bias_hh.chunk(3)
    x_r, x_z, x_n = _affine(x, weights.ih, weights.bias_ih).chunk(3, -1)
    r = torch.sigmoid(x_r + h @ w_hr.T + b_hr)
    z = torch.sigmoid(x_z + h @ w_hz.T + b_hz)
    n = torch.tanh(x_n + (r * h) @ w_hn.T + b_hn)
    return r, z, n


def _reset_before_step(x: Tensor, states: State, weights: Weights) -> State:
    """The paper's GRU (Section 4): the reset gate acts on the state before the product with W_hn.

    `r = sigmoid(x @ W_ir^T + b_ir + h @ W_hr^T + b_hr)`, `z = sigmoid(x @ W_iz^T + b_iz + h @ W_hz^T + b_hz)`,
    `n = tanh(x @ W_in^T + b_in + (r * h) @ W_hn^T + b_hn)`, `h' = (1 - z) * n + z * h`.
    """
    (h,) = states
    _, z, n = _reset_before_gates(x, h, weights)
    return ((1 - z) * n + z * h,)


def _reset_before_gradients(signal: Tensor, x: Tensor, states: State, weights: Weights) -> Local:
    """The paper's GRU update (Appendix A), mended.

    `delta_n = s_n * (1 - z) * (1 - n^2)`, `delta_z = s_z * (h - n) * z * (1 - z)`, and for the reset gate

    * with one signal for all gates `delta_r = (delta_n @ W_hn) * h * r * (1 - r)`, the exact local gradient, which
      takes a transposed weight: weight transport inside the cell;
    * with one for each gate `delta_r = s_r * h * r * (1 - r)`, where s_r stands for `dL/d(r * h)`; no weight is
      transported.

    `G_ih = [delta_r, delta_z, delta_n]^T @ x`, `G_hr = delta_r^T @ h`, `G_hz = delta_z^T @ h`,
    `G_hn = delta_n^T @ (r * h)`, and biases without the outer product.

    Differs from the paper, whose printed update is not the local gradient of its cell. Update gate: it prints
    `r * (1 - r)` for `z * (1 - z)`. Reset gate: `W_r (...)` for `W_c^T (...)`, the transposed candidate weight, and no
    `*` before h. Candidate: a factor `W_r` in front of both updates where none belongs, and in that of `W_c` a
    transpose of the whole product instead of `r * h`.
    """
    (h,) = states
    r, z, n = _reset_before_gates(x, h, weights)
    s_r, s_z, s_n = _signals(signal, h, 3)
    delta_n = s_n * (1 - z) * (1 - n**2)
    delta_z = s_z * (h - n) * z * (1 - z)
    one_for_all = signal.shape[-1] == h.shape[-1]
    delta_r = (delta_n @ weights.hh.chunk(3)[2] if one_for_all else s_r) * h * r * (1 - r)
    deltas = torch.cat([delta_r, delta_z, delta_n], -1)
    of_hh = torch.cat([delta_r.T @ h, delta_z.T @ h, delta_n.T @ (r * h)])
    return deltas @ weights.ih, deltas.T @ x, of_hh, deltas.sum(0), deltas.sum(0)


def _reset_after_gates(x: Tensor, h: Tensor, weights: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`r`, `z`, `n` and `q`, each `[N, H]`."""
    x_r, x_z, x_n = _affine(x, weights.ih, weights.bias_ih).chunk(3, -1)
    h_r, h_z, q = _affine(h, weights.hh, weights.bias_hh).chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return r, z, torch.tanh(x_n + r * q), q


def _reset_after_step(x: Tensor, states: State, weights: Weights) -> State:
    """Torch's GRU: as the paper's, but `n = tanh(x @ W_in^T + b_in + r * q)` with `q = h @ W_hn^T + b_hn`."""
    (h,) = states
    _, z, n, _ = _reset_after_gates(x, h, weights)
    return ((1 - z) * n + z * h,)


def _reset_after_gradients(signal: Tensor, x: Tensor, states: State, weights: Weights) -> Local:
    """The same rule for torch's GRU, which the paper does not treat; no weight is transposed.

    `delta_n = s_n * (1 - z) * (1 - n^2)`, `delta_z = s_z * (h - n) * z * (1 - z)`,
    `delta_r = s_r * (1 - z) * (1 - n^2) * q * r * (1 - r)`, `G_ih = [delta_r, delta_z, delta_n]^T @ x`,
    `G_hh = [delta_r, delta_z, delta_n * r]^T @ h`, and biases without the outer product.
    """
    (h,) = states
    r, z, n, q = _reset_after_gates(x, h, weights)
    s_r, s_z, s_n = _signals(signal, h, 3)
    delta_n = s_n * (1 - z) * (1 - n**2)
    delta_z = s_z * (h - n) * z * (1 - z)
    delta_r = s_r * (1 - z) * (1 - n**2) * q * r * (1 - r)
    to_ih = torch.cat([delta_r, delta_z, delta_n], -1)
    to_hh = torch.cat([delta_r, delta_z, delta_n * r], -1)
    return _through_products(to_ih, x, to_hh, h, weights)


def _lstm_gates(x: Tensor, states: State, weights: Weights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`i`, `f`, `g` and `o`, each `[N, H]`."""
    i, f, g, o = _preactivation(x, states[0], weights).chunk(4, -1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)


def _lstm_step(x: Tensor, states: State, weights: Weights) -> State:
    """Torch's LSTM without projection, with states h and c.

    `i`, `f` and `o` are `sigmoid(x @ W_i.^T + b_i. + h @ W_h.^T + b_h.)`, `g` is the same with tanh,
    `c' = f * c + i * g`, `h' = o * tanh(c')`.
    """
    i, f, g, o = _lstm_gates(x, states, weights)
    c_after = f * states[1] + i * g
    return o * torch.tanh(c_after), c_after


def _lstm_gradients(signal: Tensor, x: Tensor, states: State, weights: Weights) -> Local:
    """The same rule for torch's LSTM, which the paper does not treat; h and c are held constant, no weight transposed.

    With `k = o * (1 - tanh(c')^2)`: `delta_i = s_i * k * g * i * (1 - i)`, `delta_f = s_f * k * c * f * (1 - f)`,
    `delta_g = s_g * k * i * (1 - g^2)`, `delta_o = s_o * tanh(c') * o * (1 - o)`;
    `G_ih = [delta_i, delta_f, delta_g, delta_o]^T @ x`, `G_hh` the same with h, and biases without the outer product.
    """
    h, c = states
    i, f, g, o = _lstm_gates(x, states, weights)
    _, c_after = _lstm_step(x, states, weights)
    s_i, s_f, s_g, s_o = _signals(signal, h, 4)
    k = o * (1 - torch.tanh(c_after) ** 2)
    delta_i = s_i * k * g * i * (1 - i)
    delta_f = s_f * k * c * f * (1 - f)
    delta_g = s_g * k * i * (1 - g**2)
    delta_o = s_o * torch.tanh(c_after) * o * (1 - o)
    deltas = torch.cat([delta_i, delta_f, delta_g, delta_o], -1)
    return _through_products(deltas, x, deltas, h, weights)


RNN_TANH = NaiveCell(_tanh_step, _tanh_gradients)
RNN_RELU = NaiveCell(_relu_step, _relu_gradients)
GRU_RESET_BEFORE = NaiveCell(_reset_before_step, _reset_before_gradients)
GRU_RESET_AFTER = NaiveCell(_reset_after_step, _reset_after_gradients)
LSTM = NaiveCell(_lstm_step, _lstm_gradients)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.T if bias is None else x @ weight.T + bias


def _preactivation(x: Tensor, h: Tensor, weights: Weights) -> Tensor:
    return _affine(x, weights.ih, weights.bias_ih) + _affine(h, weights.hh, weights.bias_hh)


def _through_products(to_ih: Tensor, x: Tensor, to_hh: Tensor, h: Tensor, weights: Weights) -> Local:
    """The gradients, given those of `x @ W_ih^T + b_ih` and of `h @ W_hh^T + b_hh`, each `[N, G * H]`."""
    return to_ih @ weights.ih, to_ih.T @ x, to_hh.T @ h, to_ih.sum(0), to_hh.sum(0)


def _signals(signal: Tensor, h: Tensor, num_gates: int) -> tuple[Tensor, ...]:
    """The signal of each gate, `[N, H]`: its own, or the one that all share."""
    return (signal,) * num_gates if signal.shape[-1] == h.shape[-1] else signal.chunk(num_gates, -1)


def _times(sequences: Tensor, reverse: bool) -> Iterable[int]:
    times = range(sequences.shape[1])
    return reversed(times) if reverse else times


def _there(sequences: Tensor, mask: Tensor | None, t: int) -> Tensor:
    """Which samples have step t, `[N, 1]` bool."""
    return sequences.new_ones(len(sequences), 1, dtype=torch.bool) if mask is None else mask[:, t, None]


def _only(there: Tensor, values: Tensor) -> Tensor:
    """Zero in the place of padding, which may be anything."""
    return torch.where(there, values, torch.zeros_like(values))


def _where(there: Tensor, after: State, before: State) -> State:
    return tuple(torch.where(there, new, old) for new, old in zip(after, before, strict=True))


def _in_order(steps: dict[int, Tensor]) -> Tensor:
    return torch.stack([steps[t] for t in sorted(steps)], 1)
