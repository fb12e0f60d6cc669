"""How a batch of sequences lies in rows: time-major, so that the rows of one step lie together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """The rows `[R, ...]` of a batch of sequences: those of step 0, then those of step 1, and so on.

    Samples are sorted by length, longest first, as torch packs them, so that the rows of a step belong to the first
    `batch_sizes[t]` samples.

    Attributes:
        batch_sizes: How many sequences reach each step; never more than at the step before.
    """

    batch_sizes: tuple[int, ...]

    @classmethod
    def even(cls, num_steps: int, num_samples: int) -> Steps:
        """Return the steps of sequences of one length."""
        return cls((num_samples,) * num_steps)

    @property
    def num_steps(self) -> int:
        """T, the longest length."""
        return len(self.batch_sizes)

    @property
    def num_samples(self) -> int:
        """N."""
        return self.batch_sizes[0]

    @cached_property
    def num_rows(self) -> int:
        """R."""
        return sum(self.batch_sizes)

    @cached_property
    def is_even(self) -> bool:
        """Whether all sequences have one length."""
        return self.batch_sizes[0] == self.batch_sizes[-1]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of each step, and R at the end."""
        starts = [0]
        for size in self.batch_sizes:
            starts.append(starts[-1] + size)
        return tuple(starts)

    @cached_property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """Stretches of steps of one batch size: the first of each and the one behind its last."""
        turns = [t for t in range(1, self.num_steps) if self.batch_sizes[t] != self.batch_sizes[t - 1]]
        return tuple(pairwise((0, *turns, self.num_steps)))

    def order(self, reverse: bool) -> range:
        """Return the steps in the order in which a direction takes them."""
        return range(self.num_steps - 1, -1, -1) if reverse else range(self.num_steps)

    def sizes(self) -> Tensor:
        """Return the batch sizes as torch's packed operations take them: int64, on the CPU."""
        return torch.tensor(self.batch_sizes, dtype=torch.int64)
