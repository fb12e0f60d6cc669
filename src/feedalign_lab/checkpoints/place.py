"""How far a trial is within an epoch, so that it can be saved and gone on with between any two steps."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")


class Place:
    """Where in an epoch a trial stands whose batches are a function of one generator.

    Kept is the generator as it was before the epoch, and how many steps were taken since: the batches are made again
    from there, and those that were trained on are passed over.

    Args:
        order: Decides the batches; advanced with every epoch.

    Attributes:
        total: Sum of the losses of the epoch's examples so far.
        seen: How many examples that were.
    """

    def __init__(self, order: torch.Generator) -> None:
        self._order = order
        self._begin()

    def _begin(self) -> None:
        self._before, self._step = self._order.get_state(), 0
        self.total, self.seen = 0.0, 0

    def batches(
        self, make: Callable[[torch.Generator], Iterable[Batch]], rest: Callable[[], object]
    ) -> Iterator[tuple[int, Batch]]:
        """Go through the rest of the epoch.

        Args:
            make: Makes all batches of an epoch; all that it draws comes from the generator.
            rest: Called between two steps, where the trial can be saved: never after the last, whose gradients tell
                how the training ended.

        Yields:
            Each step's number, from 1, and its batch.
        """
        self._order.set_state(self._before)
        for number, batch in enumerate(make(self._order), start=1):
            if number <= self._step:
                continue
            if self._step:
                rest()
            yield number, batch
            self._step = number

    def add(self, loss: float, count: int) -> None:
        """Count the examples of a step.

        Args:
            loss: Their mean loss.
            count: How many there are.
        """
        self.total += loss * count
        self.seen += count

    def end(self) -> float:
        """Go to the beginning of the next epoch.

        Returns:
            The mean loss of the one that ended; nan where no examples were counted.
        """
        mean = self.total / self.seen if self.seen else math.nan
        self._begin()
        return mean

    def state(self) -> dict[str, Any]:
        """What `load_state` takes."""
        return {"before": self._before, "step": self._step, "total": self.total, "seen": self.seen}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to where another one stood."""
        self._order.set_state(state["before"])
        self._before, self._step = state["before"], state["step"]
        self.total, self.seen = state["total"], state["seen"]
