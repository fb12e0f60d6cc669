"""`feedalign compare` and `tune` that were cut: what is done is not trained again, and what was under way goes on."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cut_runs import Cut
from killed_runs import killed
from lab_output import one_line, results_in
from made_data import made
from toy_task import ToyTask, ToyTrial

from feedalign_lab import comparison, cost, data, transfer
from feedalign_lab.checkpoints.keeper import ENDING
from feedalign_lab.cli import main
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.progress import TrainingProgress

pytestmark = pytest.mark.usefixtures("always_saving")

TOYS = ["compare", "--data", "toys", "--rules", "backprop,dfa", "--trials", "2"]
GRID = ["tune", "--data", "toys", "--rules", "backprop,dfa", "--rates", "0.5", "2", "--trials", "2"]
OF_THE_MACHINE = {"seconds", "environment", "cost"}
Epoch = tuple[str, float, int, int]


@pytest.fixture
def epochs(task: ToyTask, monkeypatch: pytest.MonkeyPatch) -> list[Epoch]:
    """The rule, rate, trial and number of every epoch that is trained."""
    trained: list[Epoch] = []
    honest = ToyTrial.train_epoch

    def train_epoch(trial: ToyTrial, number: int) -> float:
        spec: LearnerSpec = trial._spec
        trained.append((spec.rule, spec.learning_rate, spec.trial, number))
        return honest(trial, number)

    monkeypatch.setattr(ToyTrial, "train_epoch", train_epoch)
    return trained


def cut(command: list[str], task: ToyTask, epochs: list[Epoch], num_epochs: int, error: type[BaseException]) -> Any:
    """Have a command die as one more epoch than that is trained; what is in memory goes with it."""

    def die(what: str, share: float) -> None:
        if what == "half" and len(epochs) > num_epochs:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingProgress, "tell", lambda self, what, share: die(what, share))
        try:
            return main(command)
        except Cut:
            return None
        finally:
            epochs.clear()
            task.noted.clear()


def files_in(folder: Path) -> dict[str, Any]:
    """All but times; pictures have none."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in {"results.json", "tuning.json"} & set(found):
        found[name] = without_time(json.loads(found[name]))
    return found


def without_time(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            name: without_time(one) for name, one in content.items() if name not in {"seconds", "environment", "cost"}
        }
    return [without_time(one) for one in content] if isinstance(content, list) else content


@pytest.mark.parametrize("num_epochs", [0, 2, 3, 8, 9])
def test_a_comparison_goes_on_anywhere(num_epochs: int, tmp_path: Path, task: ToyTask, epochs: list[Epoch]) -> None:
    """Of 2 x 2 trials of 3 epochs: in the first epoch of one, between two, in any trial of any rule."""
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    assert main([*TOYS, "--out", str(whole)]) == 0
    all_epochs = epochs.copy()
    task.noted.clear()
    epochs.clear()
    cut([*TOYS, "--out", str(twice)], task, epochs, num_epochs, Cut)
    assert main([*TOYS, "--resume", str(twice)]) == 0
    assert epochs == all_epochs[num_epochs:]
    assert files_in(twice) == files_in(whole)


def test_ctrl_c_says_how_a_comparison_goes_on(
    tmp_path: Path, task: ToyTask, epochs: list[Epoch], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cut([*TOYS, "--out", str(tmp_path)], task, epochs, 4, KeyboardInterrupt) == 130
    error = one_line(capsys.readouterr().err)
    assert f"goes on with --resume {tmp_path}, from what was saved after epoch 1 of 3." in error
    assert main([*TOYS, "--out", str(tmp_path)]) == 2
    assert f"the same command with --resume {tmp_path}" in one_line(capsys.readouterr().err)
    assert main([*TOYS, "--resume", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert "1 trial is done already, and taken as it came out." in error
    assert f"going on from {tmp_path}/dfa-1{ENDING}, saved after epoch 1 of 3" in error
    assert results_in(tmp_path)["environment"]["resumed"] == "1 done before, dfa-1 after epoch 1 of 3"


def test_between_two_trials_ctrl_c_says_nothing_of_epochs(
    tmp_path: Path, task: ToyTask, epochs: list[Epoch], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cut([*GRID, "--out", str(tmp_path)], task, epochs, 3, KeyboardInterrupt) == 130
    assert one_line(capsys.readouterr().err).endswith(f"The same command goes on with --resume {tmp_path}.\n")


@pytest.mark.parametrize(("command", "name"), [(TOYS, "results.json"), (GRID, "tuning.json")])
def test_other_settings_are_refused_by_name(
    command: list[str],
    name: str,
    tmp_path: Path,
    task: ToyTask,
    epochs: list[Epoch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut([*command, "--out", str(tmp_path)], task, epochs, 7, Cut)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main([*command, "--seed", "1", "--resume", str(tmp_path)]) == 2
    error = one_line(capsys.readouterr().err)
    assert "seed: 0 there, 1 here" in error or "plans: " in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_other_commands_are_refused(command[0], tmp_path, capsys)
    assert epochs == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def assert_other_commands_are_refused(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With that fact alone, however many settings differ."""
    for other in {"train", "compare", "tune"} - {command}:
        assert main([other, "--data", "toys", "--epochs", "7", "--resume", str(folder)]) == 2
        assert one_line(capsys.readouterr().err) == (
            f"feedalign: {folder} is the folder of a run of `feedalign {command}`, and was left as it is: go on with "
            f"that command, or begin a run of `feedalign {other}` in a folder of its own, with --out in the place of "
            "--resume.\n"
        )


def test_a_training_of_the_same_plan_does_not_go_on_with_a_comparison(
    tmp_path: Path, task: ToyTask, epochs: list[Epoch], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TOYS, "--rules", "dfa", "--trials", "1"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    epochs.clear()
    cut([*command, "--out", str(tmp_path)], task, epochs, 1, Cut)
    capsys.readouterr()
    for folder in (tmp_path, tmp_path / "whole"):
        assert main(["train", "--data", "toys", "--rule", "dfa", "--resume", str(folder)]) == 2
        assert "a run of `feedalign compare`" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(("command", "name"), [(TOYS, "results.json"), (GRID, "tuning.json")])
def test_what_has_finished_is_told(
    command: list[str],
    name: str,
    tmp_path: Path,
    task: ToyTask,
    epochs: list[Epoch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, "--out", str(tmp_path)]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    epochs.clear()
    capsys.readouterr()
    assert main([*command, "--json", "--resume", str(tmp_path)]) == 0
    out, error = capsys.readouterr()
    assert out.encode() == before[name]
    assert "finished already, nothing to go on with" in one_line(error)
    assert main([*command, "--seed", "1", "--resume", str(tmp_path)]) == 2
    error = one_line(capsys.readouterr().err)
    assert "(seed: 0 there, 1 here)" in error
    assert "with --out in the place of --resume" in error
    assert_other_commands_are_refused(command[0], tmp_path, capsys)
    assert ({path.name: path.read_bytes() for path in tmp_path.iterdir()}, epochs) == (before, [])


def test_trials_that_diverged_are_done_too(
    tmp_path: Path, task: ToyTask, epochs: list[Epoch], capsys: pytest.CaptureFixture[str]
) -> None:
    task.diverged_at.add(("backprop", 2))
    cut([*TOYS, "--out", str(tmp_path)], task, epochs, 3, Cut)
    capsys.readouterr()
    assert main([*TOYS, "--resume", str(tmp_path)]) == 1
    assert ("backprop", 1.0, 0, 1) not in epochs
    assert capsys.readouterr().err.count("no longer finite at epoch 2") == 2
    assert main([*TOYS, "--resume", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert [line.partition(":")[0] for line in error.splitlines()] == ["feedalign"] * 3
    assert "feedalign: trial 2: backprop" in error


@pytest.mark.parametrize("num_epochs", [0, 3, 13])
def test_a_search_goes_on_anywhere(num_epochs: int, tmp_path: Path, task: ToyTask, epochs: list[Epoch]) -> None:
    """Of 2 x 2 candidates of 2 trials of 3 epochs."""
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    assert main([*GRID, "--out", str(whole)]) == 0
    all_epochs = epochs.copy()
    epochs.clear()
    cut([*GRID, "--out", str(twice)], task, epochs, num_epochs, Cut)
    assert main([*GRID, "--resume", str(twice)]) == 0
    assert epochs == all_epochs[num_epochs:]
    assert files_in(twice) == files_in(whole)
    resumed = json.loads((twice / "tuning.json").read_text())["environment"]["resumed"]
    assert resumed.partition(",")[0] == {
        0: "", 3: "1 done before", 13: "4 done before",
    }[num_epochs]  # fmt: skip


def test_transferred_convolutions_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in the second rule of the first trial, then in the second trial's convolutions, which all rules need."""
    monkeypatch.setattr(data, "load", lambda name, device="cpu", **_: made(name, 40))
    monkeypatch.setattr(cost, "_BUDGET_SECONDS", 0.01)
    run = ["compare", "--data", "mnist", "--network", "cnn-bn", "--rules", "dfa,shallow", "--trials", "2", "--transfer"]
    run += ["--epochs", "2", "--transfer-epochs", "2", "--batch-size", "20"]
    whole, cut_twice = tmp_path / "whole", tmp_path / "twice"
    assert main([*run, "--out", str(whole)]) == 0
    for number, module in ((2, comparison), (2, transfer)):
        with monkeypatch.context() as patch:
            cut_at(patch, module, number)
            with pytest.raises(Cut):
                main([*run, "--resume", str(cut_twice)])
    assert {path.name.partition(".")[0] for path in cut_twice.glob("*.feed*")} == {"dfa-1", "shallow-1"}
    trained: list[str] = []
    honest = transfer.run_trial
    monkeypatch.setattr(transfer, "run_trial", lambda *one: trained.append(one[1].rule) or honest(*one))
    assert main([*run, "--resume", str(cut_twice)]) == 0
    assert trained == ["backprop"]
    assert files_in(cut_twice) == files_in(whole)


def cut_at(patch: pytest.MonkeyPatch, module: Any, number: int) -> None:
    """The process dies as a module begins its n-th trial of those that have not begun before."""
    begun: list[int] = []
    honest = module.run_trial

    def run_trial(*arguments: Any) -> Any:
        begun.append(1)
        if len(begun) == number:
            raise Cut
        return honest(*arguments)

    patch.setattr(module, "run_trial", run_trial)


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch loaded")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--rules", "fdfa,fg-a", "--trials", "2", "--dropout", "0.1", "--network", "fc2-8"],
        ["tune", "--rules", "fdfa", "--rates", "0.001", "0.01", "--trials", "2", "--networks", "fc2-8"],
    ],
    ids=["compare", "tune"],
)
def test_four_kills(command: list[str], tmp_path: Path, task: ToyTask) -> None:
    """Of real networks, whose 4 x 2 x 2 or 4 x 2 x 3 steps are never all taken before the last kill."""
    moments, whole, folder = random.Random(0), tmp_path / "whole", tmp_path / "killed"
    folder.mkdir()
    size = ["--batch-sizes" if command[0] == "tune" else "--batch-size", "800"]
    run = [*command, "--epochs", "2", *size]
    assert main([*run, "--out", str(whole)]) == 0

    def train(step: Callable[..., None]) -> None:
        TrainingProgress.tell = step  # type: ignore[method-assign]
        main([*run, "--resume", str(folder)])

    for _ in range(4):
        assert killed(train, moments.randint(2, 3), moments)
    assert any(folder.glob(f"*{ENDING}"))
    assert main([*run, "--resume", str(folder)]) == 0
    assert files_in(folder) == files_in(whole)


def test_a_candidate_is_known_by_its_clipping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["tune", "--rules", "dfa", "--networks", "fc1-4", "--rates", "0.01", "--epochs", "1", "--trials", "1"]
    assert main([*run, "--clip", "1", "--out", str(tmp_path)]) == 0
    assert main([*run, "--clip", "2", "--resume", str(tmp_path)]) == 2
    assert "(clips: [1.0] there, [2.0] here)" in capsys.readouterr().err
    assert main([*run, "--clip", "1", "--resume", str(tmp_path)]) == 0
    assert "finished already" in capsys.readouterr().err
