"""Times of a case: ratios to backprop, in turns, and what is left of them after Ctrl-C."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pytest
import torch

from feedalign_lab.bench import timing
from feedalign_lab.bench.architectures import ARCHITECTURES
from feedalign_lab.bench.contestants import contestant
from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.bench.plan import BenchCase, plan_of
from feedalign_lab.bench.running import Bench, run_bench
from feedalign_lab.bench.timing import measure_case
from feedalign_lab.cost import interleaved, shuffled
from feedalign_lab.environment import describe_environment
from feedalign_lab.task import silent

CPU = torch.device("cpu")


def case_of(rules: str, architecture: str = "mlp-deep") -> BenchCase:
    return plan_of(BenchOptions(rules=rules, architectures=architecture, quick=True), on_gpu=False).cases[0]


def test_a_case_has_ratios_limits_and_memory() -> None:
    result = measure_case(case_of("dfa,fdfa,shallow"), 3, CPU, silent)
    assert result.rounds == 3
    assert not result.is_cut
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["backprop", "dfa", "fdfa", "shallow"]
    base = rows["backprop"]
    assert (base.step.median, base.forward.median, base.backward.median, base.memory, base.limit) == (1, 1, 1, 1, 1)
    for row in result.rows:
        assert 0 < row.step.low <= row.step.median <= row.step.high
        assert row.peak_bytes > 0
        assert row.step_ms == pytest.approx(row.step.median * base.step_ms)
    limits = {name: row.limit or 0 for name, row in rows.items()}
    assert limits["shallow"] < limits["dfa"] < 1 < limits["fdfa"]
    assert rows["dfa"].feedback_bytes == rows["fdfa"].feedback_bytes == 4 * 10 * 16 * 6


def test_who_cannot_take_part_says_why() -> None:
    result = measure_case(case_of("fdfa,lg-fg-a", "rnn"), 2, CPU, silent)
    assert [row.name for row in result.rows] == ["backprop", "fdfa"]
    assert "at least three layers" in result.left_out["lg-fg-a"]
    attention = measure_case(case_of("fg-w", "transformer"), 2, CPU, silent)
    assert "cannot carry a directional derivative" in attention.left_out["fg-w"]


def test_what_others_have_written_may_fail_and_what_is_ours_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timing.contestant

    def failing(name: str, *rest: Any) -> Any:
        if name == broken:
            raise RuntimeError("it broke")
        return whole(name, *rest)

    monkeypatch.setattr(timing, "contestant", failing)
    broken = "biotorch-fa"
    result = measure_case(case_of("dfa,biotorch-fa"), 2, CPU, silent)
    assert result.left_out == {"biotorch-fa": "RuntimeError: it broke"}
    broken = "dfa"
    with pytest.raises(RuntimeError, match="it broke"):
        measure_case(case_of("dfa"), 2, CPU, silent)


def test_turns_are_shuffled_anew_each_round_and_the_same_in_every_run() -> None:
    names = list("abcdefgh")
    orders = [shuffled(names, turn) for turn in range(4)]
    assert all(sorted(order) == names for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders == [shuffled(names, turn) for turn in range(4)]
    ran: list[str] = []
    steps = {name: lambda name=name: ran.append(name) for name in names}
    for samples in islice(interleaved(steps, order=shuffled), 2):
        assert {len(values) for values in samples.values()} == {len(ran) // 8}
    assert ran == orders[0] + orders[1]


def test_each_takes_a_step_that_is_not_timed_right_before_the_one_that_is() -> None:
    ran: list[str] = []
    steps = {name: lambda name=name: ran.append(name) for name in "ab"}
    before = {name: lambda name=name: ran.append(f"before {name}") for name in "ab"}
    samples = next(interleaved(steps, before=before))
    assert ran == ["before a", "a", "before b", "b"]
    assert [len(values) for values in samples.values()] == [1, 1]
    architecture = ARCHITECTURES["mlp-deep"]
    one = contestant("dfa", architecture, architecture.small, CPU)
    one.step()
    noted = (list(one.forward), list(one.backward))
    one.settle()
    assert (one.forward, one.backward) == noted


def test_a_case_ends_when_its_seconds_are_over_but_not_before_five_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    assert measure_case(case_of("dfa"), 50, CPU, silent).rounds == 5


class Interrupted:
    """Turns that Ctrl-C ends after so many rounds."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(
        self, steps: Mapping[str, Any], device: torch.device, order: Any, before: Any
    ) -> Iterator[dict[str, list[float]]]:
        turns = interleaved(steps, device, order=order, before=before)
        while self.left > 0:
            self.left -= 1
            yield next(turns)
        raise KeyboardInterrupt


@pytest.mark.parametrize(("rounds", "num_kept"), [(1, 0), (3, 1), (4 + 2, 2)])
def test_ctrl_c_keeps_what_was_done(monkeypatch: pytest.MonkeyPatch, rounds: int, num_kept: int) -> None:
    monkeypatch.setattr(timing, "interleaved", Interrupted(rounds))
    plan = plan_of(BenchOptions(rules="dfa", sweep="width", quick=True, rounds=4), on_gpu=False)
    saved: list[Sequence[object]] = []
    bench = Bench(plan, "passed", {})
    run_bench(bench, CPU, silent, lambda bench: saved.append(list(bench.results)))
    assert bench.status == "interrupted"
    assert len(bench.results) == num_kept
    assert bool(saved) == bool(num_kept)  # an older record is not written over by an empty one
    if num_kept:
        assert len(saved[-1]) == num_kept
        assert bench.results[-1].is_cut
        assert bench.results[-1].rounds >= 2


def test_the_record_is_plain_and_says_how_it_was_made() -> None:
    plan = plan_of(BenchOptions(rules="dfa", sweep="batch", quick=True, rounds=2), on_gpu=False)
    bench = Bench(plan, "passed", describe_environment(CPU))
    statuses = []
    run_bench(bench, CPU, silent, lambda bench: statuses.append(bench.status))
    record = bench.to_dict()
    assert statuses == ["running", "running", "finished"]
    assert (record["status"], record["tests"], record["rounds"]) == ("finished", "passed", 2)
    assert [case["size"]["batch"] for case in record["cases"]] == [1, 4]
    assert record["cases"][0]["sweep"] == "batch"
    assert record["cases"][0]["rows"][1]["step"].keys() == {"median", "low", "high"}
    assert record["environment"]["torch"] == torch.__version__
