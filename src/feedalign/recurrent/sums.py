"""Sums over rows, a block at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feedalign.recurrent.cell import Gradients, Trace, Wanted
from feedalign.recurrent.in_place import is_plain
from feedalign.recurrent.products import add_sum, product
from feedalign.recurrent.rows import Block, Piece


class Sums:
    """The gradients of one direction of a layer, summed over blocks.

    Args:
        trace: The run.
        wanted: What to make.
    """

    def __init__(self, trace: Trace, wanted: Wanted) -> None:
        weights, self.trace, self.wanted = trace.weights, trace, wanted
        has_bias = weights.bias_ih is not None
        self.starts_at_zero = _is_known_zero(trace.initial[0])
        self.of_input: list[Tensor] = []
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
        if self.wanted.input:
            self.of_input.append(product(delta, self.trace.weights.ih.t()))
        if self.ih is not None:
            self.ih = add_sum(self.ih, delta, self.trace.inputs[block.rows])
        if self.bias_ih is not None or self.bias_hh is not None:
            self.of_block = delta.sum(0)
        if self.bias_ih is not None:
            self.bias_ih = self.bias_ih + self.of_block

    def add_state(self, pieces: Sequence[Piece], delta: Tensor, first_new: int = 0) -> None:
        """Add what is due to the states before a block's rows.

        Args:
            pieces: The states.
            delta: What teaches the block's gates, as the state enters them, `[len(rows), G * H]`.
            first_new: The column behind those that are still as `add_input` had them.
        """
        if self.hh is not None:
            for rows, source, is_initial in pieces:
                if not (is_initial and self.starts_at_zero):
                    self.hh = add_sum(self.hh, delta[rows], source)
        if self.bias_hh is not None:
            new = delta[:, first_new:]
            parts = (self.of_block[:first_new], new.sum(0)) if new.shape[1] else (self.of_block,)
            self.bias_hh = self.bias_hh + torch.cat(parts)

    def gradients(self) -> Gradients:
        """Return them."""
        of_input = self.of_input[0] if len(self.of_input) == 1 else torch.cat(self.of_input) if self.of_input else None
        return Gradients(of_input, self.ih, self.hh, self.bias_ih, self.bias_hh)


def _is_known_zero(states: Tensor) -> bool:
    """Whether states are zero, where that costs little to know: a device would have to be waited for."""
    return states.device.type == "cpu" and is_plain(states) and not bool(states.any())
