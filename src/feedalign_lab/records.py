"""What a run leaves behind: figures per epoch, per trial and per rule."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from feedalign.measure import LayerAlignment

Status = Literal["finished", "interrupted", "diverged"]

NUM_LAST_EPOCHS = 10


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training data.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss over the epoch's steps, measured while training.
        test_error: After the epoch; percent of wrong classes, or the mean squared error.
        validation_error: The same on the validation part; None where the data set has none.
        seconds: Wall time of the training steps alone.
        alignment: Angles to backprop after the epoch, one entry per layer; empty where they were not measured.
    """

    epoch: int
    train_loss: float
    test_error: float
    seconds: float
    alignment: tuple[LayerAlignment, ...]
    validation_error: float | None = None


@dataclass(frozen=True)
class TrialResult:
    """One training run of one rule.

    Attributes:
        rule: Name of the rule.
        trial: Number of the trial, from 0.
        learning_rate: Step size of Adam.
        status: "finished", "interrupted" (by Ctrl-C) or "diverged" (see `training.run_trial`).
        message: What went wrong, empty if nothing did.
        epochs: The epochs that were completed.
    """

    rule: str
    trial: int
    learning_rate: float
    status: Status
    message: str
    epochs: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (nan for a single value) of `count` values."""

    mean: float
    std: float
    count: int


@dataclass(frozen=True)
class RuleSummary:
    """What the finished trials of a rule come to.

    Attributes:
        rule: Name of the rule.
        num_trials: Trials that were started.
        num_finished: Trials that ran to the end; only these count in the figures.
        test_error: After the last epoch, over the finished trials; None if there is none.
        test_error_last_epochs: The same of each trial's mean over its last ten epochs (all, where there are fewer),
            which is what Frenkel et al. (2021) report.
        test_error_chosen: The same after the epoch that `chosen_epoch` tells, which the test part has no say in; None
            where the data set has no validation part.
        angles: Per hidden layer, degrees between the rule's delta and backprop's after the last epoch, averaged over
            the finished trials; nan where there is no signal to compare.
        seconds: Mean wall time of a finished trial's training steps.
    """

    rule: str
    num_trials: int
    num_finished: int
    test_error: Spread | None
    test_error_last_epochs: Spread | None
    test_error_chosen: Spread | None
    angles: dict[str, float]
    seconds: float


def hidden_layers(record: EpochRecord) -> tuple[LayerAlignment, ...]:
    """The angles of the layers with a feedback point: all but the last, which has the error itself."""
    return tuple(entry for entry in record.alignment if entry.point is not None)


def chosen_epoch(result: TrialResult) -> EpochRecord | None:
    """The epoch one would stop at.

    Args:
        result: A trial.

    Returns:
        The first of the epochs with the lowest validation error; None where there is no validation part.
    """
    known = [epoch for epoch in result.epochs if epoch.validation_error is not None]
    return min(known, key=lambda epoch: epoch.validation_error or 0.0, default=None)


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation over trials.

    Args:
        values: At least one value.

    Returns:
        The mean, and the standard deviation with n - 1 in the denominator.
    """
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), std, len(values))


def summarize(rule: str, results: Iterable[TrialResult]) -> RuleSummary:
    """Put the trials of one rule together.

    Args:
        rule: Name of the rule.
        results: Trials of any rules; those of others are passed over.

    Returns:
        The summary over the rule's finished trials.
    """
    started = [result for result in results if result.rule == rule]
    finished = [result for result in started if result.status == "finished" and result.epochs]
    errors = [result.epochs[-1].test_error for result in finished]
    late_errors = [
        statistics.fmean(epoch.test_error for epoch in result.epochs[-NUM_LAST_EPOCHS:]) for result in finished
    ]
    chosen = [epoch.test_error for result in finished if (epoch := chosen_epoch(result)) is not None]
    layers: dict[str, list[float]] = {}
    for result in finished:
        for entry in hidden_layers(result.epochs[-1]):
            layers.setdefault(entry.layer, []).append(entry.delta)
    return RuleSummary(
        rule=rule,
        num_trials=len(started),
        num_finished=len(finished),
        test_error=spread(errors) if errors else None,
        test_error_last_epochs=spread(late_errors) if late_errors else None,
        test_error_chosen=spread(chosen) if chosen else None,
        angles={layer: statistics.fmean(values) for layer, values in layers.items()},
        seconds=statistics.fmean(sum(epoch.seconds for epoch in result.epochs) for result in finished)
        if finished
        else math.nan,
    )
