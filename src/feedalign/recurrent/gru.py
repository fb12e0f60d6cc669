"""torch's gated recurrent unit, whose reset gate acts behind the product with the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import run_fused
from feedalign.recurrent.in_place import may_write
from feedalign.recurrent.products import add_product, product
from feedalign.recurrent.rows import Block, Piece, Signals, blocks, ends, joined, meeting, pieces_before, walk
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums, rows_per_block

_aten = torch.ops.aten


class _Gates(NamedTuple):
    """The gates of some rows, each `[rows, H]`, and `q`, what the state sends to n."""

    r: Tensor
    z: Tensor
    q: Tensor
    n: Tensor


class GRU(Cell):
    """torch.nn.GRU's cell, gates stacked as r, z, n.

    `r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)`, z alike, `q = W_hn h + b_hn`, `n = tanh(W_in x + b_in + r q)`, and
    `h' = (1 - z) n + z h`.
    """

    num_gates = 3

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """See `Cell`."""
        if inputs.device.type != "cpu" or not may_write(inputs, *states, *weights[0]):
            output, final = run_fused(torch._VF.gru, inputs, states[0], weights, steps)
            return Ran(output, (final,))
        outputs = [_run_direction(inputs, states[0][d], own, steps, d == 1) for d, own in enumerate(weights)]
        final = torch.stack([ends(output, steps, d == 1) for d, output in enumerate(outputs)])
        return Ran(outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), (final,))

    @torch.no_grad()
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        num_units = trace.output.shape[1]
        writes = may_write(trace.output, trace.inputs, signal, *trace.weights) and signal.shape[1] == num_units
        for block in blocks(steps, rows_per_block(trace)):
            pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
            gates = _gates(trace, block, pieces)
            if writes:
                delta = _shared_deltas(signals.of(block), gates, pieces)
                sums.add_input(block, delta)
                delta[:, 2 * num_units :].mul_(gates.r)
            else:
                signal = signals.of(block)
                delta = _slopes(gates, joined(pieces)) * signal.repeat(1, 3 * num_units // signal.shape[1])
                sums.add_input(block, delta)
                delta = torch.cat([delta[:, : 2 * num_units], delta[:, 2 * num_units :] * gates.r], 1)
            sums.add_state(pieces, delta)
        return sums.gradients()

    @torch.no_grad()
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """See `Cell`."""
        num_units = trace.output.shape[1]
        block = Block(0, trace.steps.num_steps, 0, trace.steps.num_rows)
        pieces = pieces_before(block, trace.output, trace.initial[0], trace.steps, trace.reverse)
        gates = _gates(trace, block, pieces)
        slopes = _slopes(gates, joined(pieces))
        pushed = perturbation.clone()
        if tangent is not None:
            pushed += (slopes * (tangent @ trace.weights.ih.t())).unflatten(1, (3, num_units)).sum(1)
        slopes[:, 2 * num_units :] *= gates.r
        state_weight = trace.weights.hh.t()
        for rows, before in walk(trace.steps, trace.reverse):
            through_gates = (pushed[before] @ state_weight).mul_(slopes[rows]).unflatten(1, (3, num_units)).sum(1)
            pushed[rows] += through_gates.addcmul_(gates.z[rows], pushed[before])
        return pushed


def _run_direction(inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Tensor:
    """A loop over time of five operations a step, by blocks, whose gates are made in the same memory."""
    num_units = initial.shape[1]
    output = initial.new_empty(steps.num_rows, num_units)
    state = None
    in_order = list(blocks(steps, 400))
    for block in reversed(in_order) if reverse else in_order:
        stacked, n = _enter(inputs[block.rows], weights)
        sizes = steps.batch_sizes[block.first : block.last]
        r, z, q = stacked.split(num_units, 1)
        by_step = [part.split(sizes) for part in (stacked, stacked[:, : 2 * num_units], r, z, q, n, output[block.rows])]
        own_steps = list(zip(*by_step, strict=True))
        for offset in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            all_three, rz, r_t, z_t, q_t, n_t, after = own_steps[offset]
            before = meeting(sizes[offset], state, initial)
            add_product(all_three, before, weights.hh)
            rz.sigmoid_()
            state = torch.lerp(n_t.addcmul_(r_t, q_t).tanh_(), before, z_t, out=after)
    return output


def _enter(inputs: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """What enters the gates beside the state: r and z with both biases, q with its own; and n."""
    num_units = weights.hh.shape[1]
    stacked = product(inputs, weights.ih, weights.bias)
    q = stacked[:, 2 * num_units :]
    n = q.clone()
    if weights.bias_hh is None:
        q.zero_()
    else:
        q.copy_(weights.bias_hh[2 * num_units :])
        n.sub_(q)
    return stacked, n


def _gates(trace: Trace, block: Block, pieces: Sequence[Piece]) -> _Gates:
    """Compute the gates of a block again."""
    weights, num_units = trace.weights, trace.output.shape[1]
    inputs, before = trace.inputs[block.rows], joined(pieces)
    if may_write(inputs, before, *weights):
        stacked, n = _enter(inputs, weights)
        add_product(stacked, before, weights.hh)
        stacked[:, : 2 * num_units].sigmoid_()
        r, z, q = stacked.split(num_units, 1)
        return _Gates(r, z, q, n.addcmul_(r, q).tanh_())
    x_r, x_z, x_n = product(inputs, weights.ih, weights.bias_ih).split(num_units, 1)
    h_r, h_z, q = product(before, weights.hh, weights.bias_hh).split(num_units, 1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    return _Gates(r, z, q, (x_n + r * q).tanh())


def _shared_deltas(signal: Tensor, gates: _Gates, pieces: Sequence[Piece]) -> Tensor:
    """Return what teaches each gate, as the input enters it, `[rows, 3 * H]`."""
    r, z, q, n = gates
    delta = n.new_empty(n.shape[0], 3 * n.shape[1])
    of_r, of_z, of_n = delta.split(n.shape[1], 1)
    torch.addcmul(signal, signal, z, value=-1, out=of_n)
    _aten.tanh_backward.grad_input(of_n, n, grad_input=of_n)
    torch.mul(of_n, q, out=of_r)
    _aten.sigmoid_backward.grad_input(of_r, r, grad_input=of_r)
    torch.sub(joined(pieces), n, out=of_z).mul_(signal)
    _aten.sigmoid_backward.grad_input(of_z, z, grad_input=of_z)
    return delta


def _slopes(gates: _Gates, before: Tensor) -> Tensor:
    """Return the derivative of the new state by what enters each gate, `[rows, 3 * H]`."""
    r, z, q, n = gates
    by_n = (1 - z) * (1 - n * n)
    return torch.cat([by_n * q * r * (1 - r), (before - n) * z * (1 - z), by_n], 1)
