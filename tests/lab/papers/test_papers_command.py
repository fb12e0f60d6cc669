"""`feedalign papers` from the command line, on the papers' own cells."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from feedalign_lab.cli import main
from feedalign_lab.papers.figures import Figure

Call = Callable[..., tuple[int, str, str]]
# Two hundred short series: an epoch takes a fraction of a second.
CELL = "ecg200/rnn-50/dfa"
needs_files = pytest.mark.skipif("FEEDALIGN_DATA" not in os.environ, reason="FEEDALIGN_DATA is not set")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["papers", *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def run_cell(call: Call, *more: str) -> tuple[int, str, str]:
    return call("run", "rnn-dfa", "table1", "--cells", CELL, "--trials", "2", "--epochs", "1", *more)


def test_the_list_names_every_paper_and_table(call: Call) -> None:
    status, out, err = call("list")
    assert (status, err) == (0, "")
    for name in ("drtp", "dirdfa", "fdfa", "dfa-scales", "rnn-dfa", "fig3-errors", "b6"):
        assert name in out
    as_json = json.loads(call("list", "--json")[1])
    assert as_json


def test_a_table_is_shown_without_training(call: Call, tmp_path: Path) -> None:
    status, out, _ = call("show", "drtp", "table1", "--cells", "fc1-500/dfa/*")
    assert status == 0
    assert "fc1-500/dfa/dropout-0.25" in out
    assert "fc2-500" not in out
    assert list(tmp_path.iterdir()) == []


@needs_files
def test_a_run_puts_trials_on_file_and_labels_them_as_reduced(call: Call, tmp_path: Path) -> None:
    status, out, _ = run_cell(call)
    path = tmp_path / "results" / "papers" / "rnn-dfa" / "table1.jsonl"
    assert status == 0
    assert f"{CELL}, trial 2: error" in out
    assert "2 trials put on file" in out
    assert "1 of 500 epochs, 2 of 5 trials" in out
    assert "each trial at its best epoch on the test part" in out
    assert len(path.read_text().splitlines()) == 2
    assert "0 trials put on file" in run_cell(call)[1]
    assert len(path.read_text().splitlines()) == 2


@needs_files
def test_records_that_were_run_are_in_the_table_in_every_form(call: Call) -> None:
    run_cell(call)
    assert "1 of 500 epochs" in call("table", "rnn-dfa", "table1")[1]
    rows = list(csv.DictReader(io.StringIO(call("table", "rnn-dfa", "table1", "--format", "csv")[1])))
    (row,) = [row for row in rows if row["cell"] == CELL]
    assert (row["verdict"], row["trials"], row["epochs"]) == ("incomplete", "2", "1")
    assert call("table", "rnn-dfa", "table1", "--format", "markdown")[1].count("|") > 50
    assert json.loads(call("table", "rnn-dfa", "table1", "--format", "json")[1])


@needs_files
def test_damaged_records_are_named_and_do_not_stop_anything(call: Call, tmp_path: Path) -> None:
    run_cell(call)
    path = tmp_path / "results" / "papers" / "rnn-dfa" / "table1.jsonl"
    path.write_text("{broken\n" + path.read_text() + '{"format": 99}\n')
    status, out, err = call("table", "rnn-dfa", "table1", "--cells", CELL)
    assert status == 0
    told = " ".join((out + err).split())
    assert "line 1" in told
    assert "newer feedalign" in told
    assert "0 trials put on file" in run_cell(call)[1]


def test_the_report_is_one_page(call: Call, tmp_path: Path) -> None:
    run_cell(call)
    status, out, _ = call("report", "--out", "page.html")
    assert (status, out) == (0, "wrote page.html\n")
    assert CELL in (tmp_path / "page.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text("precious")
    status, out, err = call("report", "--out", "page.html")
    assert (status, out) == (2, "")
    assert "page.html exists already and was left as it is: " in err
    assert "--overwrite" in err
    assert (tmp_path / "page.html").read_text() == "precious"
    assert call("report", "--out", "page.html", "--overwrite")[0] == 0
    assert CELL in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("taken", ["theorem.png", "theorem.json"])
def test_a_figure_replaces_nothing_unasked(
    taken: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that was named; those beside the records are drawn from them anew."""

    def made(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "run", made)
    (tmp_path / taken).write_text("precious")
    status, out, err = call("run", "drtp", "theorem", "--out", ".")
    assert (status, out) == (2, "")
    assert f"{taken} exists already and was left as it is: " in err
    assert (tmp_path / taken).read_text() == "precious"
    for arguments in (("--out", ".", "--overwrite"), ("--out", "elsewhere"), ()):
        assert call("run", "drtp", "theorem", *arguments)[0] == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "drpt", "table1"), "Did you mean drtp"),
        (("table", "drtp", "tabel1"), "Did you mean table1"),
        (("run", "drtp", "fig33"), "Did you mean fig3"),
        (("run", "drtp", "table1", "--cells", "fc1-50/*"), "There is no cell of table1"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--epochs", "0"), "at least 1"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--trials", "0"), "at least 1"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--stacked", "0"), "at least 1"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--jobs", "0"), "at least 1"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--launcher", "slrum"), "Did you mean slurm"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--device", "cuda:99"), "cannot be used here"),
        (("table", "drtp", "table1", "--format", "html"), "There is no"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--epochs", "501"), "give at most 500, not 501"),
        (("run", "rnn-dfa", "table1", "--cells", CELL, "--trials", "6"), "give at most 5, not 6"),
        (("table", "drtp", "table1", "--records", "nowhere"), "no folder nowhere"),
        (("list", "--records", "nowhere"), "no folder nowhere"),
        (("report", "--records", "nowhere"), "no folder nowhere"),
        (("show", "fdfa", "fig5"), "feedalign papers run fdfa fig5"),
        (("table", "fdfa", "fig5"), "is a figure"),
        (("run", "drtp", "theorem", "--cells", "x"), "--cells means nothing"),
        (("run", "drtp", "theorem", "--jobs", "2"), "--jobs means nothing"),
        (
            ("run", "rnn-dfa", "table1", "--cells", CELL, "--out", "x", "--overwrite"),
            "--out, --overwrite means nothing",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.startswith("feedalign: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_another_command_trains_is_told(call: Call) -> None:
    status, _, err = call("run", "dfa-scales", "table5")
    assert status == 1
    assert "feedalign language" in err


def test_a_cell_without_its_data_is_told(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    status, out, err = call("run", "dfa-scales", "table2", "--cells", "*fm/dfa/auc", "--trials", "1", "--epochs", "1")
    assert status == 1
    assert "0 trials put on file" in out
    assert "train.txt" in err


def test_records_that_cannot_be_written_are_told(call: Call, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    status, _, err = run_cell(call, "--records", "taken")
    assert status == 2
    assert "--records" in err
