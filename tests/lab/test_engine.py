"""The engine on a task whose numbers are known by hand: scores in both directions, files, ends of every kind."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lab_output import one_line, results_in
from toy_task import ToyTask

from feedalign_lab.cli import main
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import best_of, chosen_epoch, summarize
from feedalign_lab.training import Schedule, run_trial

pytestmark = pytest.mark.usefixtures("rough_pictures")

SPEC = LearnerSpec("dfa", "line", 0.5)
RUN = ["compare", "--data", "toys", "--rules", "backprop,dfa", "--trials", "2"]


def figures(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["rule"]: row for row in results_in(folder)["summary"]}


def test_epochs_hold_what_the_trial_says() -> None:
    result = run_trial(ToyTask().trial(SPEC), SPEC, Schedule(3, None, angles_every=2))
    assert [(e.test_score, e.validation_score, e.other_scores) for e in result.epochs] == [
        (0.5, 2.25, {"log loss": 0.05}), (1.0, 1.0, {"log loss": 0.1}), (1.5, 0.25, {"log loss": 0.15}),
    ]  # fmt: skip
    assert [e.train_loss for e in result.epochs] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert [bool(e.alignment) for e in result.epochs] == [False, True, True]
    assert (result.status, result.learning_rate) == ("finished", 0.5)


@pytest.mark.parametrize(("better", "epoch"), [("lower", 2), ("higher", 4)])
def test_epoch_is_chosen_in_the_metrics_direction(better: Any, epoch: int) -> None:
    spec = LearnerSpec("backprop", "line", 1.0)
    result = run_trial(ToyTask(better).trial(spec), spec, Schedule(4, None))
    chosen = chosen_epoch(result, better)
    assert chosen is not None
    assert chosen.epoch == epoch
    summary = summarize("backprop", [result], better)
    assert summary.test_score_chosen is not None
    assert summary.test_score_chosen.mean == epoch
    assert summary.other_scores_chosen["log loss"].mean == epoch / 10
    assert summary.other_scores["log loss"].mean == 0.4


@pytest.mark.parametrize(("better", "best"), [("lower", "b"), ("higher", "c")])
def test_best_is_the_first_and_never_no_number(better: Any, best: str) -> None:
    nan = float("nan")
    assert best_of([(nan, "n"), (2.0, "a"), (1.0, "b"), (3.0, "c"), (3.0, "d"), (1.0, "e")], better) == best
    assert best_of([], better) is None


def test_dropout_is_the_trials_own_and_goes_on_from_epoch_to_epoch() -> None:
    state = torch.random.get_rng_state()
    drawn = []
    for seed in (0, 0, 1):
        task = ToyTask()
        spec = LearnerSpec("dfa", "line", 0.5, seed=seed)
        run_trial(task.trial(spec), spec, Schedule(3, None))
        drawn.append(task.dropped)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 3
    assert torch.equal(torch.random.get_rng_state(), state)


def test_compare_summarizes_files_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask) -> None:
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    results, rules = results_in(tmp_path), figures(tmp_path)
    assert results["format"] == 2
    assert results["metric"] == {"name": "AUC", "unit": "", "better": "higher", "digits": 3}
    assert [metric["name"] for metric in results["other_metrics"]] == ["log loss"]
    assert (results["data"], results["network"]) == ({"num_toys": 3}, {"num_parameters": 1})
    assert (results["loss"], results["optimizer"]) == ("none", "SGD")
    assert results["trivial"] == {"coin": {"mean": 0.5, "std": None, "count": 1}}
    assert rules["backprop"]["test_score"] == {"mean": 3.0, "std": 0.0, "count": 2}
    assert rules["dfa"]["test_score"]["mean"] == 1.5
    assert rules["dfa"]["test_score_last_epochs"]["mean"] == 1.0
    # Highest (w - 2)^2: after the first epoch for both.
    assert (rules["backprop"]["test_score_chosen"]["mean"], rules["dfa"]["test_score_chosen"]["mean"]) == (1.0, 0.5)
    assert rules["dfa"]["other_scores"]["log loss"]["mean"] == pytest.approx(0.15)
    assert rules["dfa"]["other_scores_chosen"]["log loss"]["mean"] == pytest.approx(0.05)
    assert rules["dfa"]["angles"] == {"fc1": 40.5}
    assert results["settings"]["dfa"]["dropout"] == 0.25
    assert results["config"]["schedule"]["batch_size"] is None
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "test AUC", "3.000 ± 0.000", "1.500 ± 0.000", "log loss", "0.1500", "with the highest validation AUC",
        "test AUC without learning: 0.500 (coin)",
    ):  # fmt: skip
        assert text in out
    assert (tmp_path / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_timed_trials_stand_still(tmp_path: Path, task: ToyTask) -> None:
    main([*RUN, "--rules", "dfa", "--dropout", "0", "--out", str(tmp_path)])
    assert [(spec.rule, spec.learning_rate, spec.dropout) for spec in task.steps] == [
        ("backprop", 0.0, 0.0), ("dfa", 0.0, 0.0),
    ]  # fmt: skip


def test_first_trial_of_each_rule_leaves_its_files_and_all_together_theirs(tmp_path: Path, task: ToyTask) -> None:
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert results_in(tmp_path)["result_files"] == ["backprop-weight.txt", "dfa-weight.txt", "together.txt"]
    assert (tmp_path / "backprop-weight.txt").read_text() == "3"
    assert (tmp_path / "dfa-weight.txt").read_text() == "1.5"
    assert (tmp_path / "together.txt").read_text() == "backprop dfa"
    assert main([*RUN, "--rules", "dfa", "--overwrite", "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "backprop-weight.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "dfa-weight.txt", "together.txt", "learning_curves.png", "angles.png",
    }  # fmt: skip


def test_train_leaves_files_and_weights(tmp_path: Path, task: ToyTask) -> None:
    assert main(["train", "--data", "toys", "--rule", "dfa", "--epochs", "2", "--out", str(tmp_path)]) == 0
    assert results_in(tmp_path)["result_files"] == ["weight.txt"]
    assert (tmp_path / "weight.txt").read_text() == "1"
    assert float(torch.load(tmp_path / "weights.pt", weights_only=True)["weight"]) == 1.0
    assert not (tmp_path / "together.txt").exists()


def test_only_names_of_its_own_folder_are_removed(tmp_path: Path, task: ToyTask) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    precious.write_text("precious")
    (out / "results.json").write_text(json.dumps({"result_files": ["../precious", "", "..", 3, str(precious)]}))
    assert main([*RUN, "--overwrite", "--out", str(out)]) == 0
    assert precious.read_text() == "precious"


def test_interrupted_trial_keeps_its_epochs_and_shows_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    task.interrupted_at.add(("dfa", 0, 2))
    assert main([*RUN, "--out", str(tmp_path)]) == 130
    results = results_in(tmp_path)
    assert results["status"] == "interrupted"
    assert [(t["rule"], t["status"], len(t["epochs"])) for t in results["trials"]] == [
        ("backprop", "finished", 3), ("dfa", "interrupted", 1),
    ]  # fmt: skip
    assert figures(tmp_path)["dfa"]["test_score"] is None
    assert results["result_files"] == ["backprop-weight.txt", "dfa-weight.txt", "together.txt"]
    assert (tmp_path / "dfa-weight.txt").read_text() == "0.5"
    assert (tmp_path / "together.txt").read_text() == "backprop dfa"
    assert (tmp_path / "learning_curves.png").exists()
    assert "interrupted" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("at", [("dfa", 0, 1), ("dfa", 1, 1)])
def test_interrupt_before_the_first_epoch_or_later_leaves_no_file_of_its_own(
    tmp_path: Path, task: ToyTask, at: tuple[str, int, int]
) -> None:
    task.interrupted_at.add(at)
    assert main([*RUN, "--out", str(tmp_path)]) == 130
    assert (tmp_path / "dfa-weight.txt").exists() == (at[1] == 1)
    assert (tmp_path / "together.txt").read_text() == ("backprop dfa" if at[1] else "backprop")


def test_training_cut_short_leaves_its_files_too(tmp_path: Path, task: ToyTask) -> None:
    task.interrupted_at.add(("dfa", 0, 2))
    assert main(["train", "--data", "toys", "--rule", "dfa", "--out", str(tmp_path)]) == 130
    assert (tmp_path / "weight.txt").read_text() == "0.5"
    assert results_in(tmp_path)["result_files"] == ["weight.txt"]


@pytest.mark.parametrize("command", ["compare", "train"])
def test_interrupt_while_a_file_is_written_keeps_the_figures_and_no_half_of_it(
    tmp_path: Path, task: ToyTask, command: str
) -> None:
    task.interrupted_files.add("dfa")
    rules = ["--rules", "dfa", "--trials", "1"] if command == "compare" else ["--rule", "dfa"]
    assert main([command, "--data", "toys", *rules, "--out", str(tmp_path)]) == 130
    results = results_in(tmp_path)
    assert (results["status"], results["result_files"]) == ("interrupted", [])
    assert results["trials"][0]["status"] == "finished"
    assert results["summary"][0]["test_score"]["mean"] == 1.5
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".txt")]
    assert (tmp_path / "weights.pt").exists() == (command == "train")


def test_diverged_trial_counts_in_no_mean_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    task.diverged_at.add(("backprop", 2))
    assert main([*RUN, "--out", str(tmp_path)]) == 1
    results = results_in(tmp_path)
    assert [(t["rule"], t["status"], len(t["epochs"])) for t in results["trials"][:2]] == [
        ("backprop", "diverged", 1), ("dfa", "finished", 3),
    ]  # fmt: skip
    assert results["result_files"] == ["dfa-weight.txt", "together.txt"]
    out, err = capsys.readouterr()
    assert "2 of 2 not finished" in " ".join(out.split())
    assert "backprop: the loss (nan) is no longer finite at epoch 2" in err
    assert "try a learning rate below 1" in err


@pytest.mark.parametrize(("loss", "status"), [(2.0, "finished"), (2.1, "diverged")])
def test_loss_far_above_the_start_has_diverged(loss: float, status: str) -> None:
    task = ToyTask()
    task.losses["dfa"] = loss
    result = run_trial(task.trial(SPEC), SPEC, Schedule(2, None))
    assert (result.status, len(result.epochs)) == (status, 2)


def test_tuning_looks_at_the_validation_part_alone_in_the_metrics_direction(tmp_path: Path, task: ToyTask) -> None:
    # (w - 2)^2 after 3 epochs: highest where w is 6, lowest where it is 1.5.
    grid = ["--rates", "0.5", "1", "2", "--dropouts", "0", "0.5", "--weight-decays", "0.25", "--trials", "1"]
    assert main(["tune", "--data", "toys", "--rules", "dfa", *grid, "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "tuning.json").read_text())
    assert [(c["dropout"], c["weight_decay"], c["learning_rate"], c["score"]["mean"]) for c in found["candidates"]] == [
        (0.0, 0.25, 0.5, 0.25), (0.0, 0.25, 1.0, 1.0), (0.0, 0.25, 2.0, 16.0),
        (0.5, 0.25, 0.5, 0.25), (0.5, 0.25, 1.0, 1.0), (0.5, 0.25, 2.0, 16.0),
    ]  # fmt: skip
    best = found["best"]["dfa"]
    assert (best["learning_rate"], best["dropout"], best["batch_size"]) == (2.0, 0.0, None)
    assert found["metric"]["better"] == "higher"
    task.metric = ToyTask("lower").metric
    assert main(["tune", "--data", "toys", "--rules", "dfa", *grid, "--out", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "tuning.json").read_text())["best"]["dfa"]["learning_rate"] == 0.5


@pytest.mark.parametrize(("judged_at", "score"), [("last", 1.0), ("chosen", 4.0)])
def test_tuning_judges_at_the_epoch_that_counts(
    tmp_path: Path, task: ToyTask, judged_at: Literal["last", "chosen"], score: float
) -> None:
    # (w - 2)^2 over the epochs of rate 1 is 1, 0, 1, 4.
    task.judged_at = judged_at
    arguments = ["--rates", "1", "--trials", "1", "--epochs", "3" if judged_at == "last" else "4"]
    assert main(["tune", "--data", "toys", "--rules", "dfa", *arguments, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "tuning.json").read_text())["candidates"][0]["score"]["mean"] == score
    task.metric = ToyTask("lower").metric
    assert main(["tune", "--data", "toys", "--rules", "dfa", *arguments, "--overwrite", "--out", str(tmp_path)]) == 0
    lowest = json.loads((tmp_path / "tuning.json").read_text())["candidates"][0]["score"]["mean"]
    assert lowest == (1.0 if judged_at == "last" else 0.0)


def test_a_candidate_that_diverged_has_no_score_and_is_no_failure_of_the_search(
    tmp_path: Path, task: ToyTask, capsys: pytest.CaptureFixture[str]
) -> None:
    task.diverged_at.add(("backprop", 2))
    run = ["tune", "--data", "toys", "--rules", "backprop,dfa", "--rates", "1", "--trials", "1"]
    assert main([*run, "--out", str(tmp_path)]) == 0
    tuned = json.loads((tmp_path / "tuning.json").read_text())
    assert [one["score"] is None for one in tuned["candidates"]] == [True, False]
    assert tuned["best"]["backprop"] is None
    assert main([*run, "--resume", str(tmp_path)]) == 0
    assert "finished already" in capsys.readouterr().err


def test_tuning_table_has_a_row_for_each_decay_and_dropout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    grid = ["--rates", "0.5", "1", "--dropouts", "0", "0.5", "--trials", "1"]
    assert main(["tune", "--data", "toys", "--rules", "dfa", *grid, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "AUC on the validation part" in out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert rows == [["dfa", "line", "all", "0", "0.250", "1.000"], ["dfa", "line", "all", "0.5", "0.250", "1.000"]]
    assert "best for dfa: line, batch size all, rate 1, dropout 0" in " ".join(out.split())


def test_settings_cannot_be_chosen_without_a_validation_part() -> None:
    trial = ToyTask(has_validation=False).for_tuning().trial(SPEC)
    with pytest.raises(SettingError, match="toys has no validation part"):
        run_trial(trial, SPEC, Schedule(1, None))


def test_without_a_validation_part_no_epoch_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    task.has_validation = False
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert figures(tmp_path)["dfa"]["test_score_chosen"] is None
    assert figures(tmp_path)["dfa"]["other_scores_chosen"] == {}
    assert "chosen" not in capsys.readouterr().out


def test_describe_and_all_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask) -> None:
    assert main(["describe", "--data", "toys", "--rule", "dfa"]) == 0
    assert "layer" in capsys.readouterr().out
    assert len(task.steps) == 1
    assert main(["compare", "--data", "toys", "--trials", "1", "--json", "--out", str(tmp_path)]) == 0
    assert set(figures(tmp_path)) == {"backprop", "dfa", "shallow"}
    assert "fdfa (is not for toys)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flip"], "--flip means nothing for toys: leave it out"),
        (["--batch-size", "4"], "--batch-size means nothing for toys"),
        (["--clip", "1"], "--clip means nothing for toys"),
        (["--transfer"], "--transfer means nothing for toys"),
        (["--rules", "drtp"], "drtp is not for toys, so it cannot train line on toys"),
        (["--dropout", "1"], "dropout must be at least 0 and below 1"),
        (["--weight-decay", "-1"], "weight decay must be at least 0"),
        (["--data", "toy:"], "put the path of your own behind the colon"),
        (["--data", "toy"], "no data set called 'toy'. Did you mean toys"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask, arguments: list[str], message: str
) -> None:
    assert main([*RUN, *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_option_of_the_search_that_means_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    assert main(["tune", "--data", "toys", "--batch-sizes", "4", "--out", str(tmp_path / "out")]) == 2
    assert "--batch-sizes means nothing for toys" in one_line(capsys.readouterr().err)
