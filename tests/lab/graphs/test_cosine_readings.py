"""The benchmark of cosines on graphs: what counts as a signal, and which passes drop out."""

from __future__ import annotations

import pytest
import torch
from benchmarks.cosines import measure, reading, readings
from small_graphs import communities

from feedalign_lab.graphs.nodes import NodeTask
from feedalign_lab.learner import LearnerSpec

GIVEN = torch.tensor([[3.0, 4.0], [1e-9, 0.0], [0.0, 0.0], [1e-5, 0.0]], dtype=torch.float64)
WANTED = torch.tensor([[4.0, 3.0], [0.0, 1e-9], [1.0, 0.0], [2e-5, 0.0]], dtype=torch.float64)


def test_nodes_without_a_signal_are_left_out() -> None:
    found = reading(GIVEN, WANTED)
    # 24 / 25, two that are small and at right angles, and two that are small and in line.
    assert found["num_nodes"] == 3
    assert found["num_counted_as_1"] == 0
    assert found["mean"] == pytest.approx((24 / 25 + 0 + 1) / 3, abs=1e-12)


def test_with_a_floor_two_silent_signals_count_as_one_and_a_single_one_as_nothing() -> None:
    found = reading(GIVEN, WANTED, floor=1e-8)
    assert found["num_nodes"] == 4
    assert found["num_counted_as_1"] == 1
    assert found["mean"] == pytest.approx((24 / 25 + 1 + 0 + 1) / 4, abs=1e-12)


@pytest.mark.parametrize(("dropout", "is_same"), [(0.0, True), (0.5, False)])
def test_dropout_alone_parts_the_readings(dropout: float, is_same: bool) -> None:
    trial = NodeTask(communities(), "gcn").trial(LearnerSpec("dfa", "gcn", 0.01, dropout=dropout))
    found = readings(trial)
    assert (found["plain"] == found["dropout"]) is is_same
    assert trial.model.training
    assert all(parameter.grad is None for parameter in trial.model.parameters())


def test_what_was_trained_is_told_and_the_same_again() -> None:
    once, again = (measure(communities(), "spline", 2) for _ in range(2))
    assert once == again
    assert (once["network"], once["epochs"]) == ("spline", 2)
    assert set(once["readings"]) == {"plain", "dropout", "silent", "both"}
