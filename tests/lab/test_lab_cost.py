"""Cost: ratios to backprop out of interleaved steps."""

import time
from collections.abc import Callable

import pytest
import torch

from feedalign_lab import cost
from feedalign_lab.cost import measure_cost

CPU = torch.device("cpu")


def busy(seconds: float, num_floats: int, log: list[str], name: str) -> Callable[[], object]:
    """A step that takes so long and holds so much memory."""

    def step() -> None:
        log.append(name)
        held = torch.empty(num_floats)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        del held

    return step


def test_ratios_and_order() -> None:
    log: list[str] = []
    steps = {
        "backprop": busy(0.002, 100_000, log, "backprop"),
        "half": busy(0.001, 50_000, log, "half"),
        "twice": busy(0.004, 300_000, log, "twice"),
    }
    records = {record.rule: record for record in measure_cost(steps, "backprop", CPU)}
    assert list(records) == ["backprop", "half", "twice"]
    assert records["backprop"].time_ratio == 1
    assert records["half"].time_ratio == pytest.approx(0.5, rel=0.2)
    assert records["twice"].time_ratio == pytest.approx(2, rel=0.2)
    assert records["backprop"].peak_bytes == pytest.approx(400_000, rel=0.01)
    assert records["half"].memory_ratio == pytest.approx(0.5, rel=0.01)
    assert records["twice"].memory_ratio == pytest.approx(3, rel=0.01)


def test_rules_take_turns_from_a_moving_start(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(cost, "_time", lambda step, repeats, device: timed.append(step()) or 1.0)
    monkeypatch.setattr("feedalign.measure.peak_memory", lambda step: 8)
    measure_cost({"a": lambda: "a", "b": lambda: "b", "c": lambda: "c"}, "a", CPU)
    assert "".join(timed)[:10] == "a" + "abc" + "bca" + "cab"


def test_one_slow_moment_does_not_move_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, *([1.0, 2.0, 2.0, 1.0] * 2), 50.0, 2.0])
    monkeypatch.setattr(cost, "_time", lambda step, repeats, device: next(times))
    monkeypatch.setattr("feedalign.measure.peak_memory", lambda step: 8)
    records = measure_cost({"backprop": lambda: None, "other": lambda: None}, "backprop", CPU)
    assert [record.time_ratio for record in records] == [1.0, 2.0]
