"""Transfer learning: convolutions trained once, frozen, and shared by all rules of a trial."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lab_output import one_line, results_in
from lab_training import train_learner
from made_data import made
from torch import nn

from feedalign_lab import comparison, data, tensors
from feedalign_lab.cli import main
from feedalign_lab.cost import CostRecord
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import Learner, LearnerSpec, make_learner
from feedalign_lab.models import build_network, network_facts
from feedalign_lab.models.transfer import FrozenBatchNorm2d, classifier_points, features_of, freeze_features
from feedalign_lab.tensors import measure_test_error
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("rough_pictures")

DATASET = made("mnist", 40)
RUN = ["compare", "--data", "mnist", "--network", "cnn-bn", "--transfer", "--epochs", "1", "--batch-size", "10"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    def load(name: str, device: object = "cpu", *, inputs: str = "own") -> Dataset:
        assert inputs == "symmetric"
        return made(name, 40)

    monkeypatch.setattr(comparison, "measure_cost", measure)
    monkeypatch.setattr(data, "load", load)


def trained_features() -> tuple[Learner, dict[str, torch.Tensor]]:
    spec = LearnerSpec("backprop", "cnn-bn", 1e-3)
    learner = make_learner(spec, DATASET)
    train_learner(learner, spec, Schedule(1, 10), DATASET)
    return learner, dict(features_of(learner.model))


def test_features_are_what_stands_before_the_flatten_layer() -> None:
    learner, features = trained_features()
    assert {key.partition(".")[0] for key in features} == {"conv1", "bn1", "conv2", "bn2"}
    assert "bn2.running_var" in features
    kept = features["conv1.weight"].clone()
    learner.step(DATASET.x_train, DATASET.encode(DATASET.y_train))
    assert torch.equal(features["conv1.weight"], kept)


def test_frozen_part_computes_what_it_did_in_evaluation_and_stays() -> None:
    learner, features = trained_features()
    fresh = build_network("cnn-bn", DATASET, seed=5)
    classifier = fresh.get_parameter("fc1.weight").detach().clone()
    freeze_features(fresh, features)
    fresh.train()
    assert torch.equal(fresh.get_parameter("fc1.weight"), classifier)
    flatten = [name for name, _ in fresh.named_children()].index("flatten")
    learner.handle.remove()
    expected = learner.model.eval()[:flatten](DATASET.x_train[:7])
    torch.testing.assert_close(fresh[:flatten](DATASET.x_train[:7]), expected)
    assert all(torch.equal(fresh.state_dict()[key], tensor) for key, tensor in features.items())
    assert list(fresh.state_dict()) == list(learner.model.state_dict())
    frozen = {name for name, parameter in fresh.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"{layer}.{what}" for layer in ("conv1", "bn1", "conv2", "bn2") for what in ("weight", "bias")}
    kinds = {name: type(module) for name, module in fresh.named_modules()}
    assert (kinds["bn1"], kinds["bn3"]) == (FrozenBatchNorm2d, nn.BatchNorm1d)


@pytest.mark.parametrize(
    ("network", "points"),
    [("cnn-bn", ["relu3"]), ("conv", ["tanh2"]), ("alexnet-small", ["relu6", "relu7"])],
)
def test_signals_enter_the_classifier_alone(network: str, points: list[str]) -> None:
    assert classifier_points(build_network(network, DATASET, seed=0)) == points


@pytest.mark.parametrize("rule", ["backprop", "noisy-backprop", "fa", "dfa", "dkp", "fdfa", "fg-a", "fg-w"])
def test_only_the_classifier_moves(rule: str) -> None:
    features = features_of(build_network("cnn-bn", DATASET, seed=0))
    feedback_rate = 1e-3 if rule in {"dkp", "fdfa"} else None
    spec = LearnerSpec(rule, "cnn-bn", 1e-3, feedback_learning_rate=feedback_rate)
    learner = make_learner(spec, DATASET, features)
    before = {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}
    result = train_learner(learner, spec, Schedule(1, 10), DATASET)
    assert [entry.layer for entry in result.epochs[0].alignment if entry.point is not None] == ["fc1"]
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= {"fc1.weight", "fc2.weight"}
    assert not moved & {name for name in moved if name.startswith(("conv", "bn1", "bn2"))}
    state = learner.model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in features.items())


def test_compare_trains_the_convolutions_once_per_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learners: list[tuple[LearnerSpec, Learner]] = []
    honest = tensors.make_learner

    def keep(spec: LearnerSpec, *arguments: Any) -> Learner:
        learners.append((spec, honest(spec, *arguments)))
        return learners[-1][1]

    monkeypatch.setattr(tensors, "make_learner", keep)
    arguments = ["--transfer-epochs", "2", "--rules", "backprop,fdfa", "--trials", "2", "--out", str(tmp_path)]
    assert main([*RUN, *arguments]) == 0
    results = results_in(tmp_path)
    assert [(entry["trial"], entry["rule"], len(entry["epochs"])) for entry in results["features"]] == [
        (0, "backprop", 2), (1, "backprop", 2),
    ]  # fmt: skip
    assert [(entry["rule"], len(entry["epochs"])) for entry in results["trials"]] == [("backprop", 1), ("fdfa", 1)] * 2
    assert results["config"]["transfer_epochs"] == 2
    network = build_network("cnn-bn", DATASET, seed=0)
    num_frozen = sum(p.numel() for name, p in network.named_parameters() if name.startswith(("conv", "bn1", "bn2")))
    assert results["network"]["num_trainable"] == results["network"]["num_parameters"] - num_frozen
    # After the two that were timed: the rules of a trial share convolutions, and trials do not.
    kernels = [learner.model.get_parameter("conv1.weight") for _, learner in learners[2:]]
    assert torch.equal(kernels[0], kernels[1])
    assert torch.equal(kernels[2], kernels[3])
    assert not torch.equal(kernels[0], kernels[2])
    out = capsys.readouterr().out
    assert "cnn-bn with transferred convolutions" in out
    assert "trained with backprop for 2 epochs" in " ".join(out.split())


def test_rate_for_the_run_leaves_the_convolutions_at_their_own(tmp_path: Path) -> None:
    assert main([*RUN, "--rules", "dfa", "--trials", "1", "--lr", "0.01", "--out", str(tmp_path)]) == 0
    results = results_in(tmp_path)
    assert results["features"][0]["learning_rate"] == 5e-4
    assert results["trials"][0]["learning_rate"] == 0.01
    assert results["config"]["transfer_epochs"] == 1


def test_train_saves_a_whole_network(tmp_path: Path) -> None:
    assert main(["train", "--rule", "fdfa", *RUN[1:], "--out", str(tmp_path)]) == 0
    network = build_network("cnn-bn", DATASET, seed=9)
    network.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    error = measure_test_error(network, DATASET)
    assert error == results_in(tmp_path)["summary"][0]["test_score"]["mean"]
    assert len(results_in(tmp_path)["features"]) == 1


@pytest.mark.parametrize("command", ["compare", "train"])
def test_convolutions_that_diverge_are_told_for_every_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    honest = tensors.measure_test_error
    monkeypatch.setattr(tensors, "measure_test_error", lambda model, dataset: spoil(model) or honest(model, dataset))

    def spoil(model: nn.Module) -> None:
        model.get_parameter("conv1.weight").detach().fill_(float("nan"))

    rules = ["--rules", "dfa,fdfa", "--trials", "1"] if command == "compare" else ["--rule", "dfa"]
    assert main([command, *RUN[1:], "--transfer-epochs", "2", *rules, "--out", str(tmp_path)]) == 1
    results = results_in(tmp_path)
    assert results["features"][0]["status"] == "diverged"
    assert {entry["status"] for entry in results["trials"]} == {"diverged"}
    err = capsys.readouterr().err
    assert "trial 1: dfa: the convolutions to transfer could not be trained" in err
    assert not (tmp_path / "weights.pt").exists()


@pytest.mark.parametrize("command", ["compare", "train"])
def test_interrupt_among_the_convolutions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensors, "measure_test_error", interrupt)
    rules = ["--rules", "dfa", "--trials", "1"] if command == "compare" else ["--rule", "dfa"]
    assert main([command, *RUN[1:], *rules, "--out", str(tmp_path)]) == 130
    results = results_in(tmp_path)
    assert (results["status"], results["trials"]) == ("interrupted", [])
    assert results["features"][0]["status"] == "interrupted"
    assert "interrupted" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits", "--transfer"], "fc2-20 has none that learn: choose conv, cnn"),
        (["--data", "mnist", "--network", "conv-random", "--transfer"], "conv-random has none that learn"),
        (["--data", "mnist", "--network", "cnn", "--transfer-epochs", "3"], "add --transfer"),
        (["--data", "mnist", "--network", "cnn", "--transfer", "--transfer-epochs", "0"], "must be at least 1"),
        (["--data", "mnist", "--network", "cnn", "--transfer", "--rules", "lg-fg-a"], "with frozen convolutions"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_facts_count_what_is_frozen() -> None:
    network = build_network("alexnet-small", DATASET, seed=0)
    whole = network_facts("alexnet-small", network, DATASET)
    freeze_features(network, features_of(network))
    facts = network_facts("alexnet-small", network, DATASET)
    assert whole.num_trainable == whole.num_parameters == facts.num_parameters
    assert facts.num_trainable == 257 * 1024 + 1025 * 1024 + 1025 * 10
    assert (facts.activation, facts.output, facts.batch_norm) == ("relu", "linear", True)
