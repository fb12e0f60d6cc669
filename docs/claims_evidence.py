"""What bears out a claim: an order in a record, a check of a figure, a ranking of cells; found, and told in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from feedalign_lab.papers.catalogue import paper_named
from feedalign_lab.papers.cells import better_of
from feedalign_lab.papers.figures import read_drawing
from feedalign_lab.papers.figures.drawing import Check, Drawing
from feedalign_lab.papers.rows import WHOLE, Row, TableRows, read_rows
from feedalign_lab.papers.store import TrialStore
from tables import Record, counted, heading, read

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
