"""Many trials of one case at once as one stacked model, against the lab's own training of one after the other."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import feedalign as fa
from benchmarks.interleaving import interleave
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.lockstep import run_lockstep
from feedalign_lab.records import TrialResult
from feedalign_lab.tensors import TensorTask
from feedalign_lab.training import Schedule, run_trial

NUM_TRIALS = 10
NUM_STEPS = 50
RULES = ("backprop", "dfa", "drtp")


@dataclass(frozen=True)
class Case:
    """A network of the paper on DRTP and data of the size of its own."""

    network: str
    shape: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """How tables call it."""
        num = torch.Size(self.shape).numel()
        depth, width = self.network.removeprefix("fc").split("-")
        hidden = width if depth == "1" else f"{width}x{depth}"
        return f"{num}-{hidden}-10, batch {self.batch}"

    def task(self, num_steps: int = NUM_STEPS) -> TensorTask:
        """Data of so many steps an epoch, and the network."""
        draws = torch.Generator().manual_seed(0)
        num = num_steps * self.batch
        x = torch.rand(num + 500, *self.shape, generator=draws)
        y = torch.randint(10, (num + 500,), generator=draws)
        dataset = Dataset("made", x[:num], y[:num], x[num:], y[num:], 10, "classification", "made")
        return TensorTask(dataset, self.network, self.schedule)

    @property
    def schedule(self) -> Schedule:
        """Two epochs: the second one is timed, when everything is set up."""
        return Schedule(epochs=2, batch_size=self.batch)

    def specs(self, rule: str) -> list[LearnerSpec]:
        """The trials."""
        return [LearnerSpec(rule, self.network, 1.5e-4, trial=trial) for trial in range(NUM_TRIALS)]


CASES = (
    Case("fc1-500", (1, 28, 28), 60),
    Case("fc1-1000", (1, 28, 28), 60),
    Case("fc2-500", (1, 28, 28), 60),
    Case("fc1-500", (3, 32, 32), 100),
    Case("fc1-1000", (3, 32, 32), 100),
)


def stacked(task: TensorTask, case: Case, rule: str) -> tuple[TrialResult, ...]:
    """Train all trials at once."""
    return run_lockstep(task, case.specs(rule), case.schedule)


def one_by_one(task: TensorTask, case: Case, rule: str) -> tuple[TrialResult, ...]:
    """Train one trial after the other."""
    return tuple(run_trial(task.trial(spec), spec, case.schedule) for spec in case.specs(rule))


WAYS = {"one by one": one_by_one, "stacked": stacked}


@contextmanager
def threads(num: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed(case: Case, rule: str, num_threads: int, rounds: int) -> dict[str, Any]:
    """Time the steps of all trials in both ways, in turn."""
    task = case.task()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}

    def run(name: str) -> None:
        results = WAYS[name](task, case, rule)
        # A trial's seconds are those of its steps alone; in a stack, its share of them.
        seconds[name].append(sum(result.epochs[-1].seconds for result in results))

    with threads(num_threads):
        interleave({name: partial(run, name) for name in WAYS}, rounds)
    kept = {name: [1000 * value / NUM_STEPS for value in values[3:]] for name, values in seconds.items()}
    medians = {name: statistics.median(values) for name, values in kept.items()}
    return {
        "case": case.name,
        "rule": rule,
        "threads": num_threads,
        "ms": medians,
        "quartiles": {name: statistics.quantiles(values, n=4)[::2] for name, values in kept.items()},
        "times_as_fast": medians["one by one"] / medians["stacked"],
    }


def memory(case: Case, rule: str) -> dict[str, Any]:
    """Peak bytes of a run of four steps an epoch, models and the optimizers' state included."""
    task = case.task(num_steps=4)
    found = {name: fa.measure.peak_memory(partial(way, task, case, rule)) for name, way in WAYS.items()}
    return {"case": case.name, "rule": rule, "bytes": found}


def measure(rounds: int) -> dict[str, Any]:
    """Run everything that is recorded of lock-step training."""
    few = max(3, rounds // 6)
    return {
        "num_trials": NUM_TRIALS,
        "rounds": few,
        "step_time": [
            timed(case, rule, num, few)
            for num in sorted({1, torch.get_num_threads()})
            for case in CASES
            for rule in RULES
        ],
        "peak_memory": [memory(case, "dfa") for case in CASES],
    }


def show(record: dict[str, Any]) -> None:
    """Print the record as tables."""
    print(f"\n{record['num_trials']} trials, one step of each: milliseconds one after the other, and stacked")
    for row in record["step_time"]:
        one, other = (
            f"{row['ms'][name]:.1f} ({row['quartiles'][name][0]:.1f} .. {row['quartiles'][name][1]:.1f})"
            for name in WAYS
        )
        head = f"{row['case']}, {row['rule']}, {row['threads']} threads"
        print(f"  {head:44} {one:24} {other:24} {row['times_as_fast']:.2f} times as fast")
    for row in record["peak_memory"]:
        sizes = "   ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in row["bytes"].items())
        print(f"  peak memory, {row['case']}, {row['rule']}: {sizes}")
