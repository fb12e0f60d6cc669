"""Summaries over trials."""

import math

import pytest

from feedalign.measure import LayerAlignment
from feedalign_lab.records import EpochRecord, Status, TrialResult, spread, summarize


def result(trial: int, errors: list[float], status: Status = "finished", rule: str = "dfa") -> TrialResult:
    epochs = tuple(
        EpochRecord(
            number,
            0.5,
            error,
            2.0,
            (LayerAlignment("fc1", "tanh1", 1.0, 40.0 + trial, 3.0), LayerAlignment("fc2", None, 0.0, 0.0, 0.0)),
        )
        for number, error in enumerate(errors, start=1)
    )
    return TrialResult(rule, trial, 1e-3, status, "", epochs)


def test_spread_is_the_sample_standard_deviation() -> None:
    three = spread([1.0, 2.0, 6.0])
    assert (three.mean, three.count) == (3.0, 3)
    assert three.std == pytest.approx(math.sqrt(7.0))
    assert math.isnan(spread([1.0]).std)


def test_summary_takes_the_last_epoch_of_finished_trials() -> None:
    results = [result(0, [3.0, 4.0]), result(1, [1.0, 2.0]), result(2, [50.0], "diverged"), result(0, [1.0], rule="fa")]
    summary = summarize("dfa", results)
    assert summary.test_score is not None
    assert summary.test_score.mean == 3.0
    assert (summary.num_trials, summary.num_finished) == (3, 2)
    assert summary.seconds == 4.0


def test_late_error_is_the_mean_over_ten_epochs_or_over_all() -> None:
    long = [result(0, [50.0, *([4.0] * 5), *([6.0] * 5)]), result(1, [50.0, *([8.0] * 10)])]
    late = summarize("dfa", long).test_score_last_epochs
    assert late is not None
    assert (late.mean, late.std, late.count) == (6.5, pytest.approx(math.sqrt(4.5)), 2)
    short = summarize("dfa", [result(0, [3.0, 4.0])]).test_score_last_epochs
    assert short is not None
    assert short.mean == 3.5


def test_angles_are_those_of_hidden_layers() -> None:
    assert summarize("dfa", [result(0, [4.0]), result(1, [4.0])]).angles == {"fc1": 40.5}


def test_rule_without_a_finished_trial() -> None:
    summary = summarize("dfa", [result(0, [4.0], "interrupted")])
    assert summary.test_score is None
    assert summary.test_score_last_epochs is None
    assert summary.angles == {}
    assert math.isnan(summary.seconds)
