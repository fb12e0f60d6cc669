"""What a run leaves behind: figures per epoch, per trial and per rule."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from feedalign.measure import LayerAlignment

Status = Literal["finished", "interrupted", "diverged"]
Better = Literal["lower", "higher"]
"""Which way a metric is better."""

NUM_LAST_EPOCHS = 10

Item = TypeVar("Item")


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training data.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss over the epoch's steps, measured while training.
        test_score: The task's metric on the test part after the epoch.
        seconds: Wall time of the training steps alone.
        alignment: Angles to backprop after the epoch, one entry per layer; empty where they were not measured.
        validation_score: The same metric on the validation part; None where there is none.
        other_scores: Further metrics on the test part, by name.
    """

    epoch: int
    train_loss: float
    test_score: float
    seconds: float
    alignment: tuple[LayerAlignment, ...]
    validation_score: float | None = None
    other_scores: Mapping[str, float] = field(default_factory=dict)


def epoch_record(columns: Mapping[str, Any]) -> EpochRecord:
    """A record out of what `dataclasses.asdict` made of it.

    Args:
        columns: By name.

    Returns:
        The record.
    """
    return EpochRecord(**{**columns, "alignment": tuple(LayerAlignment(**one) for one in columns["alignment"])})


OnEpoch = Callable[[EpochRecord], None]
Watch = Callable[[str, int, int], OnEpoch]
"""Told the rule, number and epochs of each trial before it starts; gives what to call after each epoch."""


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


def trial_result(columns: Mapping[str, Any]) -> TrialResult:
    """A result out of what `dataclasses.asdict` made of it.

    Args:
        columns: By name.

    Returns:
        The result.
    """
    return TrialResult(**{**columns, "epochs": tuple(epoch_record(one) for one in columns["epochs"])})


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
        test_score: After the last epoch, over the finished trials; None if there is none.
        test_score_last_epochs: The same of each trial's mean over its last ten epochs (all, where there are fewer),
            which is what Frenkel et al. (2021) report.
        test_score_chosen: The same after the epoch that `chosen_epoch` tells, which the test part has no say in; None
            where there is no validation part.
        other_scores: The further metrics after the last epoch, by name.
        other_scores_chosen: The same after the chosen epoch; empty where there is no validation part.
        angles: Per hidden layer, degrees between the rule's delta and backprop's after the last epoch, averaged over
            the finished trials; nan where there is no signal to compare.
        seconds: Mean wall time of a finished trial's training steps.
    """

    rule: str
    num_trials: int
    num_finished: int
    test_score: Spread | None
    test_score_last_epochs: Spread | None
    test_score_chosen: Spread | None
    other_scores: Mapping[str, Spread]
    other_scores_chosen: Mapping[str, Spread]
    angles: dict[str, float]
    seconds: float


def hidden_layers(record: EpochRecord) -> tuple[LayerAlignment, ...]:
    """The angles of the layers with a feedback point: all but the last, which has the error itself."""
    return tuple(entry for entry in record.alignment if entry.point is not None)


def chosen_epoch(result: TrialResult, better: Better) -> EpochRecord | None:
    """The epoch one would stop at.

    Args:
        result: A trial.
        better: Which way the metric is better.

    Returns:
        The first of the epochs with the best validation score; None where there is no validation part.
    """
    known = [(epoch.validation_score, epoch) for epoch in result.epochs if epoch.validation_score is not None]
    return best_of(known, better)


def best_of(scored: Sequence[tuple[float, Item]], better: Better) -> Item | None:
    """The item with the best score.

    Args:
        scored: Scores and items; a score that is no number is worse than any other.
        better: Which way scores are better.

    Returns:
        The first of the best; None of none.
    """
    sign = 1.0 if better == "lower" else -1.0

    def badness(pair: tuple[float, Item]) -> float:
        return math.inf if math.isnan(pair[0]) else sign * pair[0]

    return min(scored, key=badness)[1] if scored else None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation over trials.

    Args:
        values: At least one value.

    Returns:
        The mean, and the standard deviation with n - 1 in the denominator.
    """
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), std, len(values))


def summarize(rule: str, results: Iterable[TrialResult], better: Better = "lower") -> RuleSummary:
    """Put the trials of one rule together.

    Args:
        rule: Name of the rule.
        results: Trials of any rules; those of others are passed over.
        better: Which way the metric is better.

    Returns:
        The summary over the rule's finished trials.
    """
    started = [result for result in results if result.rule == rule]
    finished = [result for result in started if result.status == "finished" and result.epochs]
    last = [result.epochs[-1] for result in finished]
    late = [statistics.fmean(epoch.test_score for epoch in result.epochs[-NUM_LAST_EPOCHS:]) for result in finished]
    chosen = [epoch for result in finished if (epoch := chosen_epoch(result, better)) is not None]
    layers: dict[str, list[float]] = {}
    for result in finished:
        for entry in hidden_layers(result.epochs[-1]):
            layers.setdefault(entry.layer, []).append(entry.delta)
    return RuleSummary(
        rule=rule,
        num_trials=len(started),
        num_finished=len(finished),
        test_score=spread([epoch.test_score for epoch in last]) if last else None,
        test_score_last_epochs=spread(late) if late else None,
        test_score_chosen=spread([epoch.test_score for epoch in chosen]) if chosen else None,
        other_scores=_other_scores(last),
        other_scores_chosen=_other_scores(chosen),
        angles={layer: statistics.fmean(values) for layer, values in layers.items()},
        seconds=statistics.fmean(sum(epoch.seconds for epoch in result.epochs) for result in finished)
        if finished
        else math.nan,
    )


def _other_scores(epochs: Sequence[EpochRecord]) -> dict[str, Spread]:
    """The further metrics over one epoch of each trial."""
    names = dict.fromkeys(name for epoch in epochs for name in epoch.other_scores)
    found = {name: [e.other_scores[name] for e in epochs if name in e.other_scores] for name in names}
    return {name: spread(values) for name, values in found.items()}
