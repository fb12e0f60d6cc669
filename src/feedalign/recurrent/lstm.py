"""The long short-term memory cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import run_fused
from feedalign.recurrent.rows import Block, Piece, Signals, blocks, joined, pieces_before, walk
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums, rows_per_block


class LSTM(Cell):
    r"""torch.nn.LSTM's cell, gates stacked as i, f, g, o.

    `i, f, o = sigmoid(...)`, `g = tanh(...)`, `c' = f c + i g`, `h' = o tanh(c')`.
    """

    num_gates = 4
    num_states = 2

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """See `Cell`."""
        output, *final = run_fused(torch._VF.lstm, inputs, states, weights, steps)
        num_units = weights[0].hh.shape[1]
        cells = torch.empty_like(output)
        for d, own in enumerate(weights):
            columns = slice(d * num_units, (d + 1) * num_units)
            initial = (states[0][d], states[1][d])
            trace = Trace(inputs, output[:, columns], (cells[:, columns],), initial, own, steps, bool(d))
            _fill_cells(trace)
        return Ran(output, tuple(final), (cells,))

    @torch.no_grad()
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        num_units = trace.output.shape[1]
        for block in blocks(steps, rows_per_block(trace)):
            pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
            gates = _gates(trace, block, pieces)
            cells = trace.memory[0][block.rows]
            before = joined(pieces_before(block, trace.memory[0], trace.initial[1], steps, trace.reverse))
            slopes, of_cell = _slopes(gates, cells, before)
            delta = slopes.unflatten(1, (4, num_units))
            delta[:, :3] *= of_cell[:, None]
            delta *= signals.of(block).unflatten(1, (-1, num_units))
            delta = delta.flatten(1)
            sums.add_input(block, delta)
            sums.add_state(pieces, delta)
        return sums.gradients()

    @torch.no_grad()
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """See `Cell`."""
        num_units = trace.output.shape[1]
        block = Block(0, trace.steps.num_steps, 0, trace.steps.num_rows)
        pieces = pieces_before(block, trace.output, trace.initial[0], trace.steps, trace.reverse)
        gates = _gates(trace, block, pieces)
        before_cells = joined(pieces_before(block, trace.memory[0], trace.initial[1], trace.steps, trace.reverse))
        slopes, of_cell = _slopes(gates, trace.memory[0], before_cells)
        forget = gates[:, num_units : 2 * num_units]
        by_cell, by_output = slopes[:, : 3 * num_units], slopes[:, 3 * num_units :]
        pushed, cell_pushed = perturbation.clone(), torch.zeros_like(perturbation)
        driven = torch.zeros_like(gates) if tangent is None else tangent @ trace.weights.ih.t()
        state_weight = trace.weights.hh.t()
        sources = {rows.start: (rows, before) for rows, before in walk(trace.steps, trace.reverse)}
        order = range(trace.steps.num_steps)
        for t in reversed(order) if trace.reverse else order:
            own = slice(trace.steps.starts[t], trace.steps.starts[t + 1])
            if own.start in sources:
                rows, before = sources[own.start]
                driven[rows] += pushed[before] @ state_weight
                cell_pushed[rows] += forget[rows] * cell_pushed[before]
            through = driven[own]
            cell_pushed[own] += (by_cell[own] * through[:, : 3 * num_units]).unflatten(1, (3, num_units)).sum(1)
            pushed[own] += of_cell[own] * cell_pushed[own] + by_output[own] * through[:, 3 * num_units :]
        return pushed


def _gates(trace: Trace, block: Block, pieces: Sequence[Piece]) -> Tensor:
    """Compute the gates of a block again, `[rows, 4 * H]`."""
    weights, num_units = trace.weights, trace.output.shape[1]
    gates = trace.inputs[block.rows] @ weights.ih.t()
    if weights.bias_ih is not None and weights.bias_hh is not None:
        gates += weights.bias_ih + weights.bias_hh
    gates.addmm_(joined(pieces), weights.hh.t())
    gates[:, : 2 * num_units].sigmoid_()
    gates[:, 2 * num_units : 3 * num_units].tanh_()
    gates[:, 3 * num_units :].sigmoid_()
    return gates


def _slopes(gates: Tensor, cells: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return derivatives: of c' by i, f, g and of h' by o, `[rows, 4 * H]`; and of h' by c', `[rows, H]`."""
    i, f, g, o = gates.unflatten(1, (4, -1)).unbind(1)
    squashed = cells.tanh()
    slopes = torch.empty_like(gates)
    by_i, by_f, by_g, by_o = slopes.unflatten(1, (4, -1)).unbind(1)
    torch.mul(g, i * (1 - i), out=by_i)
    torch.mul(before, f * (1 - f), out=by_f)
    torch.mul(i, 1 - g * g, out=by_g)
    torch.mul(squashed, o * (1 - o), out=by_o)
    return slopes, o * (1 - squashed * squashed)


def _fill_cells(trace: Trace) -> None:
    """Compute the cell states of all steps, which the fused operation does not return."""
    steps, num_units = trace.steps, trace.output.shape[1]
    block = Block(0, steps.num_steps, 0, steps.num_rows)
    pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
    gates = _gates(trace, block, pieces)
    i, f, g, _ = gates.unflatten(1, (4, num_units)).unbind(1)
    cells = trace.memory[0]
    torch.mul(i, g, out=cells)
    order = range(steps.num_steps)
    for t in reversed(order) if trace.reverse else order:
        own = Block(t, t + 1, steps.starts[t], steps.starts[t + 1])
        for rows, source, _ in pieces_before(own, cells, trace.initial[1], steps, trace.reverse):
            here = slice(own.start + rows.start, own.start + rows.stop)
            cells[here].addcmul_(f[here], source)
