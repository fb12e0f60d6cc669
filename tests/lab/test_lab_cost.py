"""Cost: ratios to backprop out of interleaved steps."""

import os
import sys
from collections.abc import Callable

import pytest
import torch

from feedalign_lab import cost
from feedalign_lab.cost import measure_cost, without_profiler_warning

CPU = torch.device("cpu")


class Clock:
    """A clock that only steps move, so that a busy machine cannot."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cost, "time", made)
    return made


def taking(seconds: float, num_floats: int, clock: Clock) -> Callable[[], object]:
    """A step that takes so long and holds so much memory."""

    def step() -> None:
        held = torch.empty(num_floats)
        clock.now += seconds
        del held

    return step


def test_ratios_and_order(clock: Clock) -> None:
    steps = {
        "backprop": taking(0.002, 100_000, clock),
        "half": taking(0.001, 50_000, clock),
        "twice": taking(0.004, 300_000, clock),
    }
    records = {record.rule: record for record in measure_cost(steps, "backprop", CPU)}
    assert list(records) == ["backprop", "half", "twice"]
    assert records["backprop"].step_seconds == pytest.approx(0.002)
    assert records["half"].time_ratio == pytest.approx(0.5)
    assert records["twice"].time_ratio == pytest.approx(2)
    assert records["backprop"].peak_bytes == pytest.approx(400_000, rel=0.01)
    assert records["half"].memory_ratio == pytest.approx(0.5, rel=0.01)
    assert records["twice"].memory_ratio == pytest.approx(3, rel=0.01)


def test_slow_steps_end_within_the_budget_after_a_few_rounds(clock: Clock) -> None:
    measure_cost({"backprop": taking(1.0, 10, clock)}, "backprop", CPU)
    # Warm-up, pace, rounds, and the one step of the memory measurement.
    assert clock.now == 3 + 1 + 6 + 1
    measure_cost({"backprop": taking(100.0, 10, clock)}, "backprop", CPU)
    assert clock.now == 11 + 100 * (3 + 1 + 5 + 1)


def test_rules_take_turns_from_a_moving_start(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(cost, "_time", lambda step, repeats, device: timed.append(step()) or 1.0)
    monkeypatch.setattr("feedalign.measure.peak_memory", lambda step: 8)
    measure_cost({"a": lambda: "a", "b": lambda: "b", "c": lambda: "c"}, "a", CPU)
    assert "".join(timed)[:10] == "a" + "abc" + "bca" + "cab"


def test_one_slow_moment_does_not_move_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    # The one sample that sets the pace, then five rounds of two rules that take turns in going first.
    times = iter([10.0, *([1.0, 2.0, 2.0, 1.0] * 2), 50.0, 2.0])
    monkeypatch.setattr(cost, "_time", lambda step, repeats, device: next(times))
    monkeypatch.setattr("feedalign.measure.peak_memory", lambda step: 8)
    records = measure_cost({"backprop": lambda: None, "other": lambda: None}, "backprop", CPU)
    assert [record.time_ratio for record in records] == [1.0, 2.0]


def test_the_profilers_warning_is_kept_back_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with without_profiler_warning():
        os.write(2, b"[W1 CPUAllocator.cpp:249] Memory block of unknown size was allocated before the profiling\n")
        os.write(2, b"another warning\n")
        print("and one of Python's", file=sys.stderr)
    print("after", file=sys.stderr)
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == ["after", "and one of Python's", "another warning"]
