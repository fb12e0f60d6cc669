"""torch's gated recurrent unit, whose reset gate acts behind the product with the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import run_fused
from feedalign.recurrent.rows import Block, Piece, Signals, blocks, joined, pieces_before, walk
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums, rows_per_block


class _Gates(NamedTuple):
    """Of some rows, each `[rows, H]`; `stacked` holds r, z and q side by side."""

    stacked: Tensor
    n: Tensor

    @property
    def r(self) -> Tensor:
        return self.stacked[:, : self.n.shape[1]]

    @property
    def z(self) -> Tensor:
        return self.stacked[:, self.n.shape[1] : 2 * self.n.shape[1]]

    @property
    def q(self) -> Tensor:
        return self.stacked[:, 2 * self.n.shape[1] :]


class GRU(Cell):
    r"""torch.nn.GRU's cell, gates stacked as r, z, n.

    `r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)`, `z` alike, `q = W_hn h + b_hn`, `n = tanh(W_in x + b_in + r q)`,
    `h' = (1 - z) n + z h`.
    """

    num_gates = 3

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """See `Cell`."""
        output, final = run_fused(torch._VF.gru, inputs, states[0], weights, steps)
        return Ran(output, (final,))

    @torch.no_grad()
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        num_units = trace.output.shape[1]
        for block in blocks(steps, rows_per_block(trace)):
            pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
            gates = _gates(trace, block, pieces)
            delta = _slopes(gates, joined(pieces)).unflatten(1, (3, num_units))
            delta *= signals.of(block).unflatten(1, (-1, num_units))
            delta = delta.flatten(1)
            sums.add_input(block, delta)
            delta[:, 2 * num_units :] *= gates.r
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


def _gates(trace: Trace, block: Block, pieces: Sequence[Piece]) -> _Gates:
    """Compute the gates of a block again."""
    weights, num_units = trace.weights, trace.output.shape[1]
    inputs = trace.inputs[block.rows]
    from_input = _affine(weights.bias_ih, inputs, weights.ih)
    stacked = _affine(weights.bias_hh, joined(pieces), weights.hh)
    stacked[:, : 2 * num_units].add_(from_input[:, : 2 * num_units]).sigmoid_()
    gates = _Gates(stacked, from_input[:, 2 * num_units :])
    gates.n.addcmul_(gates.r, gates.q).tanh_()
    return gates


def _affine(bias: Tensor | None, inputs: Tensor, weight: Tensor) -> Tensor:
    return inputs @ weight.t() if bias is None else torch.addmm(bias, inputs, weight.t())


def _slopes(gates: _Gates, before: Tensor) -> Tensor:
    """Return the derivative of the new state by what enters each gate, `[rows, 3 * H]`."""
    stacked, n = gates
    num_units = n.shape[1]
    slopes = torch.empty_like(stacked)
    by_r, by_z, by_n = slopes.split(num_units, 1)
    torch.mul(n, n, out=by_n).neg_().add_(1)
    by_n.mul_(1 - gates.z)
    torch.mul(by_n, gates.q, out=by_r)
    torch.sub(before, n, out=by_z)
    both = stacked[:, : 2 * num_units]
    slopes[:, : 2 * num_units].mul_(both).mul_(1 - both)
    return slopes
