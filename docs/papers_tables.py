"""Markdown tables of the papers: printed numbers beside those of the trials in docs/records/papers, with verdicts."""

from __future__ import annotations

from pathlib import Path

from feedalign_lab.papers.catalogue import all_papers, paper_named
from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.figures import read_drawing
from feedalign_lab.papers.forms import as_markdown_rows
from feedalign_lab.papers.printed import citation
from feedalign_lab.papers.rows import WHOLE, WORDS, TableRows, Totals, joined, read_rows
from feedalign_lab.papers.store import TrialStore
from tables import table

_HOLDS = {True: "yes", False: "no", None: "cannot be told"}


def render(part: str, folder: Path) -> str:
    """Render the records of all papers, or of one.

    Args:
        part: Empty for how many cells of each table have which verdict, the name of a paper for its tables, or
            "figures" for what was measured of the papers' claims on their figures.
        folder: Folder of the records, with a folder for each paper.

    Returns:
        Markdown.
    """
    if part == "figures":
        return _figures(folder)
    return _tables(paper_named(part), folder) if part else _summary(folder)


def _summary(folder: Path) -> str:
    """A line for each table that has trials on file, and a sentence for all."""
    found = [one for paper in all_papers() for one in _read(paper, folder)]
    recorded = [one for one in found if one.totals.num_recorded]
    head = ("paper", "table", "what it shows", "cells", "whole protocol", *WORDS)
    lines = [
        (one.paper.name, f"`{one.table.name}`", one.table.title, *map(str, _counts(one.totals))) for one in recorded
    ]
    shown = f"{table(head, lines)}\n\n" if lines else ""
    return f"{shown}{_sentence(found, recorded)}"


def _counts(totals: Totals) -> tuple[int, ...]:
    """The numbers of a line."""
    return (totals.num_cells, totals.num_whole, *(totals.counts[word] for word in WORDS))


def _sentence(found: list[TableRows], recorded: list[TableRows]) -> str:
    """All tables in words."""
    totals = joined(one.totals for one in found)
    if not recorded:
        return f"None of the {totals.num_cells} cells has trials on file."
    said = f"Trials are on file for {totals.num_recorded} of {totals.num_cells} cells, for {totals.num_whole} by the "
    said += "whole protocol (the paper's, or ours where it names no epochs or trials)."
    if totals.num_whole:
        share = 100 * totals.num_good / totals.num_whole
        said += f" Of these {totals.num_whole}, {totals.num_good} ({share:.0f} %) are reproduced or better, by a slack "
        said += "that grows with the spread of the trials and stands beside each."
        best = sum(
            row.cell.protocol.reading == "best" and row.verdict.word in WHOLE for one in recorded for row in one.rows
        )
        said += f" {best} of them are read at each trial's best epoch on the test part." if best else ""
    others = [f"{one.paper.name} `{one.table.name}`" for one in found if not one.totals.num_recorded]
    return said + (f" Not a cell has been run of {', '.join(others)}." if others else "")


def _tables(paper: Paper, folder: Path) -> str:
    """The cells of a paper that have trials on file, and how many have none."""
    parts = [citation(paper)]
    for found in _read(paper, folder):
        totals, rows = found.totals, [row for row in found.rows if row.trials]
        parts.append(f"**`{found.table.name}`**: {found.heading}. {totals.sentence}")
        if rows:
            parts += [as_markdown_rows(rows), "\n".join(f"* {note}" for note in found.table.notes)]
    return "\n\n".join(filter(None, parts))


def _figures(folder: Path) -> str:
    """What was measured of the statements on the figures that are on file."""
    lines = []
    for paper in all_papers():
        for path in sorted((folder / paper.name).glob("*.json")):
            drawing = read_drawing(path)
            label = drawing.label or "whole protocol"
            for check in drawing.checks:
                so_far = "" if check.holds is None else drawing.so_far
                holds = f"{_HOLDS[check.holds]}{so_far}"
                lines.append(
                    (paper.name, f"`{drawing.figure}`", check.claim, check.source, check.measured, label, holds)
                )
    head = ("paper", "figure", "statement", "whose", "measured", "run", "holds")
    return table(head, lines) if lines else "*Not recorded yet.*"


def _read(paper: Paper, folder: Path) -> list[TableRows]:
    """The tables of a paper with what is on file for them."""
    store = TrialStore(folder)
    return [read_rows(paper, one, store) for one in paper.tables]
