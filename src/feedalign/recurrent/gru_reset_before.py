"""The GRU of the paper, whose reset gate acts on the state before the matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import Direction, side_by_side
from feedalign.recurrent.in_place import is_plain, may_write, tanh_
from feedalign.recurrent.products import add_product, add_sum, convolves, product
from feedalign.recurrent.rows import Block, Signals, blocks_of, ends, joined, meeting, pieces_before
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums

_aten = torch.ops.aten


class Gates(NamedTuple):
    """The gates of some rows, each `[rows, H]`.

    Attributes:
        r: The reset gate.
        z: The update gate.
        n: The state on offer.
    """

    r: Tensor
    z: Tensor
    n: Tensor


class ResetBeforeGRU(Cell):
    """The paper's GRU in torch's layout: gates r, z, n, with `n = tanh(x W_in^T + b_in + (r * h) W_hn^T + b_hn)`.

    Its forward is a loop over time of six operations a step, which write to memory that is there before the loop. It
    keeps the gates, which it makes anyway, so that the gradients need not make them again. Equations: see `naive`.
    """

    num_gates: ClassVar[int] = 3

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """Run one layer without a graph.

        Args:
            inputs: `[R, I]`.
            states: The states before the first step, `[D, N, H]`.
            weights: One or two directions, the second reversed.
            steps: How rows lie.

        Returns:
            The states, and as memory the gates r, z and n.
        """
        run = _run_in_place if may_write(inputs, *states, *weights[0]) else _run_in_copies
        return side_by_side([run(inputs, states[0][d], own, steps, d == 1) for d, own in enumerate(weights)])

    @torch.no_grad()
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """Differentiate every step alone, all steps at once.

        Args:
            signal: `[R, H]`: all gates share it, and the reset gate has its exact gradient, through W_hn transposed.
                `[R, 3 * H]`: each gate has its own; that of the reset gate stands for `dL/d(r * h)`, and no weight is
                transposed. With N rows it is the same at every step.
            trace: The run.
            wanted: What to make.

        Returns:
            Sums over all rows; that of the input `[R, I]`.
        """
        sums, signals = Sums(trace, wanted), Signals(signal, trace.steps)
        blocks = blocks_of(trace.weights.hh, trace.steps)
        scratch = _scratch(signal, trace, max(block.stop - block.start for block in blocks))
        for block in blocks:
            gates = Gates(*(gate[block.rows] for gate in trace.memory))
            before = joined(pieces_before(block, trace.output, trace.initial[0], trace.steps, trace.reverse))
            own = None if scratch is None else scratch[: block.stop - block.start]
            delta = _deltas(signals.of(block), before, gates, trace.weights.hh, own)
            sums.add_input(block, delta)
            sums.add_state((), delta)
            _add_state(sums, delta, before, gates.r)
        return sums.gradients()

    @torch.no_grad()
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """Push a tangent of the input, and one of every state, through time.

        Args:
            tangent: Of the input, `[R, I]`; None for zero.
            perturbation: What every step's state is perturbed by beside, `[R, H]`.
            trace: The run.

        Returns:
            The tangent of the output, `[R, H]`, the perturbations included.
        """
        steps, (r, z, n) = trace.steps, trace.memory
        whole = Block(0, steps.num_steps, 0, steps.num_rows)
        before = joined(pieces_before(whole, trace.output, trace.initial[0], steps, trace.reverse))
        w_rz, w_n = _cut(trace.weights.hh, 0)
        # What r * h, or the state after the step, feels of what enters each gate.
        by_r, by_z, by_n = before * r * (1 - r), (before - n) * z * (1 - z), (1 - z) * (1 - n * n)
        rows = [part.split(steps.batch_sizes) for part in (r, z, by_r, by_z, by_n, perturbation)]
        entering = None
        if tangent is not None:
            entering = [part.split(steps.batch_sizes) for part in _cut(product(tangent, trace.weights.ih), 1)]

        def step(t: int, before: Tensor) -> Tensor:
            r, z, by_r, by_z, by_n, perturbation = (part[t] for part in rows)
            a_rz = F.linear(before, w_rz)
            a_r, a_z = (a_rz if entering is None else a_rz + entering[0][t]).chunk(2, -1)
            a_n = F.linear(torch.addcmul(r * before, by_r, a_r), w_n)
            a_n = a_n if entering is None else a_n + entering[1][t]
            pushed: Tensor = perturbation.addcmul(z, before).addcmul(by_z, a_z).addcmul(by_n, a_n)
            return pushed

        return torch.cat(_over_time(step, torch.zeros_like(trace.initial[0]), steps, trace.reverse))


def unrolled(
    inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool
) -> tuple[Tensor, Tensor, list[Gates]]:
    """Run one direction by operations that autograd, autocast and `torch.func` follow: exact backprop through time.

    Args:
        inputs: `[R, I]`.
        initial: The state before the first step, `[N, H]`.
        weights: Parameters.
        steps: How rows lie.
        reverse: Run from the last step to the first.

    Returns:
        The output `[R, H]`, the state after the last step of each sequence `[N, H]`, and the gates of every step.
    """
    x_rz, x_n = _cut(F.linear(inputs, weights.ih, weights.bias), 1)
    w_rz, w_n = _cut(weights.hh, 0)
    entering = list(zip(x_rz.split(steps.batch_sizes), x_n.split(steps.batch_sizes), strict=True))
    gates: list[Gates | None] = [None] * steps.num_steps

    def step(t: int, before: Tensor) -> Tensor:
        rz, n = entering[t]
        r, z = torch.sigmoid(rz + F.linear(before, w_rz)).to(initial.dtype).chunk(2, -1)
        n = torch.tanh(n + F.linear(r * before, w_n)).to(initial.dtype)
        gates[t] = Gates(r, z, n)
        return torch.lerp(n, before, z)

    output = torch.cat(_over_time(step, initial, steps, reverse))
    return output, ends(output, steps, reverse), [own for own in gates if own is not None]


def _run_in_copies(inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
    output, final, gates = unrolled(inputs, initial, weights, steps, reverse)
    return Direction(output, (final,), tuple(torch.cat(parts) for parts in zip(*gates, strict=True)))


def _run_in_place(inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
    """The gates take the place of what the input sends to them; nothing but `r * h` of one step is made beside."""
    (of_rz, of_n), (w_rz, w_n) = _cut(weights.ih, 0), _cut(weights.hh, 0)
    b_rz, b_n = (None, None) if weights.bias is None else _cut(weights.bias, 0)
    rz, n = product(inputs, of_rz, b_rz), product(inputs, of_n, b_n)
    r, z = rz.chunk(2, 1)
    output = torch.empty_like(n)
    rows = list(zip(*(part.split(steps.batch_sizes) for part in (rz, r, z, n, output)), strict=True))
    add = add_product if convolves(initial, len(w_n)) else _add_small_product

    def step(t: int, before: Tensor) -> Tensor:
        rz, r, z, n, after = rows[t]
        add(rz, before, w_rz).sigmoid_()
        tanh_(add(n, r * before, w_n))
        return torch.lerp(n, before, z, out=after)

    _over_time(step, initial, steps, reverse)
    return Direction(output, (ends(output, steps, reverse),), (r, z, n))


def _add_small_product(total: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    return total.addmm_(rows, weight.t())


def _over_time(step: Callable[[int, Tensor], Tensor], initial: Tensor, steps: Steps, reverse: bool) -> list[Tensor]:
    """The state after every step; `step` maps t and the state before to it."""
    states: list[Tensor] = [initial] * steps.num_steps
    state = None
    for t in steps.order(reverse):
        size = steps.batch_sizes[t]
        before = state if state is not None and state.shape[0] == size else meeting(size, state, initial)
        state = states[t] = step(t, before)
    return states


def _deltas(signal: Tensor, before: Tensor, gates: Gates, hh: Tensor, out: Tensor | None) -> Tensor:
    """The gradient of what enters each gate, `[rows, 3 * H]`; written to `out`, or made if that is None."""
    r, z, n = gates
    to_r, to_z, to_n = (None, None, None) if out is None else out.chunk(3, 1)
    is_shared = signal.shape[1] == before.shape[1]
    s_r, s_z, s_n = (signal,) * 3 if is_shared else signal.chunk(3, 1)
    delta_n = _through_tanh(torch.addcmul(s_n, s_n, z, value=-1, out=to_n), n, to_n)
    delta_z = torch.mul(torch.sub(before, n, out=to_z), s_z, out=to_z)
    delta_z = _through_sigmoid(delta_z, z, to_z)
    of_reset = product(delta_n, _cut(hh, 0)[1].t()) if is_shared else s_r
    delta_r = _through_sigmoid(torch.mul(of_reset, before, out=to_r), r, to_r)
    return torch.cat([delta_r, delta_z, delta_n], 1) if out is None else out


def _through_tanh(gradient: Tensor, value: Tensor, out: Tensor | None) -> Tensor:
    made: Tensor = (
        _aten.tanh_backward(gradient, value)
        if out is None
        else _aten.tanh_backward.grad_input(gradient, value, grad_input=out)
    )
    return made


def _through_sigmoid(gradient: Tensor, value: Tensor, out: Tensor | None) -> Tensor:
    made: Tensor = (
        _aten.sigmoid_backward(gradient, value)
        if out is None
        else _aten.sigmoid_backward.grad_input(gradient, value, grad_input=out)
    )
    return made


def _add_state(sums: Sums, delta: Tensor, before: Tensor, r: Tensor) -> None:
    """Add what is due to `weight_hh`: r and z read the state before a row, n reads `r * h`."""
    if sums.hh is None:
        return
    delta_rz, delta_n = _cut(delta, 1)
    if not is_plain(delta):
        sums.hh = sums.hh + torch.cat([delta_rz.t() @ before, delta_n.t() @ (r * before)])
        return
    of_rz, of_n = _cut(sums.hh, 0)
    add_sum(of_rz, delta_rz, before)
    add_sum(of_n, delta_n, r * before)


def _scratch(signal: Tensor, trace: Trace, num_rows: int) -> Tensor | None:
    """Memory for the deltas of a block, `[rows, 3 * H]`; None where they may not be written to memory of ours."""
    if not may_write(trace.output, signal, *trace.memory, trace.weights.hh):
        return None
    return trace.output.new_empty(num_rows, 3 * trace.output.shape[1])


def _cut(stacked: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Split what is stacked by gate into that of r and z together, and that of n."""
    width = stacked.shape[dim] // 3
    rz, n = stacked.split((2 * width, width), dim)
    return rz, n
