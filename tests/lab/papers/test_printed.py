"""Papers, tables and verdicts as text."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_papers import cell, paper, record
from rich.console import Console

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.cells import Cell, Paper, Published, Table
from feedalign_lab.papers.figures.drawing import Check, Drawing
from feedalign_lab.papers.printed import print_figure, print_list, print_show, print_table
from feedalign_lab.papers.store import TrialStore

HOSTILE = "[red]x[/red] | <b>*y*</b>\x1b[31m"


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def filled(folder: Path, *cells: Cell, value: float = 10.0) -> TrialStore:
    store = TrialStore(folder)
    for one in cells:
        for trial in range(2):
            store.append(record(one, trial, test=(50.0, 40.0, value + trial / 8)))
    return store


def table_of(made: Paper, store: TrialStore, form: str = "text", patterns: tuple[str, ...] = ()) -> str:
    to = console()
    print_table(made, made.tables[0], store, to, patterns, form=form)
    return text_of(to)


def test_a_table_shows_numbers_and_verdicts(tmp_path: Path) -> None:
    one, other = cell(published=Published(10.0, 0.25, 5)), cell("fc1-8/bp", rule="backprop")
    text = table_of(paper(one, other), filled(tmp_path, one))
    assert "made table1: A table (%)" in text
    line = next(line for line in text.splitlines() if "fc1-8/dfa" in line)
    assert [part.strip() for part in line.strip("│").split("│")] == [
        "fc1-8/dfa", "10.00 ± 0.25", "10.06 ± 0.09", "2", "+0.06", "0.50", "reproduced", "",
    ]  # fmt: skip
    assert "2 cells: 1 reproduced, 1 not run." in text
    assert f"Trials are those in {tmp_path / 'made' / 'table1.jsonl'}." in text
    empty = table_of(paper(one), TrialStore(tmp_path / "empty"))
    assert "There are no trials in" in empty
    assert "--records" in empty


def test_a_table_in_a_file_is_as_wide_as_it_needs_to_be(tmp_path: Path) -> None:
    narrow = Console(file=io.StringIO(), width=40)
    made = paper(cell("a-long-name-of-a-cell/with/many/parts"))
    print_table(made, made.tables[0], TrialStore(tmp_path), narrow)
    assert "a-long-name-of-a-cell/with/many/parts" in text_of(narrow)


def test_what_was_measured_of_a_figure() -> None:
    checks = (
        Check("A falls", "1 to 0", True),
        Check("B [i]rises[/i]", "0 to 0", False, source="ours"),
        Check("C", "too few trials", None),
    )
    made = Drawing("made", "fig1", "A figure", "What it shows.", "1 of 5 epochs", (), checks)
    to = console()
    print_figure(made, to)
    rows = [[part.strip() for part in line.strip("│").split("│")] for line in text_of(to).splitlines() if "│" in line]
    assert rows == [
        ["A falls", "the paper's", "1 to 0", "yes"],
        ["B [i]rises[/i]", "ours", "0 to 0", "no"],
        ["C", "the paper's", "too few trials", "cannot be told"],
    ]
    assert "Run with 1 of 5 epochs: no reproduction." in text_of(to)


def test_what_was_left_out_is_named(tmp_path: Path) -> None:
    one = cell()
    store = filled(tmp_path, one)
    with store.path("made", "table1").open("a") as file:
        file.write("not a record\n")
    text = table_of(paper(one), store)
    assert "left out: " in text
    assert "line 3: no whole record" in text


def test_notes_stand_below_the_table(tmp_path: Path) -> None:
    made = Paper("made", "A. Author", 2020, "A title", (Table("table1", "A table", "%", (cell(),), ("A note.",)),))
    assert "A note." in table_of(made, TrialStore(tmp_path))


def test_cells_can_be_chosen(tmp_path: Path) -> None:
    text = table_of(paper(cell("a/x"), cell("b/x")), TrialStore(tmp_path), patterns=("a/*",))
    assert "a/x" in text
    assert "b/x" not in text
    assert "1 cell, none run yet." in text


def test_csv_has_the_numbers_unrounded(tmp_path: Path) -> None:
    one, other = cell(published=Published(10.0, 0.25, 5)), cell("fc1-8/bp", rule="backprop", needs="x, y")
    first, second = csv.DictReader(io.StringIO(table_of(paper(one, other), filled(tmp_path, one), "csv")))
    assert (first["paper"], first["table"], first["cell"]) == ("made", "table1", "fc1-8/dfa")
    assert (float(first["ours"]), float(first["gap"])) == (10.0625, 0.0625)
    assert (first["trials"], first["epochs"], first["verdict"]) == ("2", "3", "reproduced")
    assert (second["ours"], second["gap"], second["published_std"], second["trials"]) == ("", "", "", "0")
    assert second["note"] == "needs x, y"


def test_json_has_null_for_what_is_not_known(tmp_path: Path) -> None:
    one, other = cell(), cell("fc1-8/bp", rule="backprop")
    found = json.loads(table_of(paper(one, other), filled(tmp_path, one), "json"))
    assert found["problems"] == []
    assert found["rows"][0]["ours"] == 10.0625
    assert found["rows"][1]["ours"] is None


def test_markdown_is_a_table(tmp_path: Path) -> None:
    one = cell()
    lines = table_of(paper(one), filled(tmp_path, one), "markdown").splitlines()
    assert lines[0] == "| cell | published | ours | n | gap | slack | verdict | note |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |"
    assert lines[2] == "| fc1-8/dfa | 10.0 | 10.1 ± 0.1 | 2 | +0.1 | 0.5 | reproduced |  |"
    assert all(line.count("|") == 9 for line in lines[:3])


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="markdown"):
        table_of(paper(cell()), TrialStore(tmp_path), "markdwon")


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "json"])
def test_nothing_in_a_name_is_markup(tmp_path: Path, form: str) -> None:
    text = table_of(paper(cell(HOSTILE)), TrialStore(tmp_path), form)
    assert "[red]x[/red]" in text
    if form != "csv":
        assert "\x1b" not in text
    if form == "markdown":
        assert "&lt;b&gt;" in text
        assert "x[/red] \\| " in text


def test_the_list_counts_verdicts_by_table(tmp_path: Path) -> None:
    one, other = cell(), cell("fc1-8/bp", rule="backprop")
    to = console()
    print_list([paper(one, other)], filled(tmp_path, one), to)
    line = next(line for line in text_of(to).splitlines() if "table1" in line)
    parts = [part.strip() for part in line.strip("│").split("│")]
    assert parts == ["made", "table1", "A table (%)", "2", "1", "", "", "", "1"]


def test_the_list_is_there_for_programs(tmp_path: Path) -> None:
    to = console()
    print_list([paper(cell())], TrialStore(tmp_path), to, as_json=True)
    (table,) = json.loads(text_of(to))["tables"]
    assert json.loads(text_of(to))["figures"] == []
    assert (table["paper"], table["table"], table["cells"], table["verdicts"]["not run"]) == ("made", "table1", 1, 1)


def test_figures_are_listed_too(tmp_path: Path) -> None:
    figures = [SimpleNamespace(paper="made", name="fig2", title="A figure")]
    print_list([paper(cell())], TrialStore(tmp_path), to := console(), figures=figures)
    assert "fig2" in text_of(to)
    assert "A figure" in text_of(to)
    print_list([paper(cell())], TrialStore(tmp_path), to := console(), figures=figures, as_json=True)
    assert json.loads(text_of(to))["figures"] == [
        {"paper": "made", "figure": "fig2", "title": "A figure", "on_file": False}
    ]
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "fig2.json").write_text("{}")
    print_list([paper(cell())], TrialStore(tmp_path), to := console(), figures=figures, as_json=True)
    assert json.loads(text_of(to))["figures"][0]["on_file"]


def test_a_table_is_shown_with_how_it_is_trained() -> None:
    to = console()
    made = paper(cell(), cell("b", rule="backprop", needs="PubMed"), cell("c", elsewhere="feedalign language"))
    print_show(made, made.tables[0], to)
    lines = text_of(to).splitlines()
    rows = {name: next(line for line in lines if f"│ {name} " in line) for name in ("fc1-8/dfa", "b", "c")}
    assert [part.strip() for part in rows["fc1-8/dfa"].strip("│").split("│")] == [
        "fc1-8/dfa", "dfa", "0.005", "32", "", "",
    ]  # fmt: skip
    assert "PubMed" in rows["b"]
    assert [part.strip() for part in rows["c"].split("│")][3:5] == ["–", "–"]
    assert "feedalign language" in rows["c"]
    for_all = next(line for line in lines if line.startswith("For all of them "))
    assert "data: digits; network: fc1-8; published: 10.0; tolerance: 0.5; epochs: 3; trials: 2" in for_all
    assert "read at: the last epoch" in for_all


def test_some_cells_are_shown() -> None:
    made = paper(cell(), cell("b"))
    print_show(made, made.tables[0], to := console(), ["b"])
    assert "fc1-8/dfa" not in text_of(to)
    print_show(made, Table("table0", "Nothing", "", ()), to := console())
    assert "Nothing" in text_of(to)


def test_a_paper_is_shown_with_its_tables() -> None:
    to = console()
    print_show(paper(cell()), None, to)
    assert "A. Author (2020). A title." in text_of(to)
    assert "table1" in text_of(to)
