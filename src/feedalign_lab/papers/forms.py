"""Tables for other programs: as CSV, as JSON and as Markdown."""

import csv
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from feedalign_lab.papers.rows import Row, TableRows

HEAD = ("cell", "published", "ours", "n", "gap", "slack", "verdict", "note")
NUMBERS = {"published", "ours", "n", "gap", "slack"}
# Control characters, and halves of characters that no encoding has.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CSV_HEAD = (
    "paper", "table", "cell", "data", "network", "rule", "metric", "unit", "published", "published_std",
    "published_trials", "ours", "ours_std", "trials", "diverged", "epochs", "gap", "slack", "verdict", "note",
)  # fmt: skip


def without_control(text: str, instead: str = "�") -> str:
    """Text that moves no cursor and that every encoding has.

    Args:
        text: Any, such as that of a record, which can come from anywhere.
        instead: Stands for what is taken out.

    Returns:
        The text.
    """
    return _CONTROL.sub(instead, text)


def as_data(found: TableRows) -> dict[str, Any]:
    """Rows for JSON, numbers unrounded.

    Args:
        found: The rows.

    Returns:
        A dictionary for each row, and the problems.
    """
    rows = [dict(zip(_CSV_HEAD, _values(found, row), strict=True)) for row in found.rows]
    return {"rows": rows, "problems": found.problems}


def as_csv(tables: Sequence[TableRows]) -> str:
    """Rows as comma-separated values, numbers unrounded.

    Args:
        tables: One table or several.

    Returns:
        A line of names, and a line for each row.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_HEAD)
    for found in tables:
        for row in found.rows:
            writer.writerow(["" if value is None else value for value in _values(found, row)])
    return stream.getvalue()


def as_markdown(found: TableRows) -> str:
    """Rows as a table in Markdown.

    Args:
        found: The rows.

    Returns:
        The table, and a sentence that counts the verdicts.
    """
    return f"{as_markdown_rows(found.rows)}\n\n{found.totals.sentence}\n"


def as_markdown_rows(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown.

    Args:
        rows: Of one table, or some of it.

    Returns:
        The table.
    """
    head = [f"| {' | '.join(HEAD)} |", f"|{'|'.join(' ---: ' if name in NUMBERS else ' --- ' for name in HEAD)}|"]
    return "\n".join([*head, *(f"| {' | '.join(map(_in_markdown, texts(row)))} |" for row in rows)])


def texts(row: Row) -> tuple[str, ...]:
    """A row as it is shown: cell, published, ours, n, gap, slack, verdict and note."""
    return (
        row.cell.name,
        row.published,
        row.ours,
        row.num_trials,
        row.gap,
        row.slack,
        row.verdict.word,
        _note(row),
    )


def _values(found: TableRows, row: Row) -> list[str | int | float | None]:
    """A row for a program to read; what is not known is None."""
    cell, verdict = row.cell, row.verdict
    values = (
        *(found.paper.name, found.table.name, cell.name, cell.data, cell.network, cell.rule, cell.metric),
        *(found.table.unit, cell.published.mean, cell.published.std, cell.published.trials),
        *(verdict.mean, verdict.std, verdict.num_trials, verdict.num_diverged, verdict.epochs),
        *(verdict.gap, verdict.slack, verdict.word, _note(row)),
    )
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def _note(row: Row) -> str:
    """All remarks in one."""
    return "; ".join(row.remarks)


def _in_markdown(value: str) -> str:
    """Text that does not end a cell of a table, or start markup."""
    return html.escape(without_control(value, " "), quote=False).replace("|", "\\|").replace("*", "\\*")
