"""The sweep over limits: points, what a cut run leaves, and the picture."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedalign_lab import limits_sweep
from feedalign_lab.errors import CorruptFileError, OutputFolderError
from feedalign_lab.limits import LIMIT_NAMES, parse_limits
from feedalign_lab.limits_plot import PANELS, accuracies, draw_limits
from feedalign_lab.limits_sweep import SERIES, Point, Record, Series, SweepPlan, run_sweep
from feedalign_lab.records import EpochRecord, TrialResult

pytestmark = pytest.mark.usefixtures("rough_pictures")

TINY = SweepPlan("digits", "fc1-8", 1, 2, (Series("error-bits", "dfa", (4, 1)), Series("delay", "dfa", (1,))))
FREE = [Point("fc1-8", rule, "") for rule in ("backprop", "shallow", "dfa")]
POINTS = [*FREE, *(Point("fc1-8", "dfa", limits) for limits in ("error-bits=4", "error-bits=1", "delay=1"))]


def test_every_line_of_the_sweep_means_something_and_has_a_panel() -> None:
    for line in SERIES:
        assert line.panel in PANELS
        assert line.panel in LIMIT_NAMES
        for value in line.values:
            assert parse_limits(line.limits(value)).text == line.limits(value)
    points = SweepPlan().points()
    assert len(set(points)) == len(points)


def test_a_small_sweep_trains_all_its_points_and_draws_them(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "limits.json"
    record = run_sweep(TINY, path, said.append)
    keys = [(point["network"], point["rule"], point["limits"]) for point in record.points]
    assert keys == TINY.points() == POINTS
    assert len(said) == len(POINTS)
    assert all(len(point["accuracy"]) == 2 and 5 < point["accuracy"][0] < 90 for point in record.points)
    held = json.loads(path.read_text())
    assert held["points"] == record.points
    assert held["config"]["networks"]["fc1-8"]["settings"]["dfa"]["learning_rate"] == 5e-3
    assert run_sweep(TINY, path, said.append).points == record.points
    assert len(said) == len(POINTS)
    image = draw_limits(record.points, TINY)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"


def result(score: float, status: str = "finished") -> TrialResult:
    return TrialResult("dfa", 0, 1e-3, status, "", (EpochRecord(1, 1.0, score, 0.5, ()),))  # type: ignore[arg-type]


def without_training(monkeypatch: pytest.MonkeyPatch, results: list[Any]) -> None:
    """Let points come from a list."""
    monkeypatch.setattr(limits_sweep, "load", lambda plan, network: object())
    monkeypatch.setattr(limits_sweep, "train", lambda task, plan, point: results.pop(0))


def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = tmp_path / "limits.json", []
    without_training(monkeypatch, [[result(20.0)], [result(30.0)], [result(40.0), result(0.0, "interrupted")]])
    run_sweep(TINY, path, said.append)
    assert said[-1].startswith("interrupted; 2 points are kept")
    assert [point["accuracy"] for point in json.loads(path.read_text())["points"]] == [[80.0], [70.0]]
    without_training(monkeypatch, [[result(50.0, "diverged")], *([result(10.0)] for _ in range(3))])
    record = run_sweep(TINY, path, said.append)
    assert [point["accuracy"] for point in record.points] == [[80.0], [70.0], [None], [90.0], [90.0], [90.0]]
    assert accuracies(record.points, POINTS[2]) == []
    assert accuracies(record.points, POINTS[4]) == [90.0]
    assert draw_limits(record.points, TINY)
    assert draw_limits([], SweepPlan())


def test_no_point_begins_after_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    without_training(monkeypatch, [])
    assert run_sweep(TINY, tmp_path / "limits.json", said.append, minutes=-1).points == []
    assert "6 points are left" in said[-1]


def test_points_of_another_plan_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "limits.json"
    without_training(monkeypatch, [[result(20.0)] for _ in range(6)])
    run_sweep(TINY, path, lambda sentence: None)
    before = path.read_bytes()
    with pytest.raises(OutputFolderError, match=r"6 points .*epochs differ"):
        run_sweep(replace(TINY, epochs=2), path, lambda sentence: None)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": {}, "environment": {}, "points": [{"network": 1, "rule": 1}]}', "\x00"]
)
def test_a_file_that_is_no_record_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text(content)
    with pytest.raises(CorruptFileError, match="--out"):
        Record.opened(path, TINY)
    assert path.read_text() == content
