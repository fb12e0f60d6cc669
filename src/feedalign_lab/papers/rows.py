"""Tables as rows: each printed number beside ours, with the verdict and what has to be said of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import get_args

from feedalign_lab.papers.cells import Cell, Paper, Table
from feedalign_lab.papers.store import Shelf, TrialRecord, TrialStore
from feedalign_lab.papers.verdict import Verdict, Word, counted, judge

WORDS: tuple[Word, ...] = get_args(Word)
WHOLE: tuple[Word, ...] = ("reproduced", "better", "worse")
"""The verdicts that only a whole protocol can have."""

NOTHING = "–"
_NUM_NAMED = 5


@dataclass(frozen=True)
class Row:
    """A cell, and what the records say of it.

    Attributes:
        cell: The cell.
        verdict: The verdict.
        trials: The records that it is the verdict of, in the order of their numbers.
        digits: Places behind the point, as the paper prints this metric.
    """

    cell: Cell
    verdict: Verdict
    trials: tuple[TrialRecord, ...]
    digits: int

    @property
    def published(self) -> str:
        """The printed number, with its spread where it has one."""
        return published_text(self.cell, self.digits)

    @property
    def ours(self) -> str:
        """Our number, with its spread where there is more than one trial."""
        return with_spread(self.verdict.mean, self.verdict.std, self.digits)

    @property
    def num_trials(self) -> str:
        """Finished trials that ours is the mean of."""
        return str(self.verdict.num_trials) if self.trials else NOTHING

    @property
    def gap(self) -> str:
        """Ours minus the printed number, always with its sign."""
        return number(self.verdict.gap, self.digits, sign="+")

    @property
    def slack(self) -> str:
        """How far apart the two may lie."""
        return number(self.verdict.slack, self.digits)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be said beside the verdict: how the protocol is reduced, what diverged, why nothing was run."""
        cell, verdict = self.cell, self.verdict
        said = [verdict.label] if verdict.label else []
        if verdict.num_diverged:
            all_diverged = sum(trial.status == "diverged" for trial in self.trials) >= verdict.num_diverged
            what = "diverged" if all_diverged else "gave no number"
            said.append(f"{verdict.num_diverged} of {len(self.trials)} trials {what}")
        if verdict.num_foreign:
            records = "record was" if verdict.num_foreign == 1 else "records were"
            said.append(f"{verdict.num_foreign} {records} made under another configuration and left out")
        if cell.protocol.reading == "best" and self.trials:
            said.append("each trial at its best epoch on the test part")
        if cell.elsewhere:
            said.append(cell.elsewhere)
        if cell.needs and not self.trials:
            said.append(f"needs {cell.needs}")
        return tuple(said)


@dataclass(frozen=True)
class Totals:
    """How many cells of one or more tables have which verdict.

    Attributes:
        counts: Cells by verdict.
    """

    counts: Mapping[Word, int]

    @property
    def num_cells(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def num_recorded(self) -> int:
        """Those with trials on file."""
        return self.num_cells - self.counts["not run"]

    @property
    def num_whole(self) -> int:
        """Those with a whole protocol on file."""
        return sum(self.counts[word] for word in WHOLE)

    @property
    def num_good(self) -> int:
        """Those with the whole protocol on file that are reproduced or better."""
        return self.counts["reproduced"] + self.counts["better"]

    @property
    def sentence(self) -> str:
        """All of it in words."""
        cells = "1 cell" if self.num_cells == 1 else f"{self.num_cells} cells"
        if not self.num_recorded:
            return f"{cells}, none run yet."
        return f"{cells}: {', '.join(f'{count} {word}' for word, count in self.counts.items() if count)}."


@dataclass(frozen=True)
class TableRows:
    """A table of a paper and the rows of it.

    Attributes:
        paper: The paper.
        table: The table.
        rows: In the order of the paper.
        problems: What is on file for the table and could not be used, in words.
    """

    paper: Paper
    table: Table
    rows: tuple[Row, ...]
    problems: tuple[str, ...] = ()

    @property
    def totals(self) -> Totals:
        """Its cells by verdict."""
        return totals_of(self.rows)

    @property
    def heading(self) -> str:
        """What it shows, with the unit."""
        return f"{self.table.title} ({self.table.unit})" if self.table.unit else self.table.title

    def choose(self, patterns: Sequence[str]) -> "TableRows":
        """The same with some of the rows.

        Args:
            patterns: Of names of cells, as in a shell; none stands for all.

        Returns:
            The rows that a pattern fits, and all problems.

        Raises:
            UnknownNameError: A pattern fits no cell.
        """
        names = {cell.name for cell in self.table.choose(patterns)}
        return replace(self, rows=tuple(row for row in self.rows if row.cell.name in names))


def rows_of(paper: Paper, table: Table, shelf: Shelf) -> TableRows:
    """Put the printed numbers of a table and the trials on file side by side.

    Args:
        paper: The paper.
        table: The table.
        shelf: What its file holds.

    Returns:
        A row for each cell. Records that belong to no cell of the table are named among the problems, and so is what
        the shelf could not read.
    """
    own = [record for record in shelf.records if (record.paper, record.table) == (paper.name, table.name)]
    digits = digits_of(table.cells)
    # Cells that differ in their metric alone are numbers of the same trials.
    rows = tuple(Row(cell, judge(cell, own), counted(cell, own), digits[cell.metric]) for cell in table.cells)
    known = {cell.name for cell in table.cells}
    used = {id(record) for row in rows for record in row.trials}
    lost = [
        f"{record.paper} {record.table} {record.cell}"
        for record in shelf.records
        if id(record) not in used
        and ((record.paper, record.table) != (paper.name, table.name) or record.cell not in known)
    ]
    return TableRows(paper, table, rows, (*shelf.problems, *_lost(paper, table, lost)))


def read_rows(paper: Paper, table: Table, store: TrialStore) -> TableRows:
    """The same from the records on file.

    Args:
        paper: The paper.
        table: The table.
        store: Where the records are.

    Returns:
        A row for each cell.

    Raises:
        OutputFolderError: The file of the table is there and cannot be read at all.
    """
    return rows_of(paper, table, store.read(paper.name, table.name))


def totals_of(rows: Iterable[Row]) -> Totals:
    """Count the verdicts."""
    words = [row.verdict.word for row in rows]
    return Totals({word: words.count(word) for word in WORDS})


def joined(totals: Iterable[Totals]) -> Totals:
    """The totals of several tables together."""
    each = list(totals)
    return Totals({word: sum(one.counts[word] for one in each) for word in WORDS})


def number(value: float, digits: int, sign: str = "") -> str:
    """A number with so many places; a dash for nan."""
    return NOTHING if math.isnan(value) else f"{value:{sign}.{digits}f}"


def with_spread(mean: float, std: float | None, digits: int) -> str:
    """A mean and, where it is known, its standard deviation."""
    known = number(mean, digits)
    return known if std is None or math.isnan(std) else f"{known} ± {number(std, digits)}"


def published_text(cell: Cell, digits: int) -> str:
    """The number that a paper printed for a cell."""
    return with_spread(cell.published.mean, cell.published.std, digits)


def digits_of(cells: Sequence[Cell]) -> dict[str, int]:
    """Places behind the point of the numbers of a table.

    Args:
        cells: Those of the table.

    Returns:
        By metric, as many places as any of its numbers is printed with; at least one, or no gap would be seen.
    """
    digits: dict[str, int] = {}
    for cell in cells:
        for value in (cell.published.mean, cell.published.std):
            places = 0 if value is None else _places(value)
            digits[cell.metric] = max(digits.get(cell.metric, 1), places)
    return digits


def _places(value: float) -> int:
    """Places behind the point of a number as it is written."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    # A float keeps no trailing zeros, and writes one where there is no fraction.
    return max(0, -exponent) if isinstance(exponent, int) and value != int(value) else 0


def _lost(paper: Paper, table: Table, names: Sequence[str]) -> list[str]:
    """Say which records are of no cell of a table."""
    if not names:
        return []
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - _NUM_NAMED} more" if len(different) > _NUM_NAMED else ""
    what = "record is" if len(names) == 1 else "records are"
    return [
        f"{len(names)} {what} of no cell of {paper.name} {table.name}, and left out: "
        f"{', '.join(different[:_NUM_NAMED])}{more}"
    ]
