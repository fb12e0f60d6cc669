"""The vanilla recurrent cell, `h_t = f(W_ih x_t + W_hh h_{t-1} + b)`."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import Direction, Operation, run_fused, run_in_copies, side_by_side
from feedalign.recurrent.in_place import by_hand, is_followed, may_write
from feedalign.recurrent.products import adding, product
from feedalign.recurrent.rows import Signals, blocks_of, ends, meeting, pieces_before, walk
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums


class _VanillaRNN(Cell):
    num_gates = 1

    @property
    @abstractmethod
    def operation(self) -> Operation:
        """That of torch."""

    @abstractmethod
    def activate_(self, state: Tensor) -> Tensor:
        """Apply f in place."""

    @abstractmethod
    def times_slope(self, signal: Tensor, output: Tensor) -> Tensor:
        """Return `signal * f'(a)`, of the activation's output."""

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """See `Cell`."""
        run = self._in_copies
        if not is_followed():
            run = self._in_place
            if inputs.device.type != "cpu" or not may_write(inputs, *states, *weights[0]):
                output, final = run_fused(self.operation, inputs, states[0], weights, steps)
                return Ran(output, (final,))
        return side_by_side([run(inputs, states[0][d], own, steps, d == 1) for d, own in enumerate(weights)])

    def _in_place(self, inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
        """One product for all inputs, in whose place the states are made."""
        output = product(inputs, weights.ih, weights.bias)
        states, sizes = output.split(steps.batch_sizes), steps.batch_sizes
        add = adding(weights.hh, steps.num_samples)
        state = None
        for t in steps.order(reverse):
            state = self.activate_(add(states[t], meeting(sizes[t], state, initial)))
        return Direction(output, (ends(output, steps, reverse),))

    def _in_copies(self, inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
        def step(entering: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self.activate_(entering + F.linear(before[0], weights.hh)),)

        return run_in_copies(step, product(inputs, weights.ih, weights.bias), (initial,), steps, reverse)

    @by_hand
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`; `delta_t = g_t * f'(a_t)`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        for block in blocks_of(trace.weights.hh, steps):
            delta = self.times_slope(signals.of(block), trace.output[block.rows])
            sums.add_input(block, delta)
            pieces = pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse)
            sums.add_state(pieces, delta, first_new=delta.shape[1])
        return sums.gradients()

    @by_hand
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """See `Cell`."""
        trace = trace.to(perturbation.dtype)
        slope = self.times_slope(torch.ones_like(trace.output), trace.output)
        pushed = perturbation.clone()
        if tangent is not None:
            pushed.addcmul_(slope, tangent @ trace.weights.ih.t())
        state_weight = trace.weights.hh.t()
        for rows, before in walk(trace.steps, trace.reverse):
            pushed[rows].addcmul_(slope[rows], pushed[before] @ state_weight)
        return pushed


class TanhRNN(_VanillaRNN):
    """torch.nn.RNN with `f = tanh`."""

    @property
    def operation(self) -> Operation:
        """See above."""
        return torch._VF.rnn_tanh

    def activate_(self, state: Tensor) -> Tensor:
        """Apply tanh in place."""
        return state.tanh_()

    def times_slope(self, signal: Tensor, output: Tensor) -> Tensor:
        """Return `signal * (1 - h^2)`."""
        made: Tensor = torch.ops.aten.tanh_backward(signal, output)
        return made


class ReluRNN(_VanillaRNN):
    """torch.nn.RNN with `f = relu`."""

    @property
    def operation(self) -> Operation:
        """See above."""
        return torch._VF.rnn_relu

    def activate_(self, state: Tensor) -> Tensor:
        """Apply relu in place."""
        return state.relu_()

    def times_slope(self, signal: Tensor, output: Tensor) -> Tensor:
        """Return `signal` where the unit is active, else 0."""
        made: Tensor = torch.ops.aten.threshold_backward(signal, output, 0)
        return made
