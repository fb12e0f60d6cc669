"""The long short-term memory cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import Direction, run_fused, run_in_copies, side_by_side
from feedalign.recurrent.in_place import by_hand, is_followed, may_write, prefers_sigmoid, tanh_, without_autocast
from feedalign.recurrent.products import add_product, product
from feedalign.recurrent.rows import (
    Block,
    Piece,
    Signals,
    blocks_of,
    joined,
    keeps_gates,
    meeting,
    pieces_before,
    walk,
    whole,
)
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums

_aten = torch.ops.aten


class _Gates(NamedTuple):
    """The gates of some rows, each `[rows, H]`."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


class LSTM(Cell):
    """torch.nn.LSTM's cell, gates stacked as i, f, g, o.

    `i, f, o = sigmoid(W x + b + W' h + b')`, `g = tanh(...)` alike, `c' = f c + i g`, `h' = o tanh(c')`.
    """

    num_gates = 4
    num_states = 2

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """See `Cell`; the memory are the cell states, and the gates i, f, g and o where they are few enough to be kept.

        torch's operation returns neither; gates of all steps are made again in one product.
        """
        initial = [tuple(state[d] for state in states) for d in range(len(weights))]
        if is_followed():
            runs = [_run_by_steps(inputs, initial[d], own, steps, d == 1) for d, own in enumerate(weights)]
            return side_by_side(runs)
        output, *final = run_fused(torch._VF.lstm, inputs, states, weights, steps)
        outputs, keeps = output.chunk(len(weights), 1), keeps_gates(weights, steps)
        traces = [Trace(inputs, outputs[d], (), initial[d], own, steps, d == 1) for d, own in enumerate(weights)]
        made = [_memory(trace, keeps) for trace in traces]
        return Ran(output, tuple(final), made[0] if len(made) == 1 else (torch.cat([cells for cells, *_ in made], 1),))

    @by_hand
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        num_units = trace.output.shape[1]
        writes = may_write(trace.output, trace.inputs, signal, *trace.weights) and signal.shape[1] == num_units
        for block in blocks_of(trace.weights.hh, steps):
            pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
            gates, cells = _gates(trace, block, pieces), trace.memory[0][block.rows]
            before = joined(pieces_before(block, trace.memory[0], trace.initial[1], steps, trace.reverse))
            own = signals.of(block)
            if writes:
                delta = _shared_deltas(own, gates, cells, before)
            else:
                of_cell, of_output, by_cell = _slopes(gates, cells, before)
                slopes = torch.cat([of_cell * by_cell.repeat(1, 3), of_output], 1)
                delta = slopes * own.repeat(1, 4 * num_units // own.shape[1])
            sums.add_input(block, delta)
            sums.add_state(pieces, delta, first_new=delta.shape[1])
        return sums.gradients()

    @by_hand
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """See `Cell`; no perturbation enters a cell state."""
        trace, steps, num_units = trace.to(perturbation.dtype), trace.steps, trace.output.shape[1]
        block = whole(steps)
        gates = _gates(trace, block, pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse))
        before = joined(pieces_before(block, trace.memory[0], trace.initial[1], steps, trace.reverse))
        of_cell, of_output, by_cell = _slopes(gates, trace.memory[0], before)
        pushed, cells = perturbation.clone(), torch.zeros_like(perturbation)
        entering = torch.zeros_like(gates.i.repeat(1, 4)) if tangent is None else tangent @ trace.weights.ih.t()
        sources = {rows.start: (rows, before) for rows, before in walk(steps, trace.reverse)}
        for t in steps.order(trace.reverse):
            own = slice(steps.starts[t], steps.starts[t + 1])
            if own.start in sources:
                rows, earlier = sources[own.start]
                entering[rows] += pushed[earlier] @ trace.weights.hh.t()
                cells[rows] += gates.f[rows] * cells[earlier]
            to_cell, to_output = entering[own].split((3 * num_units, num_units), 1)
            cells[own] += (of_cell[own] * to_cell).unflatten(1, (3, num_units)).sum(1)
            pushed[own] += by_cell[own] * cells[own] + of_output[own] * to_output
        return pushed


def _run_by_steps(
    inputs: Tensor, initial: tuple[Tensor, ...], weights: Weights, steps: Steps, reverse: bool
) -> Direction:
    def step(entering: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        i, f, g, o = _activated(entering + F.linear(before[0], weights.hh))
        cells = f * before[1] + i * g
        return o * cells.tanh(), cells

    return run_in_copies(step, F.linear(inputs, weights.ih, weights.bias), initial, steps, reverse)


def _activated(entering: Tensor) -> _Gates:
    i, f, g, o = entering.chunk(4, -1)
    return _Gates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())


def _activated_in_place(entering: Tensor, num_units: int) -> Tensor:
    """Make the first gates, o among them or not, in the place of what enters them."""
    g = entering[:, 2 * num_units : 3 * num_units]
    if prefers_sigmoid(g):
        g.mul_(2)
        entering.sigmoid_()
        g.mul_(2).sub_(1)
    else:
        g.tanh_()
        entering[:, : 2 * num_units].sigmoid_()
        entering[:, 3 * num_units :].sigmoid_()
    return entering


def _gates(trace: Trace, block: Block, pieces: Sequence[Piece]) -> _Gates:
    """Look the gates of a block up, or compute them again."""
    if len(trace.memory) > 1:
        return _Gates(*(kept[block.rows] for kept in trace.memory[1:]))
    weights, inputs, before = trace.weights, trace.inputs[block.rows], joined(pieces)
    if not may_write(inputs, before, *weights):
        return _activated(product(inputs, weights.ih, weights.bias) + product(before, weights.hh))
    return _Gates(*_first_gates(trace, block, before, 4))


def _first_gates(trace: Trace, block: Block, before: Tensor, count: int) -> tuple[Tensor, ...]:
    """Compute so many gates of a block."""
    weights, num_units = trace.weights, trace.output.shape[1]
    first = slice(count * num_units)
    gates = product(before, weights.hh[first], None if weights.bias is None else weights.bias[first])
    add_product(gates, trace.inputs[block.rows], weights.ih[first])
    return tuple(_activated_in_place(gates, num_units).split(num_units, 1))


def _memory(trace: Trace, keeps: bool) -> tuple[Tensor, ...]:
    """Compute, from the states, the cell states `[R, H]` and the gates if they are to be kept.

    One product for all gates; what is left to a loop over time is one operation a step.
    """
    if not may_write(trace.output, trace.inputs, *trace.initial, *trace.weights):
        with without_autocast(trace.output.device):
            return (_cells_in_copies(trace.to(trace.output.dtype)),)
    steps = trace.steps
    cells, state = trace.output.new_empty(trace.output.shape), None
    gates: tuple[Tensor, ...] = ()
    for block in [whole(steps)] if keeps else blocks_of(trace.weights.hh, steps, trace.reverse):
        before = joined(pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse))
        gates = _first_gates(trace, block, before, 4 if keeps else 3)
        i, f, g, *_ = gates
        torch.mul(i, g, out=cells[block.rows])
        sizes = steps.batch_sizes[block.first : block.last]
        own_steps = list(zip(sizes, f.split(sizes), cells[block.rows].split(sizes), strict=True))
        for size, f_t, cells_t in reversed(own_steps) if trace.reverse else own_steps:
            state = cells_t.addcmul_(f_t, meeting(size, state, trace.initial[1]))
    return (cells, *gates) if keeps else (cells,)


def _cells_in_copies(trace: Trace) -> Tensor:
    steps, block = trace.steps, whole(trace.steps)
    gates = _gates(trace, block, pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse))
    new, forget = (gates.i * gates.g).split(steps.batch_sizes), gates.f.split(steps.batch_sizes)
    state, made = None, list(new)
    for t in steps.order(trace.reverse):
        state = made[t] = new[t] + forget[t] * meeting(steps.batch_sizes[t], state, trace.initial[1])
    return torch.cat(made)


def _shared_deltas(signal: Tensor, gates: _Gates, cells: Tensor, before: Tensor) -> Tensor:
    """Return what teaches each gate, `[rows, 4 * H]`."""
    i, f, g, o = gates
    delta = cells.new_empty(cells.shape[0], 4 * cells.shape[1])
    of_i, of_f, of_g, of_o = delta.split(cells.shape[1], 1)
    squashed = tanh_(cells.clone())
    torch.mul(signal, squashed, out=of_o)
    _aten.sigmoid_backward.grad_input(of_o, o, grad_input=of_o)
    of_cell = torch.mul(signal, o)
    _aten.tanh_backward.grad_input(of_cell, squashed, grad_input=of_cell)
    torch.mul(of_cell, g, out=of_i)
    _aten.sigmoid_backward.grad_input(of_i, i, grad_input=of_i)
    torch.mul(of_cell, before, out=of_f)
    _aten.sigmoid_backward.grad_input(of_f, f, grad_input=of_f)
    torch.mul(of_cell, i, out=of_g)
    _aten.tanh_backward.grad_input(of_g, g, grad_input=of_g)
    return delta


def _slopes(gates: _Gates, cells: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives of c' by i, f and g `[rows, 3 * H]`, of h' by o and of h' by c', each `[rows, H]`."""
    i, f, g, o = gates
    squashed = cells.tanh()
    of_cell = torch.cat([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], 1)
    return of_cell, squashed * o * (1 - o), o * (1 - squashed * squashed)
