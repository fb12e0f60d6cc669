"""Trainings that are cut and gone on with, and what it means that nothing came of the cut."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.kept_weights import KeptWeights
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import EpochRecord, TrialResult
from feedalign_lab.task import Task, Trial
from feedalign_lab.training import Schedule, run_trial

Run = tuple[TrialResult, Trial, KeptWeights]


class Cut(BaseException):
    """As sudden as the end of a process: nothing handles it."""


def run(
    task: Task,
    spec: LearnerSpec,
    schedule: Schedule,
    path: Path | None = None,
    prepare: Callable[[Trial], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    said: list[str] | None = None,
) -> Run:
    """Train, with checkpoints where there is a path for them."""
    trial = task.trial(spec)
    if prepare is not None:
        prepare(trial)
    kept = KeptWeights(task.judged_at, task.metric.better)
    checkpoints = None if path is None else Checkpoints(path, vars(spec), ([] if said is None else said).append)
    return run_trial(trial, spec, schedule, on_epoch, checkpoints, kept), trial, kept


def cut_and_resumed(task: Task, spec: LearnerSpec, schedule: Schedule, path: Path, *, after: int) -> Run:
    """The same, cut behind an epoch."""

    def prepare(trial: Trial) -> None:
        honest = trial.train_epoch

        def train_epoch(number: int) -> float:
            if number > after:
                raise Cut
            return honest(number)

        trial.train_epoch = train_epoch  # type: ignore[method-assign]

    try:
        run(task, spec, schedule, path, prepare)
    except Cut:
        pass
    else:
        raise AssertionError("the run was not cut")
    said: list[str] = []
    resumed = run(task, spec, schedule, path, said=said)
    assert said == [f"going on from {path}, saved after epoch {after} of {schedule.epochs}"]
    return resumed


def assert_same_run(one: Run, other: Run) -> None:
    """Bit for bit, but for the time it took."""
    assert facts(one[0]) == facts(other[0])
    assert_equal(one[1].state(), other[1].state())
    assert_equal(one[2].state(), other[2].state())


def facts(result: TrialResult) -> str:
    """All of a result that is the same in every run; as text, in which nan is nan."""
    return repr(replace(result, epochs=tuple(replace(epoch, seconds=0.0) for epoch in result.epochs)))


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """The same containers of the same things."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other) or _both_nan(one, other), where
    elif isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (mine, yours) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, yours, f"{where}[{place}]")
    else:
        assert one == other, where


def _both_nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(1.0), other.nan_to_num(1.0))
