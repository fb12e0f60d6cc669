"""Progress bars on stderr."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from feedalign_lab.records import EpochRecord, OnEpoch

# Steps can take less than a millisecond: the bar within an epoch is for those that do not.
_SECONDS_BETWEEN_SHARES = 0.2


class TrainingProgress:
    """One bar over all epochs of all trials, and one within what takes long; silent when stderr is no terminal."""

    def __init__(self, num_epochs: int | None, *, is_shown: bool) -> None:
        """Prepare the bars.

        Args:
            num_epochs: Epochs of all trials of all rules; None where nobody knows yet.
            is_shown: False keeps them silent on a terminal too.
        """
        self._is_shown = is_shown and sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._is_shown,
            transient=True,
        )
        self._num_epochs = num_epochs
        self._task = self._bar.add_task("getting ready", total=num_epochs, count=self._count(0))
        self._within = self._bar.add_task("", total=1.0, count="", visible=False)
        self._num_planned = self._num_done = 0
        self._last_told = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def watch(self, rule: str, trial: int, epochs: int) -> OnEpoch:
        """Show that a trial starts.

        Args:
            rule: Name of the rule.
            trial: Number of the trial, from 0.
            epochs: Epochs of this trial.

        Returns:
            What to call after each epoch of it.
        """
        # A trial that ended early leaves epochs uncounted: start from where it should have ended.
        self._num_done = self._num_planned
        self._show_done(description=f"{rule}, trial {trial + 1}")
        self._num_planned += epochs
        return self._on_epoch

    def tell(self, what: str, share: float) -> None:
        """Show how far something long is.

        Args:
            what: What is being done.
            share: How much of it is done, from 0 to 1.
        """
        now = time.monotonic()
        if not self._is_shown or (share < 1 and now - self._last_told < _SECONDS_BETWEEN_SHARES):
            return
        self._last_told = now
        is_under_way = 0 <= share < 1
        self._bar.update(self._within, description=what, completed=share, count=f"{share:.0%}", visible=is_under_way)

    def say(self, sentence: str) -> None:
        """Print a line that stays, above the bars.

        Args:
            sentence: The line.
        """
        self._bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _on_epoch(self, record: EpochRecord) -> None:
        """Move the bar by one epoch."""
        del record
        self._num_done += 1
        self._show_done()

    def _show_done(self, description: str | None = None) -> None:
        self._bar.update(
            self._task, completed=self._num_done, count=self._count(self._num_done), description=description
        )

    def _count(self, num_done: int) -> str:
        return f"{num_done} epochs" if self._num_epochs is None else f"{num_done}/{self._num_epochs} epochs"
