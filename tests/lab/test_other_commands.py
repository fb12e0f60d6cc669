"""The commands beside compare, and the help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab_output import TINY, one_line, results_in

import feedalign as fa
from feedalign_lab.cli import main
from feedalign_lab.data import load
from feedalign_lab.models import build_network
from feedalign_lab.report import rules_table
from feedalign_lab.seeding import stream_seed


def test_train_saves_weights_of_the_plain_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--rule", "drtp", "--out", str(tmp_path), *TINY]) == 0
    network = build_network("fc2-8", load("digits"), seed=stream_seed(9, 9, "weights"))
    network.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    digits = load("digits")
    with torch.no_grad():
        wrong = network(digits.x_test).argmax(1) != digits.y_test
    error = results_in(tmp_path)["summary"][0]["test_score"]["mean"]
    assert 100 * float(wrong.float().mean()) == pytest.approx(error)
    assert f"wrote {tmp_path / 'weights.pt'}" in capsys.readouterr().out


def test_train_takes_one_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--rule", "fa,dfa", "--out", str(tmp_path)]) == 2
    assert "single rule" in one_line(capsys.readouterr().err)


def test_rules_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules"]) == 0
    table = capsys.readouterr().out
    assert main(["rules", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts) == len(fa.ALL_RULES)
    assert all(fact["name"] in table and fact["summary"] and fact["paper"] for fact in facts)
    by_name = {fact["name"]: fact for fact in facts}
    assert by_name["backprop"]["weight_transport"]
    assert not by_name["drtp"]["update_locked"]


def test_describe_shows_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--rule", "dfa", "--network", "fc2-8"]) == 0
    text = capsys.readouterr().out
    assert "fc1" in text
    assert "[10, 8]" in text
    assert main(["describe", "--rule", "dfa", "--network", "fc2-8", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["layer"] for row in rows] == ["fc1", "fc2", "fc3"]
    assert rows[0]["fired"]


def test_describe_unknown_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--rule", "dffa"]) == 2
    assert "Did you mean" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("command", ["compare", "train", "tune", "describe", "monitor runs/1", "rules"])
def test_help_teaches_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command.split()[0], "--help"]) == 0
    assert f"feedalign {command} --" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"feedalign {fa.__version__}\n"


def test_mistyped_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compar", "--rules", "fa"]) == 2
    out, err = capsys.readouterr()
    assert "no command called 'compar'. Did you mean compare" in one_line(err)
    assert out == ""


@pytest.mark.parametrize("arguments", [["rules"], ["rules", "--json"], ["compare", "--help"]])
def test_reader_that_leaves_early(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "feedalign_lab.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_columns_are_called_what_the_documentation_calls_them(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tables.py").read_text(encoding="utf-8")
    for heading in [str(column.header).replace("\n", " ") for column in rules_table().columns]:
        assert f'"{heading}"' in page


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from feedalign_lab.cli import main; status = main(['compare', '--help']); "
        "sys.exit(status or ('torch' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_without_the_lab_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["rules"]) == 2
    assert "feedalign[lab]" in one_line(capsys.readouterr().err)
