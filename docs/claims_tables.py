"""The claims of the five papers: what stands in claims.toml, checked, and as tables.

Each claim has a verdict and what bears it out. Numbers are never typed: a claim names a record, or what `feedalign
papers run` left on file of a figure or of cells, and what is to hold in it, and the page shows the numbers found there.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from feedalign_lab.papers.catalogue import paper_named
from feedalign_lab.papers.cells import better_of
from feedalign_lab.papers.figures import read_drawing
from feedalign_lab.papers.figures.drawing import Check, Drawing
from feedalign_lab.papers.rows import WHOLE, Row, TableRows, read_rows
from feedalign_lab.papers.store import TrialStore
from tables import Record, counted, heading, read, table

Verdict = Literal["shown", "not shown", "contradicted", "not testable here", "to run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NUM_CLAIMS = 98
SECTIONS: Mapping[str, range] = {
    "rules": range(1, 32),
    "models": range(32, 43),
    "training": range(43, 50),
    "data": range(50, 57),
    "measurements": range(57, 73),
    "findings": range(73, 99),
}
"""What each part of the page is about: the numbers of its claims."""

_PAGES, _TESTS = "docs/", "tests/"
_BREAK = "<br>"
_PAPERS = "papers"
_FULL = "whole protocol"
_IN_WORDS = {True: "holds", False: "does not hold", None: "cannot be told"}


@dataclass(frozen=True)
class Order:
    """What a record is to say: an order, best or nearest first.

    Attributes:
        record: Name of a record of `feedalign compare`.
        places: `data/network/rule`, each worse than the one before.
        of: "score", by the metric of the run; or "angle" to backprop, at every hidden layer.
        below: Instead of an order, a number of degrees that every angle of every place stays below.
        holds: Whether the record is expected to say so.
    """

    record: str
    places: tuple[str, ...]
    of: Literal["score", "angle"] = "score"
    below: float | None = None
    holds: bool = True

    def found(self, records: Path) -> bool:
        """Whether the record says so.

        Args:
            records: The folder of the records.

        Returns:
            Whether it holds.

        Raises:
            ValueError: The record has no such place.
        """
        results = [_result(records, self.record, place) for place in self.places]
        if self.of == "score":
            return all(result.is_better_than(other) for result, other in pairwise(results))
        angles = [result.angles for result in results]
        if self.below is not None:
            return all(angle < self.below for found in angles for angle in found)
        return all(one < other for near, far in pairwise(angles) for one, other in zip(near, far, strict=True))

    def told(self, records: Path) -> str:
        """The record's numbers, in words.

        Args:
            records: The folder of the records.

        Returns:
            One line of markdown.
        """
        results = [_result(records, self.record, place) for place in self.places]
        groups: dict[str, list[str]] = {}
        for result in results:
            groups.setdefault(result.where, []).append(f"{result.rule} {result.numbers(self.of)}")
        told = "; ".join(f"{where}: {', '.join(cells)}" for where, cells in groups.items())
        unit = "degrees" if self.of == "angle" else heading(results[0].run["metric"])
        return f"[`{self.record}`]({_page_of(self.record)}): {told}; {unit}"


@dataclass(frozen=True)
class _Result:
    """What a rule came to in one run of a record."""

    run: Record
    summary: Record

    @property
    def rule(self) -> str:
        return str(self.summary["rule"])

    @property
    def where(self) -> str:
        config = self.run["config"]
        extent = f"{counted(config['schedule']['epochs'], 'epoch')}, {counted(config['trials'], 'trial')}"
        return f"`{config['data']}` on `{config['network']}`, {extent}"

    @property
    def score(self) -> Record | None:
        suffix = "_chosen" if self.run.get("judged_at") == "chosen" else ""
        found: Record | None = self.summary[f"test_score{suffix}"]
        return found

    @property
    def angles(self) -> list[float]:
        return [angle for angle in self.summary["angles"].values() if angle is not None]

    def is_better_than(self, other: _Result) -> bool:
        """Whether its mean is the better one; a rule of which no trial finished is worse than any that did."""
        if self.score is None or other.score is None:
            return self.score is not None
        gap = float(other.score["mean"]) - float(self.score["mean"])
        return gap > 0 if self.run["metric"]["better"] == "lower" else gap < 0

    def numbers(self, of: str) -> str:
        if of == "angle":
            return " ".join(f"{angle:.0f}" for angle in self.angles) or "–"
        if self.score is None:
            return "(no trial finished)"
        digits = self.run["metric"]["digits"]
        spread = "" if self.score["std"] is None else f" ± {self.score['std']:.{digits}f}"
        lost = self.summary["num_trials"] - self.summary["num_finished"]
        note = f" ({lost} of {self.summary['num_trials']} not finished)" if lost else ""
        return f"{self.score['mean']:.{digits}f}{spread}{note}"


@dataclass(frozen=True)
class Drawn:
    """What a figure of a paper is to say.

    Attributes:
        paper: Name of the paper.
        figure: Name of the figure.
        check: The paper's claim on it, word by word as among its checks; empty where all that counts is that it is
            drawn.
        holds: Whether that is expected to hold.
    """

    paper: str
    figure: str
    check: str = ""
    holds: bool = True

    def found(self, records: Path) -> bool | None:
        """Whether it holds there; None where the figure cannot tell.

        Args:
            records: The folder of the records.

        Returns:
            Whether it holds.

        Raises:
            ValueError: The figure has no such check.
            CorruptFileError: There is no such figure on file.
        """
        drawing = self._drawing(records)
        return self._checked(drawing).holds if self.check else True

    def is_whole(self, records: Path) -> bool:
        """Whether the figure was made by the whole protocol."""
        return not self._drawing(records).label

    def told(self, records: Path) -> str:
        """What was measured, in words.

        Args:
            records: The folder of the records.

        Returns:
            One line of markdown.
        """
        drawing = self._drawing(records)
        said = drawing.title
        if self.check:
            check = self._checked(drawing)
            said = f"*{self.check}* {check.measured}: **{_IN_WORDS[check.holds]}**"
        return f"[{self.paper} `{self.figure}`](papers.md#figures), {drawing.label or _FULL}: {said}"

    def _drawing(self, records: Path) -> Drawing:
        return read_drawing(records / _PAPERS / self.paper / f"{self.figure}.json")

    def _checked(self, drawing: Drawing) -> Check:
        for check in drawing.checks:
            if check.claim == self.check:
                return check
        raise ValueError(f"Figure {self.figure} of {self.paper} has no check {self.check!r}.")


@dataclass(frozen=True)
class Ranking:
    """What trials of cells are to say: an order, best first.

    Attributes:
        paper: Name of the paper.
        cells: "TABLE CELL", each worse than the one before; all of one metric.
        holds: Whether the trials on file are expected to say so.
    """

    paper: str
    cells: tuple[str, ...]
    holds: bool = True

    def found(self, records: Path) -> bool:
        """Whether they say so.

        Args:
            records: The folder of the records.

        Returns:
            Whether it holds.

        Raises:
            ValueError: There is no such cell, or no trial of it on file.
        """
        rows = [row for _, row in self._rows(records)]
        sign = 1 if better_of(rows[0].cell.metric) == "higher" else -1
        return all(sign * (one.verdict.mean - other.verdict.mean) > 0 for one, other in pairwise(rows))

    def is_whole(self, records: Path) -> bool:
        """Whether all were trained by the whole protocol."""
        return all(row.verdict.word in WHOLE for _, row in self._rows(records))

    def told(self, records: Path) -> str:
        """The numbers, in words.

        Args:
            records: The folder of the records.

        Returns:
            One line of markdown.
        """
        rows = self._rows(records)
        groups: dict[str, list[str]] = {}
        for table_name, row in rows:
            groups.setdefault(table_name, []).append(f"{row.cell.name} {row.ours}")
        told = "; ".join(f"`{name}`: {', '.join(numbers)}" for name, numbers in groups.items())
        labels = dict.fromkeys(row.verdict.label or _FULL for _, row in rows)
        metric = rows[0][1].cell.metric
        return f"[{self.paper}](papers.md#what-is-on-file), {'; '.join(labels)}: {told}; {metric}"

    def _rows(self, records: Path) -> list[tuple[str, Row]]:
        return [(table_name, self._row(records, table_name, name)) for table_name, name in map(str.split, self.cells)]

    def _row(self, records: Path, table_name: str, name: str) -> Row:
        for row in _table_on_file(records, self.paper, table_name).rows:
            if row.cell.name == name and row.verdict.num_trials:
                return row
        raise ValueError(f"There is no trial on file of {self.paper} {table_name} {name}.")


@cache
def _table_on_file(records: Path, paper: str, name: str) -> TableRows:
    """A table with what is on file for it: reading takes a moment, and claims share tables."""
    found = paper_named(paper)
    return read_rows(found, found.table(name), TrialStore(records / _PAPERS))


def _page_of(record: str) -> str:
    """The first page that shows a record."""
    pages = sorted(Path(__file__).parent.glob("*.md"))
    return next(page.name for page in pages if f"<!-- numbers:{record} -->" in page.read_text(encoding="utf-8"))


def _result(records: Path, name: str, place: str) -> _Result:
    """What a place of a record came to; of several runs with the place the first."""
    data, network, rule = place.split("/")
    record = json.loads((records / f"{name}.json").read_text(encoding="utf-8"))
    for run in record.get("runs", [record]):
        config = run["config"]
        if (config["data"], config["network"]) == (data, network):
            for summary in read(run)["summary"]:
                if summary["rule"] == rule:
                    return _Result(run, summary)
    raise ValueError(f"The record {name} has no {rule} on {data} and {network}.")


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        number: Its number, from 1.
        papers: The papers that make it or need it, by the names of `feedalign papers`.
        text: What it says.
        verdict: One of `VERDICTS`.
        evidence: What was looked at: `tests/....py::test_name`, `docs/PAGE.md#heading`, `docs/records/NAME.json`,
            `docs/records/papers/PAPER/FIGURE.json` or `TABLE.jsonl`.
        measured: What records are to say.
        figures: What figures of the papers are to say.
        rankings: What trials of cells of the papers' tables are to say.
        runs: What `feedalign papers run` would make for it: "drtp table1".
        note: What to know besides: what is missing, what was found instead.
    """

    number: int
    papers: tuple[str, ...]
    text: str
    verdict: Verdict
    evidence: tuple[str, ...] = ()
    measured: tuple[Order, ...] = ()
    figures: tuple[Drawn, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    runs: tuple[str, ...] = ()
    note: str = ""


def load(path: Path) -> list[Claim]:
    """Read the claims.

    Args:
        path: The file claims.toml.

    Returns:
        The claims, in its order.

    Raises:
        TypeError: An entry has a field that there is not, or lacks one.
    """
    entries: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    return [_claim(entry) for entry in entries]


def _claim(entry: dict[str, Any]) -> Claim:
    measured = tuple(Order(**{**order, "places": tuple(order["places"])}) for order in entry.pop("measured", ()))
    figures = tuple(Drawn(**one) for one in entry.pop("figures", ()))
    rankings = tuple(Ranking(**{**one, "cells": tuple(one["cells"])}) for one in entry.pop("rankings", ()))
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Claim(**lists, measured=measured, figures=figures, rankings=rankings)


def summary(claims: Sequence[Claim]) -> str:
    """Render how many claims have which verdict.

    Args:
        claims: All claims.

    Returns:
        A table, a row for each part of the page.
    """
    by_number = {claim.number: claim for claim in claims}
    rows = [
        [f"[{section}](#{section})", *_counts([by_number[number] for number in numbers])]
        for section, numbers in SECTIONS.items()
    ]
    return table(["claims about", "all", *VERDICTS], [*rows, ["all", *_counts(claims)]])


def _counts(claims: Sequence[Claim]) -> list[str]:
    counts = Counter(claim.verdict for claim in claims)
    return [str(len(claims)), *(str(counts[verdict] or "–") for verdict in VERDICTS)]


def section(claims: Sequence[Claim], name: str, records: Path) -> str:
    """Render the claims of one part of the page.

    Args:
        claims: All claims.
        name: One of `SECTIONS`.
        records: The folder of the records.

    Returns:
        A table, a row for each claim.
    """
    chosen = [claim for claim in claims if claim.number in SECTIONS[name]]
    rows = [
        (str(claim.number), claim.text, ", ".join(claim.papers), f"**{claim.verdict}**", _where(claim, records))
        for claim in chosen
    ]
    return table(("no.", "claim", "papers", "verdict", "where, and what to know"), rows)


def _where(claim: Claim, records: Path) -> str:
    lines = [claim.note] if claim.note else []
    said: tuple[Order | Drawn | Ranking, ...] = (*claim.measured, *claim.figures, *claim.rankings)
    lines += [one.told(records) for one in said]
    lines += _tests(claim.evidence)
    lines += [_link(item) for item in claim.evidence if not item.startswith(_TESTS)]
    lines += [f"`feedalign papers run {run}`" for run in claim.runs]
    return _BREAK.join(lines)


def _tests(evidence: Sequence[str]) -> list[str]:
    """A line for each file of tests, with what its tests say: their names are sentences."""
    by_file: dict[str, list[str]] = {}
    for item in evidence:
        if item.startswith(_TESTS):
            path, _, name = item.partition("::test_")
            by_file.setdefault(path, []).append(name.replace("_", " "))
    return [f"`{path}`: {'; '.join(names)}" for path, names in by_file.items()]


def _link(item: str) -> str:
    """A page, or a record, of the documentation."""
    page = item.removeprefix(_PAGES)
    return f"`{item}`" if item.endswith((".json", ".jsonl")) else f"[{page}]({page})"


def render(name: str, folder: Path, records: Path) -> str:
    """Render a block of the page.

    Args:
        name: "summary", or one of `SECTIONS`.
        folder: Where claims.toml is.
        records: The folder of the records.

    Returns:
        Markdown.

    Raises:
        ValueError: There is no such block.
    """
    claims = load(folder / "claims.toml")
    if name == "summary":
        return summary(claims)
    if name not in SECTIONS:
        raise ValueError(f"There is no way to render the block claims#{name}: the parts are {', '.join(SECTIONS)}.")
    return section(claims, name, records)
