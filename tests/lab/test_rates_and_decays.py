"""What the optimizer is told: rates, their decay after each epoch, weight decay."""

from typing import Any

import pytest
import torch
from lab_training import train_learner
from made_data import made

from feedalign_lab.errors import SettingError
from feedalign_lab.learner import Learner, LearnerSpec, make_learner
from feedalign_lab.plan import Plan
from feedalign_lab.training import Schedule

FDFA = LearnerSpec("fdfa", "mlp2-8", 1e-2, feedback_learning_rate=1e-3)
DATASET = made("mnist")


def rates(learner: Learner) -> list[float]:
    return [group["lr"] for group in learner.optimizer.param_groups]


def test_rate_falls_after_each_epoch_and_that_of_feedback_stays() -> None:
    learner = make_learner(FDFA, DATASET)
    seen: list[list[float]] = []
    learner.optimizer.register_step_pre_hook(lambda *_: seen.append(rates(learner)))
    train_learner(learner, FDFA, Schedule(3, 8, lr_decay=0.5), DATASET)
    assert seen == [[1e-2, 1e-3]] * 2 + [[5e-3, 1e-3]] * 2 + [[2.5e-3, 1e-3]] * 2


@pytest.mark.parametrize("rule", ["backprop", "dfa", "lg-fg-a", "fg-w"])
def test_without_learned_feedback_every_rate_falls(rule: str) -> None:
    spec = LearnerSpec(rule, "mlp2-8", 1e-2)
    learner = make_learner(spec, DATASET)
    train_learner(learner, spec, Schedule(2, 8, lr_decay=0.5), DATASET)
    assert rates(learner) == [2.5e-3]


def test_no_decay_unless_asked_for() -> None:
    learner = make_learner(FDFA, DATASET)
    train_learner(learner, FDFA, Schedule(2, 8), DATASET)
    assert rates(learner) == [1e-2, 1e-3]


def test_decayed_training_is_slower_from_the_second_epoch_on() -> None:
    def losses(lr_decay: float) -> list[float]:
        result = train_learner(make_learner(FDFA, DATASET), FDFA, Schedule(3, 8, lr_decay=lr_decay), DATASET)
        return [epoch.train_loss for epoch in result.epochs]

    constant, decayed = losses(1.0), losses(0.01)
    assert constant[0] == decayed[0]
    assert constant[2] < decayed[2]


def test_weight_decay_of_both_groups() -> None:
    spec = LearnerSpec("dkp", "mlp2-8", 1e-2, feedback_learning_rate=1e-3, weight_decay=1e-6, feedback_decay=2e-6)
    model, feedback = make_learner(spec, DATASET).optimizer.param_groups
    assert (model["weight_decay"], feedback["weight_decay"]) == (1e-6, 2e-6)
    assert [tuple(parameter.shape) for parameter in feedback["params"]] == [(10, 8), (10, 8)]
    assert len(model["params"]) == 6


@pytest.mark.parametrize("lr_decay", [0.0, -1.0, 1.1, float("nan")])
def test_decay_out_of_range(lr_decay: float) -> None:
    with pytest.raises(SettingError, match="above 0 and at most 1"):
        Schedule(1, 8, lr_decay=lr_decay)


@pytest.mark.parametrize(
    ("given", "forward", "feedback", "source"),
    [
        ({}, 1e-4, 1e-4, "Bacho & Chu 2022, section IV-A"),
        ({"learning_rate": 0.5}, 0.5, 1e-4, "Bacho & Chu 2022, section IV-A; given for this run: rate"),
        (
            {"feedback_learning_rate": 0.5},
            1e-4,
            0.5,
            "Bacho & Chu 2022, section IV-A; given for this run: feedback's rate",
        ),
        (
            {"learning_rate": 0.25, "feedback_learning_rate": 0.5},
            0.25,
            0.5,
            "Bacho & Chu 2022, section IV-A; given for this run: rate, feedback's rate",
        ),
    ],
)
def test_rates_given_for_a_run(given: dict[str, Any], forward: float, feedback: float, source: str) -> None:
    plan = Plan("mnist", "mlp2-800", ("fdfa", "dfa"), 1, Schedule(1, 8), **given)
    setting = plan.setting("fdfa")
    assert (setting.learning_rate, setting.feedback_learning_rate, setting.source) == (forward, feedback, source)
    assert plan.setting("dfa").feedback_learning_rate is None
    if "learning_rate" in given:
        assert plan.setting("dfa").source == "given for this run: rate"
    assert plan.spec("fdfa", 0).feedback_learning_rate == feedback


def test_angle_of_learned_feedback_falls() -> None:
    dataset = made("mnist", 40)
    spec = LearnerSpec("fdfa", "mlp2-8", 1e-3, feedback_learning_rate=1e-2)
    result = train_learner(make_learner(spec, dataset), spec, Schedule(30, 8), dataset)
    last = [entry.delta for entry in result.epochs[-1].alignment if entry.point is not None]
    assert last[1] < 30
    assert torch.isfinite(torch.tensor(last)).all()
