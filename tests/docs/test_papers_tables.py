"""Tables of the papers in README.md and docs/papers.md, from records made here and from those on file."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.catalogue import PAPER_NAMES, all_papers, paper_named
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.drawing import Check, Drawing
from feedalign_lab.papers.rows import read_rows
from feedalign_lab.papers.store import Curve, TrialRecord, TrialStore

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "records" / "papers"
NUM_CELLS = sum(len(table.cells) for paper in all_papers() for table in paper.tables)


@pytest.fixture
def papers_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield importlib.import_module("papers_tables")
    for name in ("papers_tables", "tables"):
        sys.modules.pop(name, None)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    before = set(sys.modules)
    yield importlib.import_module("render_blocks")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(ROOT / "docs")):
            sys.modules.pop(name)


def first_cell() -> Cell:
    return paper_named("drtp").table("table1").cells[0]


def record(cell: Cell, trial: int, error: float) -> TrialRecord:
    configuration = cell.configuration()
    column = (error,) * configuration["epochs"]
    return TrialRecord(
        "drtp", "table1", cell.name, configuration, trial, "finished", "", "error", Curve(column, column, column), {}
    )


def fill(folder: Path, num_trials: int) -> None:
    cell = first_cell()
    for trial in range(num_trials):
        TrialStore(folder).append(record(cell, trial, cell.published.mean))


def test_without_records_every_cell_is_not_run(papers_tables: ModuleType, tmp_path: Path) -> None:
    assert papers_tables.render("", tmp_path) == f"None of the {NUM_CELLS} cells has trials on file."
    assert papers_tables.render("figures", tmp_path) == "*Not recorded yet.*"


def test_the_summary_counts_the_verdicts_of_each_table(papers_tables: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path, first_cell().protocol.trials)
    text = papers_tables.render("", tmp_path)
    table = paper_named("drtp").table("table1")
    num = len(table.cells)
    assert f"| drtp | `table1` | {table.title} | {num} | 1 | 1 | 0 | 0 | 0 | {num - 1} |" in text
    assert f"Trials are on file for 1 of {NUM_CELLS} cells, for 1 by the whole protocol " in text
    assert "Of these 1, 1 (100 %) are reproduced or better, by a slack that grows" in text
    assert "rnn-dfa `table1`" in text


def test_a_reduced_protocol_is_labelled_and_counts_for_nothing(papers_tables: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path, 1)
    cell = first_cell()
    text = papers_tables.render("drtp", tmp_path)
    assert f"| {cell.name} |" in text
    assert f"| incomplete | 1 of {cell.protocol.trials} trials |" in text
    assert "reproduced or better" not in papers_tables.render("", tmp_path)


def test_a_paper_that_does_not_exist_is_refused(papers_tables: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="drtp"):
        papers_tables.render("drpt", tmp_path)


def test_claims_on_figures_are_listed(papers_tables: ModuleType, tmp_path: Path) -> None:
    checks = (Check("It falls.", "-1 | -2", False), Check("It rises.", "1", None, source="ours"))
    drawing = Drawing("fdfa", "fig6", "A title", "", "1 of 5 trials", (), checks)
    (tmp_path / "fdfa").mkdir()
    (tmp_path / "fdfa" / "fig6.json").write_text(drawing.to_json())
    text = papers_tables.render("figures", tmp_path)
    assert "| fdfa | `fig6` | It falls. | paper | -1 \\| -2 | 1 of 5 trials | no so far |" in text
    assert "| fdfa | `fig6` | It rises. | ours | 1 | 1 of 5 trials | cannot be told |" in text
    (tmp_path / "fdfa" / "fig6.json").write_text(replace(drawing, label="").to_json())
    text = papers_tables.render("figures", tmp_path)
    assert "| fdfa | `fig6` | It falls. | paper | -1 \\| -2 | whole protocol | no |" in text


def test_a_changed_record_changes_the_page(page: ModuleType, tmp_path: Path) -> None:
    text = "<!-- numbers:papers -->\n<!-- /numbers -->\n"
    before = page.render(text, tmp_path)
    assert page.render(before, tmp_path) == before
    fill(tmp_path / "papers", 1)
    assert page.render(before, tmp_path) != before


def test_the_pages_have_all_papers(page: ModuleType) -> None:
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    for part in ("", *(f"#{name}" for name in PAPER_NAMES), "#figures"):
        assert f"<!-- numbers:papers{part} -->" in text


@pytest.mark.parametrize("name", PAPER_NAMES)
def test_every_record_on_file_can_be_read_and_belongs_to_a_cell(name: str) -> None:
    paper = paper_named(name)
    store = TrialStore(RECORDS)
    found = [read_rows(paper, table, store) for table in paper.tables]
    assert [problem for one in found for problem in one.problems] == []
    assert [row.cell.name for one in found for row in one.rows if row.verdict.num_foreign] == []
