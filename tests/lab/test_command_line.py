"""`feedalign compare` from end to end, on tiny runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lab_output import TINY, one_line, results_in

from feedalign_lab import comparison, tensors, training
from feedalign_lab.choices import rule_names
from feedalign_lab.cli import main
from feedalign_lab.cost import CostRecord
from feedalign_lab.data import load
from feedalign_lab.learner import Learner
from feedalign_lab.models import build_network
from feedalign_lab.seeding import stream_seed

pytestmark = pytest.mark.usefixtures("rough_pictures")


@pytest.fixture(autouse=True)
def quick_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing has its own tests; here it would only take time."""

    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    monkeypatch.setattr(comparison, "measure_cost", measure)


def test_compare_all_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--trials", "2", "--out", str(tmp_path), *TINY]) == 0
    out, err = capsys.readouterr()
    results = results_in(tmp_path)
    rules = list(rule_names())
    assert [row["rule"] for row in results["summary"]] == rules
    assert [(entry["trial"], entry["rule"]) for entry in results["trials"]] == [(t, r) for t in (0, 1) for r in rules]
    assert results["status"] == "finished"
    assert {entry["status"] for entry in results["trials"]} == {"finished"}
    for row in results["summary"]:
        assert row["test_score"]["count"] == 2
        assert f"{row['test_score']['mean']:.2f} ± {row['test_score']['std']:.2f}" in out
    assert "angle fc1" in out
    assert "angle fc3" not in out
    for name in ("results.json", "learning_curves.png", "angles.png"):
        assert f"wrote {tmp_path / name}" in out
    assert (tmp_path / "angles.png").read_bytes().startswith(b"\x89PNG")
    assert err == ""


def test_results_say_how_they_came_about(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    threads = str(before + 1)
    main(
        [
            "compare",
            "--rules",
            "dfa",
            "--trials",
            "1",
            "--seed",
            "7",
            "--out",
            str(tmp_path),
            "--threads",
            threads,
            *TINY,
        ]
    )
    assert torch.get_num_threads() == before
    results = results_in(tmp_path)
    assert results["config"]["seed"] == 7
    assert results["config"]["schedule"] == {
        "epochs": 1,
        "batch_size": 32,
        "flip": False,
        "lr_decay": 1.0,
        "angles_every": 1,
    }
    assert results["environment"]["torch"] == torch.__version__
    assert results["environment"]["num_threads"] == before + 1
    assert set(results["environment"]) >= {"python", "numpy", "feedalign", "git_commit", "device", "num_cpus"}
    assert set(results["seeds"][0]) == {"weights", "feedback", "order", "dropout", "classifier", "split"}
    (epoch,) = results["trials"][0]["epochs"]
    assert set(epoch) == {
        "epoch", "train_loss", "test_score", "validation_score", "other_scores", "seconds", "alignment",
    }  # fmt: skip
    assert [layer["layer"] for layer in epoch["alignment"]] == ["fc1", "fc2", "fc3"]


def test_same_seed_gives_the_same_file_but_for_times(tmp_path: Path) -> None:
    def figures(folder: Path, *more: str) -> list[Any]:
        main(["compare", "--rules", "dfa,brsf", "--trials", "1", "--out", str(folder), *TINY, *more])
        trials = results_in(folder)["trials"]
        return [(e["train_loss"], e["test_score"], e["alignment"]) for t in trials for e in t["epochs"]]

    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    assert figures(tmp_path / "a") != figures(tmp_path / "c", "--seed", "1")


@pytest.mark.parametrize(("load", "is_told"), [(0.1, False), (1000.0, True)])
def test_busy_machine_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    load: float,
    is_told: bool,
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load), raising=False)
    main(["compare", "--rules", "fa", "--trials", "1", "--out", str(tmp_path), *TINY])
    assert ("machine was busy" in capsys.readouterr().out) == is_told
    assert results_in(tmp_path)["environment"]["load_average"] == load


def test_steps_that_are_timed_move_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    learners: list[Learner] = []
    honest = tensors.make_learner

    def keep(*arguments: Any) -> Learner:
        learners.append(honest(*arguments))
        return learners[-1]

    monkeypatch.setattr(tensors, "make_learner", keep)
    plan = comparison.Plan("digits", "fc2-8", ("dfa", "drtp"), 1, training.Schedule(1, 32))
    comparison._measure_cost(plan, tensors.TensorTask(load("digits"), plan.network, plan.schedule))
    start = build_network("fc2-8", load("digits"), seed=stream_seed(0, 0, "weights"))
    assert len(learners) == 3
    for learner in learners:
        assert learner.optimizer.state
        for name, parameter in start.named_parameters():
            assert torch.equal(learner.model.get_parameter(name), parameter)


def test_json_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", "--rules", "fa", "--trials", "1", "--out", str(tmp_path), *TINY]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == results_in(tmp_path)
    assert err == ""


def test_results_stand_alone(tmp_path: Path) -> None:
    main(["compare", "--rules", "fa", "--trials", "1", "--out", str(tmp_path), *TINY])
    results = results_in(tmp_path)
    assert results["data"] == {
        "task": "classification",
        "num_train": 1297,
        "num_validation": 0,
        "num_test": 500,
        "is_redrawn": False,
        "input_shape": [64],
        "num_outputs": 10,
        "normalization": load("digits").normalization,
    }
    num_parameters = 64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert results["network"] == {
        "activation": "tanh",
        "output": "sigmoid",
        "batch_norm": False,
        "num_parameters": num_parameters,
        "num_trainable": num_parameters,
    }
    assert (results["loss"], results["optimizer"]) == ("binary_cross_entropy", "Adam")
    assert results["config"]["left_out"] == {}


def test_every_field_of_the_results_is_documented(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    main(["compare", "--rules", "fa", "--trials", "1", "--out", str(tmp_path), *TINY])
    results = results_in(tmp_path)
    parts = [results["config"], results["config"]["schedule"], results["data"], results["network"]]
    parts += [
        results["metric"],
        results["settings"]["fa"],
        results["seeds"][0],
        results["environment"],
        results["cost"][0],
    ]
    parts += [results["summary"][0], results["summary"][0]["test_score"], results["trials"][0]]
    parts += [results["trials"][0]["epochs"][0], results["trials"][0]["epochs"][0]["alignment"][0]]
    for field in [*results, *(field for part in parts for field in part)]:
        assert f"`{field}`" in page, field


@pytest.mark.parametrize("as_json", [True, False])
def test_rules_left_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    data = ["--data", "synthetic-regression", "--batch-size", "500", "--rules", "all", "--trials", "1"]
    assert main(["compare", *data, "--out", str(tmp_path), *TINY, *(["--json"] if as_json else [])]) == 0
    out, err = capsys.readouterr()
    assert "left out: drtp (needs classes), lg-fg-a (needs classes)" in (one_line(err) if as_json else out)
    assert results_in(tmp_path)["config"]["left_out"] == {"drtp": "needs classes", "lg-fg-a": "needs classes"}


def test_learning_rate_given_for_the_run(tmp_path: Path) -> None:
    main(["compare", "--rules", "fa", "--trials", "1", "--lr", "0.01", "--out", str(tmp_path), *TINY])
    assert results_in(tmp_path)["settings"]["fa"]["learning_rate"] == 0.01
    assert results_in(tmp_path)["trials"][0]["learning_rate"] == 0.01


def test_settings_of_the_network_are_recorded_with_their_source(tmp_path: Path) -> None:
    run = ["--network", "mlp2-8-bn", "--rules", "fdfa", "--trials", "1", "--epochs", "1"]
    main(["compare", *run, "--out", str(tmp_path)])
    results = results_in(tmp_path)
    config = results["config"]
    assert (config["inputs"], config["schedule_source"]) == ("symmetric", "ours")
    assert results["data"]["normalization"] == "pixels / 8 - 1, in [-1, 1]"
    assert results["loss"] == "cross_entropy"
    assert results["network"]["batch_norm"]
    assert results["settings"]["fdfa"] == {
        "learning_rate": 1e-3,
        "weight_init": "default",
        "source": "ours, untuned: PyTorch's default",
        "feedback_learning_rate": 1e-3,
        "weight_decay": 0.0,
        "feedback_decay": 0.0,
        "gamma": None,
        "dropout": 0.0,
    }
    assert results["features"] == []


def test_what_is_given_for_a_run_is_recorded_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--lr-decay", "0.5", "--inputs", "own", "--feedback-lr", "0.25", "--rules", "dkp", "--trials", "1"]
    main(["compare", *given, "--network", "mlp2-8", "--epochs", "1", "--out", str(tmp_path)])
    results = results_in(tmp_path)
    assert results["config"]["schedule"]["lr_decay"] == 0.5
    assert results["config"]["schedule_source"] == "ours; given for this run: decay, inputs"
    assert results["data"]["normalization"] == "pixels / 16, in [0, 1]"
    assert results["settings"]["dkp"]["feedback_learning_rate"] == 0.25
    assert results["config"]["feedback_learning_rate"] == 0.25
    assert "rate: of Adam, times 0.5 after each epoch" in " ".join(capsys.readouterr().out.split())


def test_existing_results_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("precious")
    arguments = ["compare", "--rules", "fa", "--trials", "1", "--out", str(tmp_path), *TINY]
    assert main(arguments) == 2
    assert "exists already" in one_line(capsys.readouterr().err)
    assert (tmp_path / "results.json").read_text() == "precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert results_in(tmp_path)["status"] == "finished"


def test_folder_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "run_trial", lambda *_: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    assert main(["compare", "--out", str(tmp_path / "file" / "x"), *TINY]) == 2
    assert "cannot be written" in one_line(capsys.readouterr().err)


def test_interrupt_keeps_and_labels_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    honest = tensors.measure_test_error

    def interrupt_in_the_fifth_epoch(*arguments: Any) -> float:
        measured.append(1)
        if len(measured) == 5:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(tensors, "measure_test_error", interrupt_in_the_fifth_epoch)
    arguments = ["--rules", "fa,dfa,drtp", "--trials", "2", "--epochs", "3", "--network", "fc2-8"]
    assert main(["compare", "--out", str(tmp_path), *arguments]) == 130
    out, err = capsys.readouterr()
    results = results_in(tmp_path)
    assert results["status"] == "interrupted"
    assert [(t["rule"], t["status"], len(t["epochs"])) for t in results["trials"]] == [
        ("fa", "finished", 3),
        ("dfa", "interrupted", 1),
    ]
    assert "interrupted" in out
    assert "interrupted" in one_line(err)


def test_results_are_written_after_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = comparison.run_trial
    found: list[int] = []

    def run_and_look(*arguments: Any) -> Any:
        path = tmp_path / "results.json"
        found.append(len(json.loads(path.read_text())["trials"]) if path.exists() else 0)
        return honest(*arguments)

    monkeypatch.setattr(comparison, "run_trial", run_and_look)
    main(["compare", "--rules", "fa,dfa", "--trials", "2", "--out", str(tmp_path), *TINY])
    assert found == [0, 1, 2, 3]


def test_divergence_is_told_and_the_rest_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--rules", "backprop,fa", "--trials", "1", "--lr", "1e38", "--out", str(tmp_path)]
    assert main([*arguments, "--epochs", "2", "--network", "fc2-8"]) == 1
    out, err = capsys.readouterr()
    trials = results_in(tmp_path)["trials"]
    assert [trial["status"] for trial in trials] == ["diverged", "diverged"]
    assert "not finished" in out
    assert "backprop" in err
    assert "learning rate" in err
