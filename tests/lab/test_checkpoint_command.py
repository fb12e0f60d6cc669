"""`feedalign train` that was cut: what --resume goes on from, what it refuses, and what lies in the folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_runs import Cut, assert_equal
from filelock import FileLock
from lab_output import one_line, results_in
from made_data import made

from feedalign_lab import data, tensors, training
from feedalign_lab.checkpoints import file
from feedalign_lab.cli import main
from feedalign_lab.results import ResultsFolder

pytestmark = pytest.mark.usefixtures("always_saving", "rough_pictures")

RUN = ["train", "--network", "fc2-8", "--rule", "fdfa", "--dropout", "0.1", "--epochs", "3", "--batch-size", "500"]
CUT_AT = 2


def cut(monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = Cut, at: int = CUT_AT) -> None:
    """The process dies, or is told to end, when the trial is measured after an epoch."""
    measured: list[int] = []
    honest = tensors.measure_test_error

    def measure(*arguments: Any) -> float:
        measured.append(1)
        if len(measured) == at:
            raise error
        return honest(*arguments)

    monkeypatch.setattr(tensors, "measure_test_error", measure)


def cut_run(folder: Path, monkeypatch: pytest.MonkeyPatch, run: list[str] = RUN, at: int = CUT_AT) -> None:
    with monkeypatch.context() as patch:
        cut(patch, at=at)
        with pytest.raises(Cut):
            main([*run, "--out", str(folder)])


def without_time(folder: Path) -> dict[str, Any]:
    results = results_in(folder)
    results.pop("environment")
    for summary in results["summary"]:
        summary.pop("seconds")
    for trial in [*results["trials"], *results["features"]]:
        for epoch in trial["epochs"]:
            epoch.pop("seconds")
    return results


def assert_same_files(one: Path, other: Path) -> None:
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    assert without_time(one) == without_time(other)
    assert_equal(torch.load(one / "weights.pt"), torch.load(other / "weights.pt"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    main([*RUN, "--out", str(folder)])
    return folder


def test_a_run_that_was_cut_goes_on(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_run(tmp_path, monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "training.feedalign-checkpoint",
        "training.feedalign-checkpoint.before",
    ]
    capsys.readouterr()
    assert main([*RUN, "--resume", str(tmp_path)]) == 0
    assert "going on from" in capsys.readouterr().err
    assert_same_files(tmp_path, undisturbed)
    assert results_in(tmp_path)["environment"]["resumed"] == "training in epoch 2 of 3"
    assert results_in(undisturbed)["environment"]["resumed"] == ""


def test_the_same_command_again_writes_over_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_run(tmp_path, monkeypatch)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    for command in ("train", "compare"):
        assert main([command, *RUN[1:3], "--out", str(tmp_path)]) == 2
        assert f"--resume {tmp_path}" in one_line(capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_begins_anew(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_run(tmp_path, monkeypatch)
    assert main([*RUN, "--out", str(tmp_path), "--overwrite"]) == 0
    assert results_in(tmp_path)["environment"]["resumed"] == ""
    assert_same_files(tmp_path, undisturbed)


def test_overwriting_leaves_what_is_not_ours(tmp_path: Path) -> None:
    ours = tmp_path / "training.feedalign-checkpoint.before"
    theirs = [tmp_path / "model.checkpoint", tmp_path / "model.pt"]
    for path in (ours, *theirs):
        path.write_text("")
    ResultsFolder.open(tmp_path, overwrite=True)
    assert sorted(tmp_path.iterdir()) == theirs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--rule", "dfa"], 'rules: ["fdfa"] there, ["dfa"] here'),
        (["--epochs", "4"], "schedule.epochs: 3 there, 4 here"),
        (["--seed", "1"], "seed: 0 there, 1 here"),
    ],
)
def test_other_settings_are_refused_by_name(
    change: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut_run(tmp_path, monkeypatch)
    capsys.readouterr()
    options = dict(zip(RUN[1::2], RUN[2::2], strict=True)) | {change[0]: change[1]}
    assert main(["train", *(text for pair in options.items() for text in pair), "--resume", str(tmp_path)]) == 2
    assert words in one_line(capsys.readouterr().err)
    assert (tmp_path / "training.feedalign-checkpoint").exists()


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        cut(patch, KeyboardInterrupt)
        assert main([*RUN, "--out", str(tmp_path)]) == 130
    assert f"goes on with --resume {tmp_path}, from what was saved in epoch 2 of 3." in one_line(
        capsys.readouterr().err
    )
    assert results_in(tmp_path)["status"] == "interrupted"
    assert main([*RUN, "--resume", str(tmp_path)]) == 0
    assert_same_files(tmp_path, undisturbed)


def test_a_finished_run_is_left_as_it_is(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    assert main([*RUN, "--resume", str(undisturbed)]) == 0
    assert "finished already, nothing to go on with" in one_line(capsys.readouterr().err)
    assert main([*RUN, "--seed", "1", "--epochs", "4", "--lr", "0.5", "--resume", str(undisturbed)]) == 2
    error = one_line(capsys.readouterr().err)
    differences = "schedule.epochs: 3 there, 4 here; learning_rate: null there, 0.5 here; seed: 0 there, 1 here"
    assert f"other settings ({differences})" in error
    assert "with --out in the place of --resume" in error
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == before


def test_a_run_that_diverged_says_so_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [*RUN, "--lr", "1e38"]
    assert main([*run, "--out", str(tmp_path)]) == 1
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("feedalign: trial 1: fdfa")]
    assert main([*run, "--resume", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "finished already, nothing to go on with" in error
    assert told == error.splitlines()[1:]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_of_a_finished_run_are_printed_again(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([*RUN, "--json", "--resume", str(undisturbed)]) == 0
    assert capsys.readouterr().out == (undisturbed / "results.json").read_text()


@pytest.mark.parametrize("trials", [None, 3, [{}], [{"status": "diverged"}], {"status": "diverged"}])
def test_finished_results_that_were_damaged_raise_nothing(trials: Any, tmp_path: Path, undisturbed: Path) -> None:
    results = {**results_in(undisturbed), "trials": trials}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main([*RUN, "--resume", str(tmp_path)]) == (1 if trials == [{"status": "diverged"}] else 0)


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_interrupted_before_the_first_checkpoint_begins_anew(
    status: str, tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand, or so suddenly that the results still say that it runs."""
    results = (undisturbed / "results.json").read_text()
    (tmp_path / "results.json").write_text(results.replace('"status": "finished"', f'"status": "{status}"', 1))
    assert main([*RUN, "--seed", "1", "--resume", str(tmp_path)]) == 2
    assert "they were left as they are" in one_line(capsys.readouterr().err)
    assert main([*RUN, "--resume", str(tmp_path)]) == 0
    assert_same_files(tmp_path, undisturbed)


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / ".feedalign-lock"):
        for option in ("--resume", "--out"):
            assert main([*RUN, option, str(tmp_path)]) == 2
            assert f"Another process trains in {tmp_path}" in one_line(capsys.readouterr().err)


def test_an_unwritable_folder_is_told_with_advice_that_can_be_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([*RUN, "--resume", str(tmp_path / "file" / "run")]) == 2
    assert "make it writable, or begin anew elsewhere with --out" in one_line(capsys.readouterr().err)


def test_two_damaged_checkpoints_begin_anew(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_run(tmp_path, monkeypatch)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    capsys.readouterr()
    assert main([*RUN, "--resume", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert error.count("is damaged") == 2
    assert "begins anew" in error
    assert results_in(tmp_path)["environment"]["resumed"].startswith("training anew, since no checkpoint")
    assert_same_files(tmp_path, undisturbed)


def test_a_folder_without_checkpoints_begins_anew(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before the first one was due: whoever resumes need not look whether there was time for it."""
    folder = tmp_path / "not there yet"
    assert main([*RUN, "--resume", str(folder)]) == 0
    assert "holds no checkpoint yet" in capsys.readouterr().err
    assert_same_files(folder, undisturbed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume", ".", "--overwrite"], "leave one of them out"),
        (["--resume", ".", "--out", "elsewhere"], "leave --out out"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, *options]) == 2
    assert words in one_line(capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_refused_beside_that_of_a_finished_run(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--resume", str(undisturbed), "--out", str(tmp_path / "other")]) == 2
    assert f"goes on in its own folder, {undisturbed}: leave --out out" in one_line(capsys.readouterr().err)
    assert main([*RUN, "--resume", str(undisturbed), "--out", f"{undisturbed}/."]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "compare", "tune", "language"])
def test_a_file_is_no_folder_to_go_on_in(command: str, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = undisturbed / "results.json"
    assert main([command, "--resume", str(path)]) == 2
    error = one_line(capsys.readouterr().err)
    assert f"{path} is a file, and --resume expects the folder" in error
    assert f"lies in {undisturbed}." in error


def test_transferred_convolutions_go_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut among the convolutions, then in the classifier that is trained on them."""
    monkeypatch.setattr(data, "load", lambda name, device="cpu", **_: made(name, 40))
    run = ["train", "--data", "mnist", "--network", "cnn-bn", "--rule", "dfa", "--transfer", "--epochs", "2"]
    run += ["--batch-size", "20"]
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    assert main([*run, "--out", str(whole)]) == 0
    cut_run(twice, monkeypatch, run, at=2)
    assert {path.name.partition(".")[0] for path in twice.iterdir()} == {"convolutions"}
    with monkeypatch.context() as again:
        cut(again, at=3)
        with pytest.raises(Cut):
            main([*run, "--resume", str(twice)])
    assert {path.name.partition(".")[0] for path in twice.iterdir()} == {"convolutions", "training"}
    assert main([*run, "--resume", str(twice)]) == 0
    assert_same_files(twice, whole)


def test_a_disk_that_is_full_costs_no_training(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file.os, "fsync", full)
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert_same_files(tmp_path, undisturbed)


def test_a_short_run_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    written: list[Path] = []
    monkeypatch.setattr(training.Checkpoints, "save", lambda *_: written.append(tmp_path))
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert written == []
