"""Small cases that are trained in lock-step and one by one, and what it means that they agree."""

import dataclasses
from collections.abc import Sequence

import pytest
from torch import Tensor

from feedalign_lab import data
from feedalign_lab.data.dataset import Dataset, Part
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import TrialResult
from feedalign_lab.task import Task
from feedalign_lab.training import Schedule, run_trial


class DoubleDataset(Dataset):
    def encode(self, y: Tensor) -> Tensor:
        return super().encode(y).double()


def small(num_train: int = 150) -> Dataset:
    """Digits whose last batch is a partial one."""
    whole = data.load("digits")
    return dataclasses.replace(
        whole,
        x_train=whole.x_train[:num_train],
        y_train=whole.y_train[:num_train],
        x_test=whole.x_test[:100],
        y_test=whole.y_test[:100],
        validation=Part(whole.x_test[100:160], whole.y_test[100:160]),
    )


def in_double(dataset: Dataset) -> Dataset:
    assert dataset.validation is not None
    parts = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    parts |= {"x_train": dataset.x_train.double(), "x_test": dataset.x_test.double()}
    parts["validation"] = Part(dataset.validation.x.double(), dataset.validation.y)
    return DoubleDataset(**parts)


def specs_of(rule: str, network: str = "fc2-20", num: int = 3, **options: object) -> list[LearnerSpec]:
    spec = LearnerSpec(rule, network, 5e-3, **options)  # type: ignore[arg-type]
    if rule in {"dkp", "fdfa"}:
        spec = dataclasses.replace(spec, feedback_learning_rate=2e-3, feedback_decay=1e-3)
    return [dataclasses.replace(spec, trial=trial) for trial in range(num)]


def one_by_one(task: Task, specs: Sequence[LearnerSpec], schedule: Schedule) -> tuple[TrialResult, ...]:
    return tuple(run_trial(task.trial(spec), spec, schedule) for spec in specs)


def assert_same(found: Sequence[TrialResult], expected: Sequence[TrialResult], tolerance: float) -> None:
    assert [dataclasses.replace(result, epochs=()) for result in found] == [
        dataclasses.replace(result, epochs=()) for result in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert [epoch.epoch for epoch in one.epochs] == [epoch.epoch for epoch in other.epochs]
        for epoch, wanted in zip(one.epochs, other.epochs, strict=True):
            assert epoch.train_loss == pytest.approx(wanted.train_loss, rel=tolerance)
            assert epoch.test_score == pytest.approx(wanted.test_score, rel=tolerance)
            assert (epoch.validation_score is None) == (wanted.validation_score is None)
            if wanted.validation_score is not None:
                assert epoch.validation_score == pytest.approx(wanted.validation_score, rel=tolerance)
            assert [layer.layer for layer in epoch.alignment] == [layer.layer for layer in wanted.alignment]
            angles = [(layer.delta, layer.weight) for layer in epoch.alignment]
            for pair, other_pair in zip(angles, wanted.alignment, strict=True):
                wanted_pair = (other_pair.delta, other_pair.weight)
                assert pair == pytest.approx(wanted_pair, abs=1e4 * tolerance, nan_ok=True)
