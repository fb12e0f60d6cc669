"""Language models whose training was cut go on as if it had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_runs import Cut, assert_equal
from small_text import SIZE, VOCAB_SIZE, parts, plan_of
from test_language_command import TINY, VERSE, one_line, results_in

from feedalign_lab import cost
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.cli import main
from feedalign_lab.language import comparison
from feedalign_lab.language.learner import LanguageLearner, make_learner
from feedalign_lab.language.plan import LanguagePlan, Optimization, ScheduleName
from feedalign_lab.language.records import LanguageRun
from feedalign_lab.language.training import train

pytestmark = pytest.mark.usefixtures("always_saving", "rough_pictures")


def facts(run: LanguageRun) -> str:
    return repr(replace(run, evaluations=tuple(replace(one, seconds=0.0) for one in run.evaluations)))


def trained(
    plan: LanguagePlan, path: Path | None = None, cut_at: int | None = None
) -> tuple[LanguageLearner, LanguageRun, list[str]]:
    said: list[str] = []
    num_steps = 0

    def on_step(tokens: int, loss: float) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps == cut_at:
            raise Cut

    learner = make_learner(plan, plan.choices[0], 1e-2, VOCAB_SIZE, torch.device("cpu"))
    checkpoints = None if path is None else Checkpoints(path, {}, said.append)
    return learner, train(learner, plan, 1e-2, parts(), on_step, None, checkpoints), said


@pytest.mark.parametrize(
    ("rule", "schedule", "cut_at"), [("dfa-macro", "plateau", 11), ("fdfa-macro", "noam", 8), ("fg-a", "constant", 3)]
)
def test_a_run_goes_on(rule: str, schedule: ScheduleName, cut_at: int, tmp_path: Path) -> None:
    """Cut within an epoch of eight steps, and at its end; with what the schedules count, and dropout."""
    optimization = Optimization(schedule=schedule, warmup=4)
    plan = plan_of(rule, optimization=optimization, size=replace(SIZE, dropout=0.2), epochs=2, evaluations=4)
    learner, run, _ = trained(plan)
    assert run.status == "finished"
    with pytest.raises(Cut):
        trained(plan, tmp_path / "a", cut_at)
    other, resumed, said = trained(plan, tmp_path / "a")
    assert "going on from" in said[0]
    assert facts(resumed) == facts(run)
    assert_equal(other.state(), learner.state())


COMMAND = ["language", *TINY, "--rules", "dfa-macro", "--lr", "1e-2", "1e-3", "--epochs", "1"]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cost, "_BUDGET_SECONDS", 0.01)
    path = tmp_path / "verses.txt"
    path.write_text(VERSE * 30, encoding="utf-8")
    return path


def without_time(folder: Path) -> dict[str, Any]:
    found = results_in(folder)
    for name in ("environment", "cost"):
        found.pop(name)
    for run in [*found["runs"], *found["best"].values()]:
        for evaluation in run["evaluations"]:
            evaluation.pop("seconds")
    return found


def test_the_command_goes_on_among_its_rules_and_rates(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut in the second of two runs: the first is taken as it is, with its weights, and the second goes on."""
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    command = [*COMMAND, "--text", str(text)]
    assert main([*command, "--out", str(whole)]) == 0
    num_trained: list[str] = []
    honest = comparison.train

    def train_and_cut(learner: LanguageLearner, *arguments: Any) -> LanguageRun:
        num_trained.append(learner.name)
        if len(num_trained) == 2:
            on_evaluation = arguments[4]

            def cut(evaluation: Any) -> None:
                on_evaluation(evaluation)
                raise Cut

            arguments = (*arguments[:4], cut, *arguments[5:])
        return honest(learner, *arguments)

    monkeypatch.setattr(comparison, "train", train_and_cut)
    with pytest.raises(Cut):
        main([*command, "--out", str(twice)])
    assert main([*command, "--out", str(twice)]) == 2
    capsys.readouterr()
    assert main([*command, "--seed", "5", "--resume", str(twice)]) == 2
    assert "seed: 0 there, 5 here" in one_line(capsys.readouterr().err)
    assert main([*command, "--resume", str(twice)]) == 0
    assert num_trained == ["dfa-macro"] * 3
    assert without_time(twice) == without_time(whole)
    assert sorted(path.name for path in twice.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.glob("weights*"):
        assert_equal(torch.load(twice / path.name), torch.load(path))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_command_is_left_as_it_is(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same settings that is told, as by `train`; with others it is refused, what the models write included."""
    folder = tmp_path / "out"
    command = [*COMMAND[:-4], "1e-2", "--steps", "2", "--text", str(text), "--prompt", "the cat"]
    assert main([*command, "--out", str(folder)]) == 0
    before = files_in(folder)
    capsys.readouterr()
    assert main([*command, "--resume", str(folder)]) == 0
    assert "finished already, nothing to go on with" in one_line(capsys.readouterr().err)
    assert main([*command, "--json", "--resume", str(folder)]) == 0
    assert capsys.readouterr().out.encode() == before["results.json"]
    for change in (["--seed", "1"], ["--prompt", "the dog"], ["--temperature", "0.5"]):
        assert main([*command, *change, "--resume", str(folder)]) == 2
        error = one_line(capsys.readouterr().err)
        assert f"{change[0][2:]}: " in error
        assert "with --out in the place of --resume" in error
    assert main(["train", "--resume", str(folder)]) == 2
    assert "a run of `feedalign language`" in one_line(capsys.readouterr().err)
    assert files_in(folder) == before


def test_a_command_that_was_cut_before_its_first_checkpoint_begins_anew(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    command = [*COMMAND[:-4], "1e-2", "--steps", "2", "--text", str(text)]
    assert main([*command, "--out", str(whole)]) == 0
    twice.mkdir()
    results = (whole / "results.json").read_text()
    (twice / "results.json").write_text(results.replace('"status": "finished"', '"status": "interrupted"', 1))
    assert main([*command, "--resume", str(twice)]) == 0
    assert without_time(twice) == without_time(whole)


def test_overwritten_results_are_those_of_the_run_under_way(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    command = [*COMMAND[:-4], "1e-2", "--steps", "2", "--text", str(text)]
    assert main([*command, "--out", str(folder)]) == 0
    command += ["--seed", "1"]

    def die(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "train", die)
        with pytest.raises(Cut):
            main([*command, "--overwrite", "--out", str(folder)])
    assert (results_in(folder)["status"], results_in(folder)["config"]["seed"]) == ("running", 1)
    assert main([*command, "--resume", str(folder)]) == 0
    assert (results_in(folder)["status"], results_in(folder)["config"]["seed"]) == ("finished", 1)


def test_a_run_that_diverged_says_so_again(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    command = [*COMMAND[:-4], "1e38", "--steps", "3", "--text", str(text)]
    assert main([*command, "--out", str(folder)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    before = files_in(folder)
    assert main([*command, "--resume", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "finished already, nothing to go on with" in error
    assert error.splitlines()[1:] == [told]
    assert files_in(folder) == before
