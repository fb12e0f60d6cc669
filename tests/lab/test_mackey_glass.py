"""The simulated series: a solution of its equation, chaotic, with targets that come later."""

import numpy as np
import pytest
import torch

from feedalign_lab import data
from feedalign_lab.data import mackey_glass
from feedalign_lab.data.mackey_glass import HORIZON, NUM_STEPS, simulate, windows
from feedalign_lab.data.trivial import trivial_errors


def test_follows_the_equation() -> None:
    """Fine steps of Euler, from the simulated values of one delay, end where the simulation does."""
    series = simulate(1, 30, seed=0)[0]
    substeps = 200
    grid = np.arange(17 * substeps + 1) / substeps
    # Values between two steps, smooth enough to be interpolated.
    past = list(np.interp(grid, np.arange(18), series[:18]))
    for _ in range(5 * substeps):
        delayed = past[-17 * substeps - 1]
        past.append(past[-1] + (0.2 * delayed / (1 + delayed**10) - 0.1 * past[-1]) / substeps)
    np.testing.assert_allclose(past[-1], series[22], atol=2e-3)


def test_finer_substeps_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chaos tears any two solutions apart in the end: without a burn-in they are still together.
    monkeypatch.setattr(mackey_glass, "_BURN_IN", 0)
    coarse = simulate(3, 60, seed=0)
    monkeypatch.setattr(mackey_glass, "_SUBSTEPS", 40)
    fine = simulate(3, 60, seed=0)
    np.testing.assert_allclose(coarse, fine, atol=5e-5)


def test_series_differ_and_seeds_repeat() -> None:
    first, again, other = simulate(2, 5, 0), simulate(2, 5, 0), simulate(2, 5, 1)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 5)
    assert np.abs(first - other).min() > 1e-4
    assert np.abs(first[0] - first[1]).max() > 1e-2


def test_target_is_the_value_so_many_steps_later() -> None:
    series = torch.arange(8.0).reshape(1, 8, 1)
    for horizon in (1, 3):
        x, y = windows(series, horizon)
        assert x.shape == y.shape == (1, 8 - horizon, 1)
        assert torch.equal(y - x, torch.full_like(x, horizon))


def test_data_set() -> None:
    dataset = data.load("mackey-glass")
    assert (dataset.task, dataset.num_classes, dataset.num_outputs) == ("forecasting", None, 1)
    assert dataset.x_train.shape == dataset.y_train.shape == (600, NUM_STEPS, 1)
    assert dataset.validation is not None
    assert dataset.validation.x.shape == dataset.x_test.shape == (200, NUM_STEPS, 1)
    assert torch.equal(dataset.y_train[:, :-HORIZON], dataset.x_train[:, HORIZON:])
    assert dataset.x_train.dtype == torch.float32
    assert abs(float(dataset.x_train.mean())) < 0.02
    assert abs(float(dataset.x_train.std()) - 1) < 0.02
    errors = trivial_errors(dataset)
    assert 0.9 < errors["mean"] < 1.1
    assert 0.5 < errors["value last seen"] < 0.8
    # No stretch is in two parts.
    together = torch.cat([dataset.x_train, dataset.validation.x, dataset.x_test]).squeeze(2)
    assert len({tuple(row) for row in together.tolist()}) == 1000
