"""A training that was cut and goes on is, bit for bit, the one that was not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_runs import Cut, assert_equal, assert_same_run, cut_and_resumed, facts, run

from feedalign_lab import data, training
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.choices import rule_names
from feedalign_lab.clicks.log import Source, encode
from feedalign_lab.clicks.planted import PlantedLog
from feedalign_lab.clicks.schema import CRITEO
from feedalign_lab.clicks.task import ClickTask
from feedalign_lab.data.dataset import Dataset, Part
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.task import Task, Trial, silent
from feedalign_lab.tensors import TensorTask
from feedalign_lab.training import Schedule, run_trial

pytestmark = pytest.mark.usefixtures("always_saving")

SCHEDULE = Schedule(3, 40, lr_decay=0.7, angles_every=2)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = data.load("digits")
    return replace(
        whole,
        x_train=whole.x_train[:100],
        y_train=whole.y_train[:100],
        x_test=whole.x_test[:60],
        y_test=whole.y_test[:60],
        validation=Part(whole.x_test[60:120], whole.y_test[60:120]),
    )


def spec_of(rule: str, network: str = "fc2-12", **changes: object) -> LearnerSpec:
    spec = LearnerSpec(rule, network, 1e-2, dropout=0.2, clip=1.0, seed=3)
    if rule in {"dkp", "fdfa"}:
        spec = replace(spec, feedback_learning_rate=2e-3, feedback_decay=1e-3)
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", rule_names())
def test_every_rule_goes_on_as_if_it_had_not_been_cut(rule: str, digits: Dataset, tmp_path: Path) -> None:
    task = TensorTask(digits, "fc2-12", SCHEDULE)
    undisturbed = run(task, spec_of(rule), SCHEDULE)
    assert undisturbed[0].status == "finished"
    assert_same_run(cut_and_resumed(task, spec_of(rule), SCHEDULE, tmp_path / "a", after=1), undisturbed)


@pytest.mark.parametrize("flip", [False, True])
def test_an_epoch_goes_on_between_two_steps(flip: bool, digits: Dataset, tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, flip=flip)
    task = TensorTask(as_images(digits) if flip else digits, "fc2-12", schedule)
    spec = spec_of("fg-a", task.network)
    check_cut_between_steps(task, spec, schedule, tmp_path / "a")


def as_images(digits: Dataset) -> Dataset:
    """The digits as images."""
    assert digits.validation is not None
    images = {name: getattr(digits, name).view(-1, 1, 8, 8) for name in ("x_train", "x_test")}
    validation = Part(digits.validation.x.view(-1, 1, 8, 8), digits.validation.y)
    return replace(digits, **images, validation=validation)


def check_cut_between_steps(task: Task, spec: LearnerSpec, schedule: Schedule, path: Path) -> None:
    """Cut the second epoch in its second step."""
    undisturbed = run(task, spec, schedule)
    assert undisturbed[0].status == "finished"
    steps: list[float] = []

    def prepare(trial: Trial) -> None:
        def cut(what: str, share: float) -> None:
            steps.append(share)
            if 1.0 in steps and len(steps) == steps.index(1.0) + 3:
                raise Cut

        trial.tell = cut

    with pytest.raises(Cut):
        run(task, spec, schedule, path, prepare)
    said: list[str] = []
    resumed = run(task, spec, schedule, path, said=said)
    assert "saved in epoch 2 of" in said[0]
    assert_same_run(resumed, undisturbed)


def test_a_click_log_goes_on_within_its_epoch(tmp_path: Path) -> None:
    log = encode("planted", [Source(PlantedLog(600), "whole")], CRITEO, silent)
    schedule = Schedule(2, 64, lr_decay=0.7)
    task = ClickTask(log, "deepfm-small", schedule, torch.device("cpu"))
    check_cut_between_steps(task, spec_of("dfa", task.network), schedule, tmp_path / "a")


def test_a_recurrent_network_goes_on(tmp_path: Path) -> None:
    rows = data.load("digits")
    series = replace(
        rows,
        x_train=rows.x_train[:60].view(-1, 8, 8),
        y_train=rows.y_train[:60],
        x_test=rows.x_test[:30].view(-1, 8, 8),
        y_test=rows.y_test[:30],
    )
    for rule, network in (("dfa", "gru-6"), ("fg-a", "rnn-6")):
        task, spec = TensorTask(series, network, SCHEDULE), spec_of(rule, network, dropout=0.0)
        undisturbed = run(task, spec, SCHEDULE)
        assert_same_run(cut_and_resumed(task, spec, SCHEDULE, tmp_path / rule, after=2), undisturbed)


def test_the_loss_before_training_is_that_of_the_new_network(digits: Dataset, tmp_path: Path) -> None:
    """Measured anew on the network as it is made, which is the same one: else a blow-up would be judged by another."""
    task, spec = TensorTask(digits, "fc2-12", SCHEDULE), spec_of("dfa", learning_rate=3.0)
    undisturbed = run(task, spec, SCHEDULE)
    assert undisturbed[0].status == "diverged"
    resumed = cut_and_resumed(task, spec, SCHEDULE, tmp_path / "a", after=2)
    assert facts(resumed[0]) == facts(undisturbed[0])


class Clock:
    """A clock of which the test says how it goes."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_seconds_are_those_of_the_steps_that_count(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was done twice counts once, and neither the pause nor the saving counts at all."""
    clock, save = Clock(), Checkpoints.save

    def slow_save(self: Checkpoints, *arguments: Any) -> None:
        clock.now += 1000
        save(self, *arguments)

    monkeypatch.setattr(training, "time", clock)
    monkeypatch.setattr(Checkpoints, "save", slow_save)
    task, spec, path = TensorTask(digits, "fc2-12", SCHEDULE), spec_of("dfa"), tmp_path / "a"

    def a_second_each(trial: Trial, *, cut_at: float = 0.0) -> None:
        def tell(what: str, share: float) -> None:
            clock.now += 1
            if share == cut_at:
                raise Cut

        trial.tell = tell

    with pytest.raises(Cut):
        run(task, spec, SCHEDULE, path, lambda trial: a_second_each(trial, cut_at=1.0))
    assert clock.now == 2003
    result, *_ = run(task, spec, SCHEDULE, path, a_second_each)
    assert [epoch.seconds for epoch in result.epochs] == [3.0, 3.0, 3.0]


def test_a_cut_before_the_first_checkpoint_is_a_new_beginning(digits: Dataset, tmp_path: Path) -> None:
    task, spec = TensorTask(digits, "fc2-12", SCHEDULE), spec_of("dfa")
    said: list[str] = []
    assert_same_run(run(task, spec, SCHEDULE, tmp_path / "a", said=said), run(task, spec, SCHEDULE))
    assert said == []


def test_the_last_steps_are_always_taken_again(digits: Dataset, tmp_path: Path) -> None:
    """Their gradients tell how the trial ended: here, that it had stopped."""
    task, path = TensorTask(digits, "fc2-12", SCHEDULE), tmp_path / "a"
    spec = spec_of("backprop", learning_rate=1e-30, dropout=0.0)

    def shut(trial: Trial) -> None:
        with torch.no_grad():
            trial.model.get_parameter("fc3.weight").zero_()
            trial.model.get_parameter("fc3.bias").fill_(-200.0)

    undisturbed = run(task, spec, SCHEDULE, path, shut)
    assert "every gradient is zero" in undisturbed[0].message
    said: list[str] = []
    again = run(task, spec, SCHEDULE, path, shut, said=said)
    assert said == [f"going on from {path}, saved in epoch 3 of 3"]
    assert_same_run(again, undisturbed)


def test_ctrl_c_leaves_what_can_be_gone_on_from(digits: Dataset, tmp_path: Path) -> None:
    task, spec, path = TensorTask(digits, "fc2-12", SCHEDULE), spec_of("dfa"), tmp_path / "a"

    def interrupt(record: object) -> None:
        raise KeyboardInterrupt

    assert run(task, spec, SCHEDULE, path, on_epoch=interrupt)[0].status == "interrupted"
    assert_same_run(run(task, spec, SCHEDULE, path), run(task, spec, SCHEDULE))


def test_a_checkpoint_that_does_not_fit_leaves_the_trial_as_new(digits: Dataset, tmp_path: Path) -> None:
    """It says that it is of this training, and holds another network: only code that changed would write that."""
    task, spec, path = TensorTask(digits, "fc2-12", SCHEDULE), spec_of("dfa"), tmp_path / "a"
    other = TensorTask(digits, "fc2-13", SCHEDULE)
    trial = other.trial(spec_of("dfa", "fc2-13"))
    run_trial(trial, spec, SCHEDULE, None, Checkpoints(path, vars(spec), print))
    said: list[str] = []
    resumed = run(task, spec, SCHEDULE, path, said=said)
    assert len(said) == 2
    assert "does not fit" in said[1]
    assert "begins anew" in said[1]
    assert_same_run(resumed, run(task, spec, SCHEDULE))


def test_dropout_would_differ_without_its_stream(digits: Dataset) -> None:
    """The control of the tests above: what is not saved shows."""
    task, spec = TensorTask(digits, "fc2-12", SCHEDULE), spec_of("dfa")
    one, other = run(task, spec, SCHEDULE), run(task, replace(spec, seed=4), SCHEDULE)
    with pytest.raises(AssertionError):
        assert_equal(one[1].state(), other[1].state())
