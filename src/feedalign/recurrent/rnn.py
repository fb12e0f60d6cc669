"""The vanilla recurrent cell, `h_t = f(W_ih x_t + W_hh h_{t-1} + b)`."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.fused import Operation, run_fused
from feedalign.recurrent.rows import Signals, blocks, pieces_before, walk
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums, rows_per_block


class _VanillaRNN(Cell):
    num_gates = 1

    @property
    @abstractmethod
    def operation(self) -> Operation:
        """That of torch."""

    @abstractmethod
    def times_slope(self, signal: Tensor, output: Tensor) -> Tensor:
        """Return `signal * f'(a)`; of the activation, its output is known."""

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """See `Cell`."""
        output, final = run_fused(self.operation, inputs, states[0], weights, steps)
        return Ran(output, (final,))

    @torch.no_grad()
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """See `Cell`; `delta_t = g_t * f'(a_t)`."""
        steps, sums, signals = trace.steps, Sums(trace, wanted), Signals(signal, trace.steps)
        for block in blocks(steps, rows_per_block(trace)):
            delta = self.times_slope(signals.of(block), trace.output[block.rows])
            sums.add_input(block, delta)
            sums.add_state(pieces_before(block, trace.output, trace.initial[0], steps, trace.reverse), delta)
        return sums.gradients()

    @torch.no_grad()
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """See `Cell`."""
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

    def times_slope(self, signal: Tensor, output: Tensor) -> Tensor:
        """Return `signal * (1 - h^2)`."""
        return torch.ops.aten.tanh_backward(signal, output)


class ReluRNN(_VanillaRNN):
    """torch.nn.RNN with `f = relu`."""

    @property
    def operation(self) -> Operation:
        """See above."""
        return torch._VF.rnn_relu

    def times_slope(self, signal: Tensor, output: Tensor) -> Tensor:
        """Return `signal` where the unit is active, else 0."""
        return torch.ops.aten.threshold_backward(signal, output, 0)
