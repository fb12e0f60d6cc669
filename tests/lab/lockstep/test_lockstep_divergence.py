"""One trial that diverges, and Ctrl-C, while others are under way."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from stacked_cases import assert_same, one_by_one, small, specs_of

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.lockstep import run_lockstep
from feedalign_lab.records import EpochRecord
from feedalign_lab.tensors import TensorTask, TensorTrial
from feedalign_lab.training import Schedule

SCHEDULE = Schedule(epochs=3, batch_size=32)


class Spoiled(TensorTask):
    """A task of which some trials start badly."""

    def __init__(
        self, dataset: Dataset, network: str, schedule: Schedule, spoil: Callable[[int, TensorTrial], None]
    ) -> None:
        super().__init__(dataset, network, schedule)
        self._spoil = spoil

    def trial(self, spec: LearnerSpec) -> TensorTrial:
        trial = super().trial(spec)
        with torch.no_grad():
            self._spoil(spec.trial, trial)
        return trial


def nan_weight(number: int, trial: TensorTrial) -> None:
    if number == 1:
        trial.model.get_parameter("fc2.weight")[3, 2] = float("nan")


def huge_weight(number: int, trial: TensorTrial) -> None:
    if number == 0:
        trial.model.get_parameter("fc3.weight").fill_(3e38)


def explosive(number: int, trial: TensorTrial) -> None:
    """Finite outputs at the first step and none soon after."""
    if number == 2:
        trial.model.get_parameter("fc3.weight").fill_(1e37)


@pytest.mark.parametrize(
    ("rule", "spoil", "network"),
    [
        ("backprop", nan_weight, "fc2-20"),
        ("backprop", huge_weight, "mlp2-20"),
        ("backprop", explosive, "fc2-20"),
        ("dfa", nan_weight, "mlp2-20"),
        ("dfa", huge_weight, "fc2-20"),
        ("dfa", explosive, "mlp2-20"),
        ("fdfa", nan_weight, "fc2-20"),
        ("fdfa", explosive, "fc2-20"),
    ],
)
def test_one_trial_diverges_and_the_others_go_on(
    rule: str, spoil: Callable[[int, TensorTrial], None], network: str
) -> None:
    task = Spoiled(small(), network, SCHEDULE, spoil)
    specs = specs_of(rule, network)
    expected = one_by_one(task, specs, SCHEDULE)
    assert {result.status for result in expected} >= {"finished"}
    assert_same(run_lockstep(task, specs, SCHEDULE), expected, 1e-5)
    if spoil is nan_weight:
        assert expected[1].status == "diverged"
        assert "fc2.weight" in expected[1].message


@pytest.mark.parametrize("rule", ["backprop", "drtp"])
def test_each_trial_ends_at_a_step_of_its_own(rule: str) -> None:
    dataset = small()
    x = dataset.x_train.clone()
    x[7, 0] = float("nan")
    task = TensorTask(dataclasses.replace(dataset, x_train=x), "fc1-20", SCHEDULE)
    specs = specs_of(rule, "fc1-20", num=6)
    expected = one_by_one(task, specs, SCHEDULE)
    assert len({result.message for result in expected}) > 2
    assert all("the inputs of step" in result.message for result in expected)
    assert run_lockstep(task, specs, SCHEDULE) == expected


@pytest.mark.parametrize(
    ("rule", "rate"),
    [("backprop", 1e30), ("shallow", 10.0), ("fa", 1e3), ("sign-dfa", 10.0), ("sign-dfa", 1e30), ("drtp", 1e3)],
)
def test_blow_ups_end_as_they_do_one_by_one(rule: str, rate: float) -> None:
    task = TensorTask(small(), "fc2-20", SCHEDULE)
    specs = [dataclasses.replace(spec, learning_rate=rate) for spec in specs_of(rule)]
    expected = one_by_one(task, specs, SCHEDULE)
    found = run_lockstep(task, specs, SCHEDULE)
    assert {result.status for result in expected} == {"diverged"}
    assert [(result.status, len(result.epochs)) for result in found] == [("diverged", len(r.epochs)) for r in expected]
    # Numbers of a chaotic run are told to three digits.
    assert [_words(result.message) for result in found] == [_words(result.message) for result in expected]


def _words(message: str) -> list[str]:
    return [word for word in message.split() if not any(letter.isdigit() for letter in word)]


def test_gradients_of_zero_are_seen_at_the_end() -> None:
    def shut(number: int, trial: TensorTrial) -> None:
        def close(*_: object) -> None:
            with torch.no_grad():
                trial.model.get_parameter("fc3.weight").zero_()
                trial.model.get_parameter("fc3.bias").fill_(-200.0)

        if number == 1:
            close()

    task = Spoiled(small(), "fc2-20", SCHEDULE, shut)
    specs = [dataclasses.replace(spec, learning_rate=1e-30) for spec in specs_of("dfa")]
    expected = one_by_one(task, specs, SCHEDULE)
    assert "every gradient is zero" in expected[1].message
    assert_same(run_lockstep(task, specs, SCHEDULE), expected, 1e-5)


def test_nan_of_the_last_step_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(epochs=1, batch_size=150)
    task = TensorTask(small(), "fc1-20", schedule)
    specs = [dataclasses.replace(spec, learning_rate=3e38, weight_decay=1.0) for spec in specs_of("dfa", "fc1-20")]
    expected = one_by_one(task, specs, schedule)
    assert "the end of epoch 1" in expected[0].message
    assert run_lockstep(task, specs, schedule) == expected


def test_ctrl_c_keeps_the_epochs_that_were_done() -> None:
    told: list[EpochRecord] = []

    def interrupt(record: EpochRecord) -> None:
        told.append(record)
        if len(told) == 5:
            raise KeyboardInterrupt

    schedule = Schedule(epochs=4, batch_size=32)
    task = TensorTask(small(), "fc1-20", schedule)
    found = run_lockstep(task, specs_of("dfa", "fc1-20"), schedule, interrupt)
    assert [result.status for result in found] == ["interrupted"] * 3
    assert [len(result.epochs) for result in found] == [2, 2, 1]
    assert "2 of 4" in found[0].message


def test_ctrl_c_leaves_what_has_diverged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(record: EpochRecord) -> None:
        raise KeyboardInterrupt

    task = Spoiled(small(), "fc2-20", SCHEDULE, nan_weight)
    found = run_lockstep(task, specs_of("dfa"), SCHEDULE, interrupt)
    assert [result.status for result in found] == ["interrupted", "diverged", "interrupted"]


@pytest.mark.parametrize("rule", ["sign-dfa", "drtp"])
def test_targets_that_can_no_longer_be_read_end_one_trial(rule: str) -> None:
    task = TensorTask(small(), "fc2-20", SCHEDULE)
    specs = [dataclasses.replace(spec, learning_rate=1.0) for spec in specs_of(rule)]
    expected = one_by_one(task, specs, SCHEDULE)
    assert "saturated at step 7 (epoch 2)" in expected[0].message
    assert "saturated at step 7" not in expected[2].message
    assert_same(run_lockstep(task, specs, SCHEDULE), expected, 1e-3)
