"""Training on series: clipping, the validation part, forecasts at every step, and what `compare` says of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lab_output import results_in
from lab_training import train_learner
from made_data import made, made_series

from feedalign_lab import comparison, data, tensors
from feedalign_lab.cli import main
from feedalign_lab.cost import CostRecord
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import Learner, LearnerSpec, loss_name, make_learner
from feedalign_lab.records import EpochRecord, TrialResult, chosen_epoch, summarize
from feedalign_lab.tensors import TensorTrial, measure_test_error
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("rough_pictures")

SPEC = LearnerSpec("backprop", "gru-8", 1e-2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data in the place of the files, and no timing."""

    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    def load(name: str, device: object = "cpu", *, inputs: str = "own") -> Dataset:
        return made_series(40, is_redrawn=name == "libras", is_forecast=name == "mackey-glass")

    monkeypatch.setattr(comparison, "measure_cost", measure)
    monkeypatch.setattr(data, "load", load)


@pytest.mark.parametrize("network", ["rnn-8", "gru-8", "lstm-8", "gru-8-x2"])
def test_backprop_learns_classes_of_series(network: str) -> None:
    dataset, spec = made_series(), LearnerSpec("backprop", network, 1e-2)
    result = train_learner(make_learner(spec, dataset), spec, Schedule(20, 8), dataset)
    assert result.status == "finished"
    assert result.epochs[-1].test_score < 10
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss / 4
    assert result.epochs[-1].validation_score is None


def test_backprop_learns_to_forecast() -> None:
    dataset = made_series(is_forecast=True)
    learner = make_learner(SPEC, dataset)
    assert loss_name("gru-8", "forecasting") == "mse_loss"
    result = train_learner(learner, SPEC, Schedule(60, 8), dataset)
    with torch.no_grad():
        expected = (learner.model(dataset.x_test) - dataset.y_test).square().mean()
    assert result.epochs[-1].test_score == pytest.approx(float(expected), rel=1e-5)
    assert result.epochs[-1].test_score < 0.1 < result.epochs[0].test_score


def gradient_norm(learner: Learner) -> float:
    gradients = [p.grad for p in learner.optimizer.param_groups[0]["params"] if p.grad is not None]
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


@pytest.mark.parametrize("rule", ["backprop", "fdfa"])
def test_gradients_are_clipped_to_the_norm_of_all_together(rule: str) -> None:
    dataset = made("mnist", 8)

    def gradients(clip: float | None) -> tuple[Learner, list[torch.Tensor]]:
        spec = LearnerSpec(rule, "mlp2-8", 1e-3, feedback_learning_rate=1e-3 if rule == "fdfa" else None, clip=clip)
        learner = make_learner(spec, dataset)
        learner.step(dataset.x_train, dataset.encode(dataset.y_train))
        return learner, [p.grad for group in learner.optimizer.param_groups for p in group["params"]]

    free, whole = gradients(None)
    norm = gradient_norm(free)
    clipped, shortened = gradients(norm / 4)
    assert gradient_norm(clipped) == pytest.approx(norm / 4, rel=1e-3)
    num_of_model = len(free.optimizer.param_groups[0]["params"])
    for number, (one, other) in enumerate(zip(shortened, whole, strict=True)):
        # Learned feedback is left out of it.
        factor = 0.25 if number < num_of_model else 1.0
        torch.testing.assert_close(one, other * factor, rtol=1e-3, atol=1e-9)
    untouched, _ = gradients(norm * 4)
    assert gradient_norm(untouched) == pytest.approx(norm)


def trial(errors: list[tuple[float, float | None]], number: int = 0, status: str = "finished") -> TrialResult:
    epochs = [EpochRecord(n, 0.1, test, 1.0, (), validation) for n, (test, validation) in enumerate(errors, start=1)]
    return TrialResult("dfa", number, 1e-3, status, "", tuple(epochs))


def test_epoch_is_chosen_by_validation_alone_and_the_first_of_equals() -> None:
    chosen = chosen_epoch(trial([(5.0, 3.0), (9.0, 2.0), (1.0, 2.0), (0.0, 4.0)]), "lower")
    assert chosen is not None
    assert (chosen.epoch, chosen.test_score) == (2, 9.0)
    assert chosen_epoch(trial([(5.0, None), (4.0, None)]), "lower") is None
    perfect = chosen_epoch(trial([(5.0, 3.0), (9.0, 0.0), (1.0, 2.0)]), "lower")
    assert perfect is not None
    assert perfect.epoch == 2


def test_summary_has_both_epochs() -> None:
    results = [trial([(5.0, 1.0), (7.0, 2.0)]), trial([(3.0, 1.0), (9.0, 2.0)], 1), trial([(0.0, 0.0)], 2, "diverged")]
    summary = summarize("dfa", results)
    assert summary.test_score is not None
    assert summary.test_score_chosen is not None
    assert (summary.test_score.mean, summary.test_score_chosen.mean, summary.test_score_chosen.count) == (8.0, 4.0, 2)
    assert summarize("dfa", [trial([(5.0, None)])]).test_score_chosen is None


def test_validation_error_is_measured_on_the_validation_part(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made_series(40, is_redrawn=True)
    learner = make_learner(SPEC, dataset)
    result = train_learner(learner, SPEC, Schedule(2, 8), dataset)
    assert dataset.validation is not None
    swapped = Dataset("made", *dataset.test, *dataset.validation, 2, "classification", "none")
    assert result.epochs[-1].validation_score == measure_test_error(learner.model, swapped)
    assert result.epochs[-1].test_score == measure_test_error(learner.model, dataset)


def test_compare_splits_anew_in_every_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    seen: list[Dataset] = []
    honest = comparison.run_trial

    def look(trial: TensorTrial, *arguments: Any) -> TrialResult:
        seen.append(trial.dataset)
        return honest(trial, *arguments)

    monkeypatch.setattr(comparison, "run_trial", look)
    run = ["compare", "--data", "libras", "--network", "rnn-4", "--rules", "backprop,noisy-backprop", "--trials", "2"]
    assert main([*run, "--epochs", "3", "--seed", "3", "--out", str(tmp_path)]) == 0
    splits = [made_series(40, is_redrawn=True).of_trial(3, trial).x_test for trial in (0, 0, 1, 1)]
    assert all(torch.equal(dataset.x_test, x) for dataset, x in zip(seen, splits, strict=True))
    results = results_in(tmp_path)
    facts = results["data"]
    assert (facts["num_train"], facts["num_validation"], facts["num_test"]) == (24, 8, 8)
    assert facts["is_redrawn"]
    assert results["trivial"]["most frequent class"]["count"] == 2
    for entry in results["trials"]:
        assert all(epoch["validation_score"] is not None for epoch in entry["epochs"])
    assert results["summary"][0]["test_score_chosen"]["count"] == 2
    assert (results["config"]["clip"], results["loss"], results["network"]["activation"]) == (
        2.0,
        "cross_entropy",
        "tanh",
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "chosen epoch: test error after each trial's epoch with the lowest validation error" in out
    assert "test error without learning:" in out
    assert "(most frequent class)" in out


def test_compare_without_a_validation_part_says_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    run = ["compare", "--data", "row-mnist", "--network", "gru-4", "--rules", "backprop", "--trials", "1"]
    assert main([*run, "--epochs", "1", "--clip", "inf", "--out", str(tmp_path)]) == 0
    results = results_in(tmp_path)
    assert results["summary"][0]["test_score_chosen"] is None
    assert results["config"]["clip"] is None
    assert results["config"]["schedule_source"].endswith("given for this run: clipping")
    assert results["network"]["activation"] == "tanh with sigmoid gates"
    assert "chosen" not in capsys.readouterr().out


def test_compare_of_forecasts_has_trivial_ones_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    run = ["compare", "--data", "mackey-glass", "--network", "gru-4", "--rules", "backprop", "--trials", "1"]
    assert main([*run, "--epochs", "1", "--out", str(tmp_path)]) == 0
    results = results_in(tmp_path)
    assert set(results["trivial"]) == {"mean", "value last seen"}
    assert (results["loss"], results["metric"]["unit"], results["data"]["task"]) == (
        "mse_loss", "mean squared error", "forecasting",
    )  # fmt: skip
    out = " ".join(capsys.readouterr().out.split())
    assert f"{results['trivial']['value last seen']['mean']:.4f} (value last seen)" in out


def test_gamma_for_the_run_reaches_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    rules: list[Any] = []
    honest = tensors.make_learner

    def look(spec: LearnerSpec, *arguments: Any) -> Learner:
        learner = honest(spec, *arguments)
        rules.append((spec.rule, learner.handle.rules[0]))
        return learner

    monkeypatch.setattr(tensors, "make_learner", look)
    run = ["compare", "--data", "mackey-glass", "--network", "gru-4", "--rules", "dfa,backprop", "--trials", "1"]
    assert main([*run, "--epochs", "1", "--gamma", "0.75", "--out", str(tmp_path)]) == 0
    results = results_in(tmp_path)
    assert {rule.gamma for name, rule in rules if name == "dfa"} == {0.75}
    assert results["config"]["gamma"] == results["settings"]["dfa"]["gamma"] == 0.75
    assert results["settings"]["dfa"]["source"].endswith("given for this run: gamma")
    assert results["settings"]["backprop"]["gamma"] is None


def test_angles_are_measured_as_often_as_asked() -> None:
    dataset, spec = made("mnist", 8), LearnerSpec("dfa", "mlp2-8", 1e-3)
    result = train_learner(make_learner(spec, dataset), spec, Schedule(5, 8, angles_every=2), dataset)
    assert [bool(epoch.alignment) for epoch in result.epochs] == [False, True, False, True, True]
    assert summarize("dfa", [result]).angles.keys() == {"fc1", "fc2"}


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_dfa_learns_to_forecast_at_every_step(gamma: float) -> None:
    dataset = made_series(60, is_forecast=True)
    errors = {}
    for rule in ("dfa", "shallow"):
        spec = LearnerSpec(rule, "rnn-16", 1e-2, gamma=gamma)
        result = train_learner(make_learner(spec, dataset), spec, Schedule(60, 10, angles_every=60), dataset)
        errors[rule] = result.epochs[-1].test_score
    assert errors["dfa"] < 0.7 * errors["shallow"] < 0.5


def test_train_saves_a_recurrent_network(tmp_path: Path, quick: None) -> None:
    run = ["train", "--data", "libras", "--network", "gru-4", "--rule", "backprop", "--epochs", "2"]
    assert main([*run, "--out", str(tmp_path)]) == 0
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert set(weights) >= {"gru.weight_hh_l0", "fc1.weight"}


def test_inputs_that_are_not_finite_are_blamed(tmp_path: Path) -> None:
    dataset = made_series()
    dataset.x_train[3, 2, 0] = float("nan")
    result = train_learner(make_learner(SPEC, dataset), SPEC, Schedule(1, 8), dataset)
    assert result.status == "diverged"
    assert "inputs" in result.message
