"""The training loop: it learns, repeats itself, and stops cleanly."""

import dataclasses
from typing import NoReturn

import pytest
import torch
from lab_training import train_learner

from feedalign.errors import ErrorFormError
from feedalign_lab import data
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.divergence import first_non_finite
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.records import EpochRecord, TrialResult
from feedalign_lab.tensors import TensorTrial, measure_test_error
from feedalign_lab.training import Schedule

SPEC = LearnerSpec(rule="dfa", network="fc2-20", learning_rate=5e-3)
SCHEDULE = Schedule(epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def train(dataset: Dataset, spec: LearnerSpec = SPEC, schedule: Schedule = SCHEDULE) -> TrialResult:
    return train_learner(make_learner(spec, dataset), spec, schedule, dataset)


def figures(result: TrialResult) -> list[tuple[float, float, float]]:
    return [(e.train_loss, e.test_score, e.alignment[0].delta) for e in result.epochs]


@pytest.mark.parametrize("rule", ["backprop", "fa", "dfa", "drtp"])
def test_rules_learn(digits: Dataset, rule: str) -> None:
    result = train(digits, dataclasses.replace(SPEC, rule=rule), Schedule(epochs=8, batch_size=32))
    assert result.status == "finished"
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert result.epochs[-1].test_score < 50


def test_shallow_leaves_hidden_layers_alone(digits: Dataset) -> None:
    spec = dataclasses.replace(SPEC, rule="shallow")
    learner = make_learner(spec, digits)
    before = {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}
    train_learner(learner, spec, SCHEDULE, digits)
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"fc3.weight", "fc3.bias"}


def test_same_seed_same_numbers(digits: Dataset) -> None:
    spec = dataclasses.replace(SPEC, dropout=0.2)
    first = figures(train(digits, spec))
    torch.rand(3)
    assert figures(train(digits, spec)) == first


@pytest.mark.parametrize("change", [{"seed": 1}, {"trial": 1}])
def test_other_seeds_and_trials_differ(digits: Dataset, change: dict[str, int]) -> None:
    assert figures(train(digits, dataclasses.replace(SPEC, **change))) != figures(train(digits))


def test_trials_differ_in_weights_and_feedback(digits: Dataset) -> None:
    one, other = (make_learner(dataclasses.replace(SPEC, trial=trial), digits).model for trial in (0, 1))
    state, other_state = one.state_dict(), other.state_dict()
    assert len(state) > 6
    assert all(not torch.equal(state[name], other_state[name]) for name in state)


def test_global_random_state_is_left_as_it_was(digits: Dataset) -> None:
    before = torch.random.get_rng_state()
    train(digits, dataclasses.replace(SPEC, dropout=0.5))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_angles_of_backprop_are_zero_and_of_dfa_are_not(digits: Dataset) -> None:
    exact = train(digits, dataclasses.replace(SPEC, rule="backprop")).epochs[-1].alignment
    assert [round(layer.delta, 3) for layer in exact] == [0, 0, 0]
    hidden = train(digits).epochs[-1].alignment[:2]
    assert all(5 < layer.delta < 90 for layer in hidden)


def test_measuring_does_not_change_training(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(SPEC, dropout=0.2)
    losses = [epoch.train_loss for epoch in train(digits, spec).epochs]
    monkeypatch.setattr(TensorTrial, "alignment", lambda *_: ())
    assert [epoch.train_loss for epoch in train(digits, spec).epochs] == losses


def test_outputs_too_saturated_for_angles_end_the_trial(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def saturated(trial: TensorTrial) -> NoReturn:
        raise ErrorFormError("the error is no difference of outputs and targets")

    monkeypatch.setattr(TensorTrial, "alignment", saturated)
    result = train(digits)
    assert (result.status, result.epochs) == ("diverged", ())
    assert "the outputs are saturated after epoch 1" in result.message


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_angles_are_measured_every_so_often_and_at_the_end(every: int, epochs: list[int]) -> None:
    schedule = Schedule(5, 10, angles_every=every)
    assert [epoch for epoch in range(1, 6) if schedule.has_angles(epoch)] == epochs


def test_every_example_is_seen_once_an_epoch(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)
    seen: list[torch.Tensor] = []
    learner.model.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0]) if torch.is_grad_enabled() and module.training else None
    )
    train_learner(learner, SPEC, Schedule(epochs=1, batch_size=500), digits)
    assert [len(batch) for batch in seen] == [500, 500, 297]
    together = torch.cat(seen)
    assert not torch.equal(together, digits.x_train)
    torch.testing.assert_close(together.sum(0), digits.x_train.sum(0), rtol=1e-4, atol=1e-3)


def test_test_error_counts_wrong_classes(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)
    with torch.no_grad():
        wrong = learner.model(digits.x_test).argmax(1) != digits.y_test
    assert measure_test_error(learner.model, digits) == pytest.approx(100 * float(wrong.float().mean()))
    assert learner.model.training


def test_regression_learns_and_reports_squared_error() -> None:
    dataset = data.load("synthetic-regression")
    spec = LearnerSpec("sign-dfa", "fc2-100", 5e-4, weight_init="zero")
    learner = make_learner(spec, dataset)
    result = train_learner(learner, spec, Schedule(2, 50), dataset)
    with torch.no_grad():
        expected = (learner.model(dataset.x_test) - dataset.y_test).square().mean()
    assert result.epochs[-1].test_score == pytest.approx(float(expected), rel=1e-4)
    assert result.epochs[-1].test_score < result.epochs[0].test_score < 0.5


def test_fused_adam_takes_the_steps_of_plain_adam(digits: Dataset) -> None:
    fused, plain = make_learner(SPEC, digits), make_learner(SPEC, digits)
    plain = dataclasses.replace(plain, optimizer=torch.optim.Adam(plain.model.parameters(), lr=5e-3, fused=False))
    x, y = digits.x_train[:32], digits.encode(digits.y_train[:32])
    for _ in range(20):
        fused.step(x, y)
        plain.step(x, y)
    for one, other in zip(fused.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [10.0, 1e3, 1e30])
@pytest.mark.parametrize("rule", ["backprop", "shallow", "fa", "dfa", "sign-dfa", "drtp"])
def test_blow_up_without_nan_has_diverged(digits: Dataset, rule: str, rate: float) -> None:
    result = train(digits, dataclasses.replace(SPEC, rule=rule, learning_rate=rate))
    assert result.status == "diverged"
    assert rule in result.message
    assert f"try a learning rate below {rate:g}" in result.message


def test_blown_up_regression_has_diverged() -> None:
    spec = LearnerSpec("dfa", "fc2-100", 1e3, "zero")
    assert train(data.load("synthetic-regression"), spec, Schedule(1, 50)).status == "diverged"


def test_gradients_of_zero_at_the_loss_of_chance_have_diverged(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)

    def shut(*_: object) -> None:
        with torch.no_grad():
            learner.model.get_parameter("fc3.weight").zero_()
            learner.model.get_parameter("fc3.bias").fill_(-200.0)

    # All outputs at exactly zero cost one class in a hundred, so less than twice what the start costs.
    shut()
    learner.optimizer.register_step_post_hook(shut)
    result = train_learner(learner, SPEC, Schedule(1, 32), digits)
    assert result.status == "diverged"
    assert "every gradient is zero" in result.message


def test_bad_start_that_is_made_good_is_no_divergence(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)
    good = {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}
    with torch.no_grad():
        learner.model.get_parameter("fc3.bias").fill_(30.0)
    steps = 0

    def mend(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 41:
            with torch.no_grad():
                for name, parameter in learner.model.named_parameters():
                    parameter.copy_(good[name])

    untrained = make_learner(SPEC, digits)
    assert figures(train_learner(untrained, SPEC, Schedule(1, 32), digits))
    learner.optimizer.register_step_post_hook(mend)
    assert train_learner(learner, SPEC, Schedule(3, 32), digits).status == "finished"


def test_nan_stops_the_trial_and_names_step_layer_and_rule(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)
    steps = 0

    def poison(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            with torch.no_grad():
                learner.model.get_parameter("fc2.weight")[0, 0] = float("nan")

    learner.optimizer.register_step_post_hook(poison)
    result = train_learner(learner, SPEC, SCHEDULE, digits)
    assert result.status == "diverged"
    assert result.epochs == ()
    for part in ("dfa", "step 6 (epoch 1)", "fc2.weight", "learning rate"):
        assert part in result.message


def test_nan_of_the_last_step_is_not_missed(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)
    learner.optimizer.register_step_post_hook(
        lambda *_: learner.model.get_parameter("fc3.bias").detach().fill_(float("inf"))
    )
    result = train_learner(learner, SPEC, Schedule(epochs=1, batch_size=1297), digits)
    assert result.status == "diverged"
    assert "the end of epoch 1" in result.message
    assert "fc3.bias" in result.message


def test_nan_among_the_inputs_is_blamed_on_the_inputs(digits: Dataset) -> None:
    x = digits.x_train.clone()
    x[7, 3] = float("nan")
    spoiled = dataclasses.replace(digits, x_train=x)
    result = train_learner(make_learner(SPEC, digits), SPEC, SCHEDULE, spoiled)
    assert result.status == "diverged"
    assert "inputs" in result.message


def test_gradient_alone_can_be_the_first(digits: Dataset) -> None:
    learner = make_learner(SPEC, digits)
    assert first_non_finite(learner.model) is None
    weight = learner.model.get_parameter("fc2.weight")
    weight.grad = torch.full_like(weight, float("inf"))
    assert first_non_finite(learner.model) == "the gradient of fc2.weight"


def test_interrupt_keeps_the_epochs_that_were_done(digits: Dataset) -> None:
    def interrupt(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    result = train_learner(make_learner(SPEC, digits), SPEC, Schedule(5, 32), digits, interrupt)
    assert result.status == "interrupted"
    assert [epoch.epoch for epoch in result.epochs] == [1, 2]
    assert "2 of 5" in result.message


@pytest.mark.parametrize("values", [{"epochs": 0, "batch_size": 1}, {"epochs": 1, "batch_size": 0}])
def test_schedule_out_of_range(values: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="at least 1, not 0"):
        Schedule(**values)


def test_flipping_what_is_no_image(digits: Dataset) -> None:
    with pytest.raises(SettingError, match="nothing to flip"):
        train(digits, schedule=Schedule(1, 32, flip=True))
