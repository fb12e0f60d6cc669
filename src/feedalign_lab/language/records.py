"""What a language-modelling run leaves behind."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from feedalign_lab.language.tokens import Chunks

Status = Literal["finished", "interrupted", "diverged"]


class Parts(NamedTuple):
    """The parts of a text, cut into chunks."""

    train: Chunks
    validation: Chunks
    test: Chunks


@dataclass(frozen=True)
class Evaluation:
    """How a model stood at one moment of its training.

    Attributes:
        step: Steps taken.
        tokens: Tokens seen in them.
        train_loss: Mean cross-entropy of a token since the evaluation before, in nats, measured while training.
        validation_perplexity: Perplexity of a token on the validation part.
        rate: Learning rate of the last step.
        seconds: Wall time of all training steps so far.
    """

    step: int
    tokens: int
    train_loss: float
    validation_perplexity: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class PointAngle:
    """Angle between the rule's and backprop's signal at a feedback point, in degrees; nan where one is zero."""

    point: str
    degrees: float


@dataclass(frozen=True)
class LanguageRun:
    """One rule at one learning rate.

    Attributes:
        rule: Name of the rule and its points.
        rate: Learning rate at the start, or the factor of Noam's.
        status: "finished", "interrupted" (by Ctrl-C) or "diverged" (a loss that is not finite).
        message: What went wrong; empty if nothing did.
        evaluations: One or more per epoch.
        test_perplexity: Perplexity of a token on the test part, with the weights of the best evaluation; None where
            there was none.
        angles: At every feedback point, with those weights, on validation text.
        sample: Text that the model wrote behind the prompt, with those weights.
    """

    rule: str
    rate: float
    status: Status
    message: str
    evaluations: tuple[Evaluation, ...]
    test_perplexity: float | None = None
    angles: tuple[PointAngle, ...] = ()
    sample: str = ""

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest perplexity."""
        return min(self.evaluations, key=lambda evaluation: evaluation.validation_perplexity, default=None)

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on per second of training steps; nan before the first evaluation."""
        last = self.evaluations[-1] if self.evaluations else None
        return last.tokens / last.seconds if last is not None and last.seconds > 0 else math.nan


def language_run(columns: Mapping[str, Any]) -> LanguageRun:
    """A run out of what `dataclasses.asdict` made of it.

    Args:
        columns: By name.

    Returns:
        The run.
    """
    evaluations = tuple(Evaluation(**one) for one in columns["evaluations"])
    angles = tuple(PointAngle(**one) for one in columns["angles"])
    return LanguageRun(**{**columns, "evaluations": evaluations, "angles": angles})


def best_runs(runs: Iterable[LanguageRun]) -> dict[str, LanguageRun]:
    """Return, for each rule, the run at the rate with the lowest validation perplexity.

    Args:
        runs: Runs of any rules and rates; those without an evaluation count last.
    """
    best: dict[str, LanguageRun] = {}
    for run in runs:
        before = best.get(run.rule)
        if before is None or _perplexity_of(run) < _perplexity_of(before):
            best[run.rule] = run
    return best


def _perplexity_of(run: LanguageRun) -> float:
    # One that diverged is no choice, whatever it was before.
    if run.best is None or run.status == "diverged":
        return math.inf
    return run.best.validation_perplexity
