"""Rates are chosen on training data alone."""

import dataclasses

import pytest
import torch

from feedalign_lab import data, tuning
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import Spread
from feedalign_lab.training import Schedule
from feedalign_lab.tuning import RateResult, best_rate, try_rates


def test_test_part_is_not_looked_at() -> None:
    digits = data.load("digits")
    blind = dataclasses.replace(digits, x_test=torch.full_like(digits.x_test, torch.nan))
    spec = LearnerSpec("dfa", "fc1-10", learning_rate=0.0)
    results = [try_rates(dataset, spec, Schedule(2, 32), [1e-5, 1e-2], trials=2) for dataset in (digits, blind)]
    assert results[0] == results[1]
    slow, good = results[0]
    assert slow.error is not None
    assert good.error is not None
    assert good.error.mean < slow.error.mean
    assert good.error.count == 2


def test_rate_that_diverges_has_no_error() -> None:
    spec = LearnerSpec("backprop", "fc1-10", learning_rate=0.0)
    (result,) = try_rates(data.load("digits"), spec, Schedule(2, 32), [1e38], trials=1)
    assert result.error is None


def test_best_rate_passes_over_divergence() -> None:
    results = [
        RateResult(1e-3, Spread(5.0, 0.1, 3)),
        RateResult(1e-2, Spread(4.0, 0.1, 3)),
        RateResult(1e-1, None),
    ]
    assert best_rate(results) == 1e-2


def test_command_prints_a_row_per_rule(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--network fc1-8 --rules fa,dfa --rates 0.001 0.01 --epochs 1 --trials 1"
    monkeypatch.setattr("sys.argv", ["tuning", *arguments.split()])
    tuning.main()
    out = capsys.readouterr().out
    assert "held-out" in out
    assert [name for name in ("fa", "dfa", "drtp") if f" {name} " in out] == ["fa", "dfa"]
