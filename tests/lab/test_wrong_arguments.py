"""What `feedalign compare` says of arguments and data that cannot be used: one sentence, and status 2."""

import subprocess
import sys
from pathlib import Path

import pytest
from lab_output import one_line

from feedalign_lab.cli import main
from feedalign_lab.errors import UnknownNameError


def test_of_many_names_the_first_are_told() -> None:
    names = [f"cell-{number}" for number in range(60)]
    told = str(UnknownNameError("cell", "cell_59", names))
    assert "Did you mean cell-59" in told
    assert told.endswith("cell-38, cell-39, and 20 more.")
    assert str(UnknownNameError("cell", "x", names[:41])).endswith("cell-39, cell-40.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_the_output_is_told_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "feedalign_lab.cli", "papers", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "feedalign: the output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digit"], "no data set called 'digit'. Did you mean digits? The valid names are: digits, mnist"),
        (["--network", "fc1500"], "no network called 'fc1500'. Did you mean"),
        (["--rules", "dfa,ddfa"], "no rule called 'ddfa'. Did you mean dfa"),
        (["--rules", ","], "No rule is named"),
        (["--network", "conv"], "choose a network such as fc1-500"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--batch-size", "-3"], "batch size must be at least 1"),
        (["--trials", "0"], "trials must be at least 1"),
        (["--lr", "0"], "learning rate must be above 0"),
        (["--lr", "nan"], "learning rate must be above 0"),
        (["--dropout", "1"], "dropout must be at least 0 and below 1"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--device", "toaster"], "device 'toaster' cannot be used"),
        (["--flip"], "nothing to flip"),
        (["--lr-decay", "1.5"], "decay of the learning rate must be above 0 and at most 1"),
        (["--rules", "dfa,backprop", "--feedback-lr", "0.1"], "of dfa, backprop none learns feedback"),
        (["--feedback-lr", "-1"], "feedback's learning rate must be above 0"),
        (["--inputs", "symmetrical"], "no scaling of the inputs called 'symmetrical'. Did you mean symmetric?"),
        (["--data", "synthetic-classification", "--inputs", "symmetric"], "are no pixels"),
        (["--network", "mlp2-8", "--rules", "drtp"], "drtp needs hidden units that saturate"),
        (["--network", "cnn"], "choose a network such as mlp2-800"),
        (["--network", "gru-8"], "The network gru-8 reads series step by step, and digits has none"),
        (["--network", "gru-beforehand-8"], "no network called 'gru-beforehand-8'. Did you mean gru-before-512"),
        (["--data", "mackey-glass", "--network", "fc1-8"], "choose a recurrent one such as gru-50"),
        (["--data", "mackey-glass", "--flip"], "nothing to flip"),
        (["--data", "mackey-glass", "--inputs", "symmetric"], "are no pixels"),
        (["--data", "ecg2000"], "Did you mean ecg200?"),
        (["--gamma", "0.5"], "leave --gamma out, or take --data mackey-glass"),
        (["--data", "mackey-glass", "--gamma", "0.5", "--rules", "backprop,fa"], "a rule such as dfa"),
        (["--data", "mackey-glass", "--gamma", "1.5"], "must lie from 0 to 1, not 1.5"),
        (["--angles-every", "0"], "at least 1 epoch between two measurements"),
        (["--clip", "0"], "norm to clip at must be above 0"),
        (["--clip", "nan"], "norm to clip at must be above 0"),
        (["--network", "mlp2-8-bn", "--batch-size", "48"], "would hold a single one: choose another batch size"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", "--out", str(tmp_path / "out"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in one_line(err)
    assert out == ""
    assert not (tmp_path / "out" / "results.json").exists()


def test_arguments_that_do_not_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--epochs", "many"]) == 2
    assert main(["--nonsense"]) == 2
    assert capsys.readouterr().out == ""


def test_missing_data_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    monkeypatch.setattr("feedalign_lab.data.location.cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", no_network)
    assert main(["compare", "--data", "mnist", "--out", str(tmp_path / "out")]) == 2
    err = one_line(capsys.readouterr().err)
    assert "FEEDALIGN_DATA" in err
    assert "https://" in err
    assert not (tmp_path / "out").exists()
