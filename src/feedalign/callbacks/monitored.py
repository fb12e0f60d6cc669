"""What the Monitor's callbacks of all trainers share: its options, and a Monitor from a training's start to its end."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from feedalign.measure.monitor import Monitor, ScalarWriter


class Monitored:
    """A callback that has a Monitor while a trainer runs; it stands before the trainer's own class of callbacks.

    Args:
        every: As for `fa.measure.Monitor`.
        folder: As there.
        tensorboard: As there.
        momentum: As there.

    Attributes:
        monitor: The Monitor; None before training.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        folder: str | Path | None = None,
        tensorboard: bool | ScalarWriter = False,
        momentum: float = 0.95,
    ) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._every, self._folder, self._tensorboard, self._momentum = every, folder, tensorboard, momentum

    def _open(self, model: nn.Module, steps_done: int) -> None:
        """Make the Monitor; that of a run before, if the callback has seen one, is closed."""
        self._close()
        self.monitor = Monitor(
            model,
            every=self._every,
            folder=self._folder,
            tensorboard=self._tensorboard,
            start=steps_done,
            momentum=self._momentum,
        )

    def _begin(self, steps_done: int) -> None:
        """Begin a step, in the place of one that did not end: its batch had no loss, or an exception ended the run."""
        if self.monitor is not None:
            self.monitor.abandon()
            self.monitor.begin(steps_done + 1)

    def _end(self) -> None:
        """End the step, if one is open."""
        if self.monitor is not None:
            self.monitor.end()

    def _close(self) -> None:
        """Take everything off the model; the latest record can still be read."""
        if self.monitor is not None:
            self.monitor.close()
