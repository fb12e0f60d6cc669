"""Progress bars on stderr."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from feedalign_lab.records import EpochRecord


class TrainingProgress:
    """One bar over all epochs of all trials; silent when stderr is no terminal."""

    def __init__(self, num_epochs: int, *, is_shown: bool) -> None:
        """Prepare the bar.

        Args:
            num_epochs: Epochs of all trials of all rules.
            is_shown: False keeps it silent on a terminal too.
        """
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (is_shown and sys.stderr.isatty()),
            transient=True,
        )
        self._task = self._bar.add_task("measuring cost", total=num_epochs)
        self._num_planned = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def watch(self, rule: str, trial: int, epochs: int) -> Callable[[EpochRecord], None]:
        """Show that a trial starts.

        Args:
            rule: Name of the rule.
            trial: Number of the trial, from 0.
            epochs: Epochs of this trial.

        Returns:
            What to call after each epoch of it.
        """
        # A trial that ended early leaves epochs uncounted: start from where it should have ended.
        self._bar.update(self._task, completed=self._num_planned, description=f"{rule}, trial {trial + 1}")
        self._num_planned += epochs
        return self._on_epoch

    def _on_epoch(self, record: EpochRecord) -> None:
        """Move the bar by one epoch."""
        del record
        self._bar.advance(self._task)
