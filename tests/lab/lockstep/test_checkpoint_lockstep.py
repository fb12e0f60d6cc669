"""Trials in lock-step that were cut go on together as if they had not been."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_runs import Cut
from stacked_cases import assert_same, one_by_one, small, specs_of

from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.lockstep import run_lockstep
from feedalign_lab.records import EpochRecord, TrialResult
from feedalign_lab.tensors import TensorTask, TensorTrial
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("always_saving")

SCHEDULE = Schedule(epochs=4, batch_size=32, lr_decay=0.5, angles_every=2)


class Watched(TensorTask):
    """A task that remembers its trials, of which the second may start badly."""

    made: list[TensorTrial]
    spoils: float | None = None

    def trial(self, spec: LearnerSpec) -> TensorTrial:
        trial = super().trial(spec)
        self.made.append(trial)
        if spec.trial == 1 and self.spoils is not None:
            trial.model.get_parameter("fc2.weight").data[3, 2] = self.spoils
        return trial


def trained(
    spoils: float | None, specs: list[LearnerSpec], path: Path | None = None, cut_at: int | None = None
) -> tuple[tuple[TrialResult, ...], list[TensorTrial], list[str]]:
    task, said, num_told = Watched(small(), "fc2-20", SCHEDULE), [], 0
    task.made, task.spoils = [], spoils

    def on_epoch(record: EpochRecord) -> None:
        nonlocal num_told
        num_told += 1
        if num_told == cut_at:
            raise Cut

    checkpoints = None if path is None else Checkpoints(path, {}, said.append)
    return run_lockstep(task, specs, SCHEDULE, on_epoch, checkpoints), task.made, said


def facts(results: tuple[TrialResult, ...]) -> str:
    return repr(
        [dataclasses.replace(r, epochs=tuple(dataclasses.replace(e, seconds=0.0) for e in r.epochs)) for r in results]
    )


@pytest.mark.parametrize(("rule", "spoils"), [("fdfa", None), ("fg-a", float("nan"))])
def test_a_stack_goes_on(rule: str, spoils: float | None, tmp_path: Path) -> None:
    """With what each rule learns, draws, or counts; also where one of the trials is under way no more."""
    specs = specs_of(rule)
    results, models, _ = trained(spoils, specs)
    with pytest.raises(Cut):
        trained(spoils, specs, tmp_path / "a", cut_at=7)
    resumed, their_models, said = trained(spoils, specs, tmp_path / "a")
    assert "going on" in said[0]
    assert facts(resumed) == facts(results)
    assert [result.status for result in resumed].count("diverged") == (0 if spoils is None else 1)
    for one, other in zip(models, their_models, strict=True):
        for (name, mine), yours in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
            assert torch.equal(mine.nan_to_num(), yours.nan_to_num()), name


def test_another_number_of_trials_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        trained(None, specs_of("dfa"), tmp_path / "a", cut_at=7)
    resumed, _, said = trained(None, specs_of("dfa", num=2), tmp_path / "a")
    assert "does not fit" in said[1]
    assert facts(resumed) == facts(trained(None, specs_of("dfa", num=2))[0])


class Leaves(Watched):
    """A task whose second trial is spoiled behind the second epoch, when angles are measured."""

    def trial(self, spec: LearnerSpec) -> TensorTrial:
        trial = super().trial(spec)
        honest = trial.alignment

        def measure_and_spoil() -> Any:
            found = honest()
            trial.model.get_parameter("fc1.weight").data.fill_(float("nan"))
            return found

        if spec.trial == 1:
            trial.alignment = measure_and_spoil  # type: ignore[method-assign]
        return trial


def test_the_rate_has_decayed_when_a_trial_has_left() -> None:
    """The optimizer of the others is made anew in mid-training, and goes on at the rate that it had come to."""
    task = Leaves(small(), "fc2-20", SCHEDULE)
    task.made = []
    found = run_lockstep(task, specs_of("dfa"), SCHEDULE)
    assert [result.status for result in found] == ["finished", "diverged", "finished"]
    assert len(found[1].epochs) == 2
    assert_same(found, one_by_one(task, specs_of("dfa"), SCHEDULE), 1e-5)
