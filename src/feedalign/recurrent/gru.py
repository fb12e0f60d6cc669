"""torch's gated recurrent unit, whose reset gate acts behind the product with the state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import Direction, run_fused, run_in_copies, side_by_side
from feedalign.recurrent.in_place import by_hand, is_followed, may_write, tanh_
from feedalign.recurrent.products import add_product, adding, product
from feedalign.recurrent.rows import (
    Block,
    Signals,
    blocks_of,
    ends,
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
        """See `Cell`; the memory are the gates r, z and n, and q, where they are few enough to be kept."""
        each = [(inputs, states[0][d], own, steps, d == 1) for d, own in enumerate(weights)]
        if is_followed():
            return side_by_side([_run_by_steps(*one) for one in each])
        if inputs.device.type == "cpu" and may_write(inputs, *states, *weights[0]):
            keeps = keeps_gates(weights, steps)
            return side_by_side([_run_in_place(*one, keeps) for one in each])
        output, final = run_fused(torch._VF.gru, inputs, states[0], weights, steps)
        return Ran(output, (final,))

    @by_hand
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        num_units = trace.output.shape[1]
        writes = may_write(trace.output, trace.inputs, signal, *trace.weights) and signal.shape[1] == num_units
        for block in blocks_of(trace.weights.hh, steps):
            pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
            before, own = joined(pieces), signals.of(block)
            gates = _gates(trace, block, before)
            if writes:
                delta = _shared_deltas(own, gates, before)
                sums.add_input(block, delta)
                delta[:, 2 * num_units :].mul_(gates.r)
            else:
                delta = _slopes(gates, before) * own.repeat(1, 3 * num_units // own.shape[1])
                sums.add_input(block, delta)
                delta = torch.cat([delta[:, : 2 * num_units], delta[:, 2 * num_units :] * gates.r], 1)
            sums.add_state(pieces, delta, first_new=2 * num_units)
        return sums.gradients()

    @by_hand
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """See `Cell`."""
        trace, num_units = trace.to(perturbation.dtype), trace.output.shape[1]
        block = whole(trace.steps)
        before = joined(pieces_before(block, trace.output, trace.initial[0], trace.steps, trace.reverse))
        gates = _gates(trace, block, before)
        slopes = _slopes(gates, before)
        pushed = perturbation.clone()
        if tangent is not None:
            pushed += (slopes * (tangent @ trace.weights.ih.t())).unflatten(1, (3, num_units)).sum(1)
        slopes[:, 2 * num_units :] *= gates.r
        state_weight = trace.weights.hh.t()
        for rows, earlier in walk(trace.steps, trace.reverse):
            through_gates = (pushed[earlier] @ state_weight).mul_(slopes[rows]).unflatten(1, (3, num_units)).sum(1)
            pushed[rows] += through_gates.addcmul_(gates.z[rows], pushed[earlier])
        return pushed


def _run_by_steps(inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
    def step(entering: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gates = _combined(entering, F.linear(before[0], weights.hh, weights.bias_hh))
        return (torch.lerp(gates.n, before[0], gates.z),)

    return run_in_copies(step, F.linear(inputs, weights.ih, weights.bias_ih), (initial,), steps, reverse)


def _run_in_place(
    inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool, keeps: bool
) -> Direction:
    """A loop over time of five operations a step; gates are made in the place of what enters them."""
    num_units = initial.shape[1]
    output = initial.new_empty(steps.num_rows, num_units)
    add, state = adding(weights.hh, steps.num_samples), None
    for block in [whole(steps)] if keeps else blocks_of(weights.hh, steps, reverse):
        stacked, n = _enter(inputs[block.rows], weights)
        sizes = steps.batch_sizes[block.first : block.last]
        r, z, q = stacked.split(num_units, 1)
        by_step = [part.split(sizes) for part in (stacked, stacked[:, : 2 * num_units], r, z, q, n, output[block.rows])]
        own_steps = list(zip(*by_step, strict=True))
        for offset in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            all_three, rz, r_t, z_t, q_t, n_t, after = own_steps[offset]
            before = meeting(sizes[offset], state, initial)
            add(all_three, before)
            rz.sigmoid_()
            state = torch.lerp(n_t.addcmul_(r_t, q_t).tanh_(), before, z_t, out=after)
    return Direction(output, (ends(output, steps, reverse),), (r, z, q, n) if keeps else ())


def _biases(weights: Weights) -> tuple[Tensor | None, Tensor | None]:
    """Return what is added to r, z and q together, `[3 * H]`, and to n."""
    if weights.bias_ih is None or weights.bias_hh is None:
        return None, None
    first = 2 * weights.hh.shape[1]
    both = weights.bias_hh.clone()
    both[:first] += weights.bias_ih[:first]
    return both, weights.bias_ih[first:]


def _enter(inputs: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """What enters r, z and q together, `[rows, 3 * H]`, and n beside the state."""
    first = 2 * weights.hh.shape[1]
    to_gates, to_n = _biases(weights)
    stacked = inputs.new_empty(inputs.shape[0], weights.hh.shape[0])
    if to_gates is None:
        stacked.zero_()
    else:
        stacked.copy_(to_gates)
    add_product(stacked[:, :first], inputs, weights.ih[:first])
    return stacked, product(inputs, weights.ih[first:], to_n)


def _gates(trace: Trace, block: Block, before: Tensor) -> _Gates:
    """Look the gates of a block up, or compute them again."""
    if trace.memory:
        return _Gates(*(kept[block.rows] for kept in trace.memory))
    weights, num_units = trace.weights, trace.output.shape[1]
    inputs = trace.inputs[block.rows]
    if may_write(inputs, before, *weights):
        to_gates, to_n = _biases(weights)
        stacked = product(before, weights.hh, to_gates)
        rz = stacked[:, : 2 * num_units]
        add_product(rz, inputs, weights.ih[: 2 * num_units]).sigmoid_()
        r, z, q = stacked.split(num_units, 1)
        n = product(inputs, weights.ih[2 * num_units :], to_n)
        return _Gates(r, z, q, tanh_(n.addcmul_(r, q)))
    return _combined(product(inputs, weights.ih, weights.bias_ih), product(before, weights.hh, weights.bias_hh))


def _combined(from_inputs: Tensor, from_states: Tensor) -> _Gates:
    """Make the gates of what enters them, `[rows, 3 * H]` each."""
    (x_r, x_z, x_n), (h_r, h_z, q) = from_inputs.chunk(3, -1), from_states.chunk(3, -1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    return _Gates(r, z, q, (x_n + r * q).tanh())


def _shared_deltas(signal: Tensor, gates: _Gates, before: Tensor) -> Tensor:
    """Return what teaches each gate, as the input enters it, `[rows, 3 * H]`."""
    r, z, q, n = gates
    delta = n.new_empty(n.shape[0], 3 * n.shape[1])
    of_r, of_z, of_n = delta.split(n.shape[1], 1)
    torch.addcmul(signal, signal, z, value=-1, out=of_n)
    _aten.tanh_backward.grad_input(of_n, n, grad_input=of_n)
    torch.mul(of_n, q, out=of_r)
    _aten.sigmoid_backward.grad_input(of_r, r, grad_input=of_r)
    torch.sub(before, n, out=of_z).mul_(signal)
    _aten.sigmoid_backward.grad_input(of_z, z, grad_input=of_z)
    return delta


def _slopes(gates: _Gates, before: Tensor) -> Tensor:
    """Return the derivative of the new state by what enters each gate, `[rows, 3 * H]`."""
    r, z, q, n = gates
    by_n = (1 - z) * (1 - n * n)
    return torch.cat([by_n * q * r * (1 - r), (before - n) * z * (1 - z), by_n], 1)
