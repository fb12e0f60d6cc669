"""What is under way, on stderr: a bar with tokens per second, and a line for each evaluation."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from feedalign_lab.language.comparison import Watcher
from feedalign_lab.language.records import Evaluation

# How much the mean of what is shown forgets with each step.
_FORGETTING = 0.05


class LanguageProgress:
    """A bar over the steps of each run, and a line for each evaluation; a plain line where stderr is no terminal."""

    def __init__(self, *, is_shown: bool) -> None:
        """Prepare the bar.

        Args:
            is_shown: False keeps everything silent.
        """
        self._console = Console(stderr=True, quiet=not is_shown)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, loss {task.fields[loss]:.3f}, {task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (is_shown and sys.stderr.isatty()),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, loss=float("nan"), speed=0.0)
        self._loss: float | None = None
        self._tokens = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, what: str) -> None:
        """Show what is under way before training.

        Args:
            what: In words.
        """
        self._bar.update(self._task, description=what)

    def note(self, sentence: str) -> None:
        """Tell the user something that stays.

        Args:
            sentence: The sentence.
        """
        self._console.print(f"feedalign: {sentence}", highlight=False, markup=False, soft_wrap=True)

    def watch(self, rule: str, rate: float, num_steps: int) -> Watcher:
        """Show that a run starts.

        Args:
            rule: Name of the rule and its points.
            rate: Its learning rate.
            num_steps: Its steps.

        Returns:
            What to call after each step and evaluation of it.
        """
        self._loss, self._tokens = None, 0
        self._bar.reset(self._task, total=num_steps, description=f"{rule}, rate {rate:g}", loss=float("nan"), speed=0.0)

        def on_evaluation(evaluation: Evaluation) -> None:
            self.note(
                f"{rule}, rate {rate:g}, step {evaluation.step} of {num_steps}: "
                f"training loss {evaluation.train_loss:.3f}, "
                f"validation perplexity {evaluation.validation_perplexity:.1f}, "
                f"{evaluation.tokens / max(evaluation.seconds, 1e-9):,.0f} tokens/s"
            )

        return Watcher(self._on_step, on_evaluation)

    def _on_step(self, tokens: int, loss: float) -> None:
        """Move the bar by one step."""
        self._loss = loss if self._loss is None else self._loss + _FORGETTING * (loss - self._loss)
        self._tokens += tokens
        elapsed = self._bar.tasks[0].elapsed or 0.0
        speed = self._tokens / elapsed if elapsed > 0 else 0.0
        self._bar.update(self._task, advance=1, loss=self._loss, speed=speed)
