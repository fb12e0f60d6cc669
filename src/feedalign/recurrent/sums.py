"""Sums over rows, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feedalign.recurrent.cell import Gradients, Trace, Wanted
from feedalign.recurrent.rows import Block, Piece
from feedalign.transforms import inside_transform


def is_known_zero(states: Tensor) -> bool:
    """Tell whether states are zero, where that costs little to know: not on a device that would have to be waited for."""
    if states.device.type != "cpu" or torch.compiler.is_compiling() or inside_transform():
        return False
    return not bool(states.any())


class Sums:
    """The gradients of one direction of a layer, summed over blocks.

    Args:
        trace: The run.
        wanted: What to make.
    """

    def __init__(self, trace: Trace, wanted: Wanted) -> None:
        weights, self.trace, self.wanted = trace.weights, trace, wanted
        has_bias = weights.bias_ih is not None
        self.starts_at_zero = is_known_zero(trace.initial[0])
        self.input = trace.inputs.new_empty(trace.inputs.shape) if wanted.input else None
        self.ih = torch.zeros_like(weights.ih) if wanted.ih else None
        self.hh = torch.zeros_like(weights.hh) if wanted.hh else None
        self.bias_ih = weights.ih.new_zeros(weights.ih.shape[0]) if wanted.bias_ih and has_bias else None
        self.bias_hh = weights.hh.new_zeros(weights.hh.shape[0]) if wanted.bias_hh and has_bias else None

    def add_input(self, block: Block, delta: Tensor) -> None:
        """Add what is due to the inputs of a block.

        Args:
            block: The block.
            delta: What teaches its gates, as the input enters them, `[len(rows), G * H]`.
        """
        if self.input is not None:
            torch.mm(delta, self.trace.weights.ih, out=self.input[block.rows])
        if self.ih is not None:
            self.ih.addmm_(delta.t(), self.trace.inputs[block.rows])
        if self.bias_ih is not None:
            self.bias_ih += delta.sum(0)

    def add_state(self, pieces: Sequence[Piece], delta: Tensor) -> None:
        """Add what is due to the states before a block's rows.

        Args:
            pieces: The states.
            delta: What teaches the block's gates, as the state enters them, `[len(rows), G * H]`.
        """
        if self.hh is not None:
            for rows, source, is_initial in pieces:
                if not (is_initial and self.starts_at_zero):
                    self.hh.addmm_(delta[rows].t(), source)
        if self.bias_hh is not None:
            self.bias_hh += delta.sum(0)

    def gradients(self) -> Gradients:
        """Return them."""
        return Gradients(self.input, self.ih, self.hh, self.bias_ih, self.bias_hh)


def rows_per_block(trace: Trace) -> int:
    """Return how many rows to work on at once."""
    return 400
