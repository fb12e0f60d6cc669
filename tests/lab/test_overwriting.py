"""Runs with --overwrite that are cut: what is in the folder is theirs, and --resume goes on with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_runs import Cut
from lab_output import one_line, results_in
from toy_task import ToyTask

from feedalign_lab import comparison
from feedalign_lab.checkpoints.keeper import ENDING
from feedalign_lab.cli import main
from feedalign_lab.errors import OutputFolderError
from feedalign_lab.overwriting import replaced_results
from feedalign_lab.progress import TrainingProgress
from feedalign_lab.results import ResultsFolder

pytestmark = pytest.mark.usefixtures("always_saving", "rough_pictures")

TOYS = ["--data", "toys"]
COMMANDS = {
    "results.json": ["train", *TOYS, "--rule", "dfa"],
    "results.json of compare": ["compare", *TOYS, "--rules", "dfa,backprop", "--trials", "1"],
    "tuning.json": ["tune", *TOYS, "--rules", "dfa", "--rates", "0.5", "--trials", "1"],
}


def cut(command: list[str], at: int) -> None:
    """Have a command die in its n-th epoch."""
    trained: list[int] = []

    def die(*_: object) -> None:
        trained.append(1)
        if len(trained) == at:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingProgress, "tell", die)
        with pytest.raises(Cut):
            main(command)


def without_time(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: without_time(v) for k, v in content.items() if k not in {"seconds", "environment", "cost"}}
    return [without_time(one) for one in content] if isinstance(content, list) else content


def assert_same_files(one: Path, other: Path, name: str) -> None:
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    found, expected = (json.loads((folder / name).read_text()) for folder in (one, other))
    assert without_time(found) == without_time(expected)


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("what", COMMANDS)
def test_a_run_that_was_cut_is_the_new_one(what: str, at: int, tmp_path: Path, task: ToyTask) -> None:
    """Before its first checkpoint, and after it; the run before had other settings and other files."""
    name, command, old, new = what.split()[0], COMMANDS[what], tmp_path / "old", tmp_path / "new"
    assert main([*command, "--epochs", "3", "--out", str(new)]) == 0
    assert main(["compare", *TOYS, "--rules", "shallow", "--trials", "1", "--out", str(old)]) == 0
    if name == "tuning.json":
        assert main([*command, "--epochs", "2", "--overwrite", "--out", str(old)]) == 0
        (old / "results.json").unlink()
        (old / "shallow-weight.txt").unlink()
        (old / "together.txt").unlink()
        (old / "learning_curves.png").unlink()
        (old / "angles.png").unlink()
    cut([*command, "--epochs", "3", "--overwrite", "--out", str(old)], at)
    found = json.loads((old / name).read_text())
    assert (found["status"], found["command"], found["config"]["data"]) == ("running", command[0], "toys")
    assert any(old.glob(f"*{ENDING}")) == (at > 1)
    assert main([*command, "--epochs", "3", "--resume", str(old)]) == 0
    assert_same_files(old, new, name)


def test_what_cannot_be_trained_leaves_the_old_results(
    tmp_path: Path, task: ToyTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*COMMANDS["results.json of compare"], "--out", str(tmp_path)]
    assert main(run) == 0
    before = (tmp_path / "results.json").read_bytes()
    capsys.readouterr()

    def fail(*_: object) -> None:
        raise OutputFolderError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_measure_cost", fail)
        assert main([*run, "--overwrite"]) == 2
    assert one_line(capsys.readouterr().err) == "feedalign: no such thing\n"
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("old", [None, b"precious", b'{"result_files": 3}'])
def test_results_are_put_back_until_something_new_is_there(old: bytes | None, tmp_path: Path) -> None:
    folder, path = ResultsFolder.open(tmp_path, overwrite=False), tmp_path / "results.json"
    (tmp_path / "weights.pt").write_text("")

    def fail(new: str | None) -> None:
        with replaced_results(folder, path.name, {"config": {}}):
            assert results_in(tmp_path) == {"status": "running", "config": {}, "result_files": []}
            if new is not None:
                (tmp_path / new).write_text("new")
            raise ValueError("no")

    def fail_after(new: str | None) -> None:
        if old is not None:
            path.write_bytes(old)
        with pytest.raises(ValueError, match="no"):
            fail(new)

    fail_after(None)
    assert (path.read_bytes() if path.exists() else None) == old
    fail_after(f"a{ENDING}")
    assert results_in(tmp_path)["status"] == "running"
    (tmp_path / f"a{ENDING}").unlink()
    fail_after("results.json")
    assert path.read_text() == "new"


def test_weights_of_another_run_do_not_stay_beside_one_that_diverged(tmp_path: Path, task: ToyTask) -> None:
    run = [*COMMANDS["results.json"], "--out", str(tmp_path)]
    assert main(run) == 0
    assert torch.load(tmp_path / "weights.pt", weights_only=True)
    task.diverged_at.add(("dfa", 1))
    assert main([*run, "--overwrite"]) == 1
    assert not (tmp_path / "weights.pt").exists()
