"""Rows in blocks of whole steps: what came before each row, and what teaches it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.recurrent.cell import Weights
from feedalign.recurrent.in_place import is_plain
from feedalign.recurrent.steps import Steps

# What is made of a block should be the same memory in every block: new memory costs more in page faults than the
# arithmetic on it. So many numbers `[rows, G * H]` are little enough, and so many rows let products run at full speed.
NUMBERS_OF_A_BLOCK = 1 << 20
ROWS_OF_A_BLOCK = 1 << 10
NUMBERS_ON_A_DEVICE = 1 << 26

# Gates of a run that are no more than these are kept, 32 MiB of single precision; so much memory is handed on from step
# to step of training, and new memory would take as long as to make the gates again.
NUMBERS_TO_KEEP = 1 << 23

# Products of more pieces than these would take longer than a copy.
_MAX_PIECES = 3


class Block(NamedTuple):
    """Steps that lie together.

    Attributes:
        first: Its first step.
        last: The step behind its last.
        start: Its first row.
        stop: The row behind its last.
    """

    first: int
    last: int
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.start, self.stop)


class Piece(NamedTuple):
    """Some rows of a block, with what is known of the step before each.

    Attributes:
        rows: The rows, counted from the block's first.
        source: Their previous states, `[len(rows), H]`.
        is_initial: The states before the first step.
    """

    rows: slice
    source: Tensor
    is_initial: bool


def blocks(steps: Steps, num_rows: int) -> Iterator[Block]:
    """Yield blocks of whole steps that cover all rows.

    Args:
        steps: How rows lie.
        num_rows: How many rows a block should have at most; it has at least one step.
    """
    first = 0
    while first < steps.num_steps:
        last = bisect_right(steps.starts, steps.starts[first] + num_rows) - 1
        last = min(max(last, first + 1), steps.num_steps)
        yield Block(first, last, steps.starts[first], steps.starts[last])
        first = last


def blocks_of(weight: Tensor, steps: Steps, reverse: bool = False) -> list[Block]:
    """Return the blocks to work on at once.

    Args:
        weight: What makes gates of states, `[G * H, H]`.
        steps: How rows lie.
        reverse: The last block comes first.
    """
    made = list(blocks(steps, num_rows_of_a_block(weight, steps)))
    return made[::-1] if reverse else made


def num_rows_of_a_block(weight: Tensor, steps: Steps) -> int:
    """Return how many rows to work on at once: all, where memory of ours cannot be written to.

    Args:
        weight: What makes gates of states, `[G * H, H]`.
        steps: How rows lie.
    """
    if not is_plain(weight):
        return steps.num_rows
    numbers = NUMBERS_OF_A_BLOCK if weight.device.type == "cpu" else NUMBERS_ON_A_DEVICE
    return max(ROWS_OF_A_BLOCK, numbers // weight.shape[0])


def keeps_gates(weights: Sequence[Weights], steps: Steps) -> bool:
    """Whether a run keeps its gates for the gradients; with two directions they would have to be copied.

    Args:
        weights: One or two directions.
        steps: How rows lie.
    """
    return len(weights) == 1 and steps.num_rows * weights[0].hh.shape[0] <= NUMBERS_TO_KEEP


def whole(steps: Steps) -> Block:
    """Return all rows as one block."""
    return Block(0, steps.num_steps, 0, steps.num_rows)


def pieces_before(block: Block, states: Tensor, initial: Tensor, steps: Steps, reverse: bool) -> list[Piece]:
    """Return the previous states of a block's rows in few pieces; views where they lie together.

    Args:
        block: The block.
        states: The state of every row, `[R, H]`.
        initial: Those before the first step, `[N, H]`.
        steps: How rows lie.
        reverse: The previous state of a row is that of the same sample one step later.
    """
    found: list[_Run] = []
    for first, last in steps.stretches:
        for run in _runs_of_stretch(max(first, block.first), min(last, block.last), steps, reverse):
            before = found[-1] if found else None
            if before and run.is_initial == before.is_initial and run.source == before.source + before.size:
                found[-1] = before._replace(size=before.size + run.size)
            else:
                found.append(run)
    pieces = [
        Piece(
            slice(start - block.start, start - block.start + size),
            (initial if is_initial else states)[source : source + size],
            is_initial,
        )
        for start, source, size, is_initial in found
    ]
    if not pieces:
        return [Piece(slice(0, 0), initial, is_initial=True)]  # an empty batch
    if len(pieces) <= _MAX_PIECES:
        return pieces
    return [Piece(slice(0, block.stop - block.start), joined(pieces), is_initial=False)]


class _Run(NamedTuple):
    """Rows that lie together, and whose previous states lie together: first row, first source, number."""

    start: int
    source: int
    size: int
    is_initial: bool


def _runs_of_stretch(first: int, last: int, steps: Steps, reverse: bool) -> list[_Run]:
    """Of steps of one batch size, all but one have their previous states in one place."""
    if last <= first:
        return []
    starts = steps.starts
    if reverse:
        inner = _Run(starts[first], starts[first + 1], starts[last - 1] - starts[first], False)
        runs = [inner, *_runs_before(last - 1, steps, reverse)]
    else:
        inner = _Run(starts[first + 1], starts[first], starts[last] - starts[first + 1], False)
        runs = [*_runs_before(first, steps, reverse), inner]
    return [run for run in runs if run.size]


def _runs_before(t: int, steps: Steps, reverse: bool) -> list[_Run]:
    start, size = steps.starts[t], steps.batch_sizes[t]
    if not reverse:
        return [_Run(start, 0, size, True) if t == 0 else _Run(start, steps.starts[t - 1], size, False)]
    later = steps.batch_sizes[t + 1] if t + 1 < steps.num_steps else 0
    return [_Run(start, start + size, later, False), _Run(start + later, later, size - later, True)]


def joined(pieces: Sequence[Piece]) -> Tensor:
    """Return the previous states of a block's rows as one tensor, a view where they lie together."""
    return pieces[0].source if len(pieces) == 1 else torch.cat([piece.source for piece in pieces])


class Signals:
    """The teaching signal of each block.

    Args:
        signal: `[R, C]`, or `[N, C]` where it is the same at every step.
        steps: How rows lie.
    """

    def __init__(self, signal: Tensor, steps: Steps) -> None:
        self.signal, self.steps = signal, steps
        self.is_constant = signal.shape[0] != steps.num_rows
        self.repeated: Tensor | None = None

    def of(self, block: Block) -> Tensor:
        """Return the signal of a block's rows; not to be written to."""
        if not self.is_constant:
            return self.signal[block.rows]
        if not self.steps.is_even:
            return torch.cat([self.signal[: self.steps.batch_sizes[t]] for t in range(block.first, block.last)])
        # Blocks of one batch differ in length only at the end: one small copy, which stays in the cache, serves all.
        count = block.stop - block.start
        if self.repeated is None or self.repeated.shape[0] < count:
            self.repeated = self.signal.expand(block.last - block.first, *self.signal.shape).flatten(0, 1)
        return self.repeated[:count]


def walk(steps: Steps, reverse: bool) -> Iterator[tuple[slice, slice]]:
    """Yield, in the order in which a layer runs, rows of each step and those of their previous states.

    Args:
        steps: How rows lie.
        reverse: It runs from the last step to the first.

    Yields:
        Rows that have a step before them, and the rows of that.
    """
    order = range(steps.num_steps)
    for t in reversed(order) if reverse else order:
        for start, source, size, is_initial in _runs_before(t, steps, reverse):
            if size and not is_initial:
                yield slice(start, start + size), slice(source, source + size)


def meeting(size: int, states: Tensor | None, initial: Tensor) -> Tensor:
    """Return the previous states of the samples of a step.

    Args:
        size: How many samples the step has, the first ones.
        states: Those of the step that ran before it; None at the first.
        initial: The states before the first step of each sample, `[N, H]`.
    """
    if states is None:
        return initial[:size]
    running = states.shape[0]
    if size == running:
        return states
    return torch.cat([states, initial[running:size]]) if size > running else states[:size]


def ends(output: Tensor, steps: Steps, reverse: bool) -> Tensor:
    """Return the state of each sample after its last step, `[N, H]`.

    Args:
        output: `[R, H]`.
        steps: How rows lie.
        reverse: The last step is the first in time.
    """
    if reverse or steps.is_even:
        first = 0 if reverse else steps.starts[-2]
        return output[first : first + steps.num_samples]
    following = (*steps.batch_sizes[1:], 0)
    order = range(steps.num_steps - 1, -1, -1)
    return torch.cat([output[steps.starts[t] + following[t] : steps.starts[t + 1]] for t in order])
