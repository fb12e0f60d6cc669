"""Tables of the page: the summary, and the rows of a table of a paper."""

import math
from collections.abc import Sequence
from html import escape

from feedalign_lab.papers.report.curves import as_script, row_data
from feedalign_lab.papers.rows import WORDS, Row, TableRows
from feedalign_lab.papers.verdict import Word

_SIGNS: dict[Word, str] = {"reproduced": "=", "better": "+", "worse": "−", "incomplete": "…", "not run": "○"}
_HEAD = (
    ("cell", ""),
    ("published", "number"),
    ("ours", "number"),
    ("n", "number extra"),
    ("gap", "number extra"),
    ("slack", "number extra"),
    ("verdict", ""),
)
_REACH = 3.0
"""How many times the slack the small scale beside a gap reaches to either side."""


def name_of(word: Word) -> str:
    """The class of a verdict in the style."""
    return word.replace(" ", "-")


def badge(word: Word) -> str:
    """A verdict in words, with a sign and a color."""
    return (
        f'<span class="badge {name_of(word)}"><span class="sign" aria-hidden="true">{_SIGNS[word]}</span>{word}</span>'
    )


def summary_table(tables: Sequence[TableRows]) -> str:
    """How many cells of each table have which verdict."""
    head = "".join(
        f'<th scope="col" class="number">{badge(word) if word in WORDS else word}</th>'
        for word in ("cells", "whole protocol", *WORDS)
    )
    lines = []
    for table in tables:
        totals, place = table.totals, place_of(table)
        counts = (totals.num_cells, totals.num_whole, *(totals.counts[word] for word in WORDS))
        numbers = "".join(f'<td class="number">{count or "·"}</td>' for count in counts)
        lines.append(
            f'<tr><td class="extra">{escape(table.paper.name)}</td>'
            f'<th scope="row"><a href="#{place}">'
            f'<span class="narrow">{escape(table.paper.name)} </span>{escape(table.table.name)}</a></th>'
            f'<td class="extra">{escape(table.table.title)}</td>{numbers}</tr>'
        )
    return (
        '<div class="wide" role="region" aria-label="Summary" tabindex="0"><table class="summary">'
        "<caption>Cells by table and verdict</caption>"
        '<thead><tr><th scope="col" class="extra">paper</th><th scope="col">table</th>'
        f'<th scope="col" class="extra">what it shows</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def table_part(found: TableRows) -> str:
    """A table of a paper, open where anything is on file.

    Args:
        found: The rows.

    Returns:
        HTML; at the end it has, for the script, what the rows open to.
    """
    place, heading = place_of(found), escape(found.heading)
    name = f"{escape(found.paper.name)} {escape(found.table.name)}"
    heads = "".join(f'<th scope="col" class="{kind}">{column}</th>' for column, kind in _HEAD)
    rows = "\n".join(_row(row, number) for number, row in enumerate(found.rows))
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.table.notes)
    data = [row_data(row, found.table.unit) for row in found.rows]
    return f"""<details class="table" id="{place}"{" open" if found.totals.num_recorded else ""}>
<summary><h3>{escape(found.table.name)}</h3> <span class="title">{heading}</span>
<span class="tally">{found.totals.sentence.rstrip(".")}</span></summary>
<div class="wide" role="region" aria-label="{name}" tabindex="0"><table class="rows">
<caption>{name}: {heading}</caption>
<thead><tr>{heads}</tr></thead>
{rows}
</table></div>
{f'<ul class="notes">{notes}</ul>' if notes else ""}</details>
<script type="application/json" id="data-{place}">{as_script(data)}</script>
"""


def place_of(found: TableRows) -> str:
    """Where on the page a table is."""
    return escape(f"{found.paper.name}-{found.table.name}")


def _row(row: Row, number: int) -> str:
    """A row, in a body of its own, so that what it opens to stays beside it however the table is sorted."""
    cell, verdict = row.cell, row.verdict
    name, word = escape(cell.name), verdict.word
    broken = name.replace("/", "/<wbr>")
    searched = escape(f"{cell.name} {cell.data} {cell.network} {cell.rule} {cell.metric}".lower())
    num_trials = float(verdict.num_trials) if row.trials else math.nan
    cells = (
        _number(_in_two_parts(row.published), cell.published.mean),
        _number(_in_two_parts(row.ours), verdict.mean),
        _number(row.num_trials, num_trials, "extra"),
        _number(f"{_scale(row)}{row.gap}", verdict.gap, "extra"),
        _number(row.slack, verdict.slack, "extra"),
    )
    remarks = "".join(f'<span class="remark">{escape(remark)}</span>' for remark in row.remarks)
    return (
        f'<tbody data-row="{number}" data-verdict="{word}" data-text="{searched}"><tr>'
        f'<th scope="row" data-value="{name}"><span class="name">{broken}</span></th>{"".join(cells)}'
        f'<td class="verdict" data-value="{WORDS.index(word)}">{badge(word)}{remarks}</td></tr></tbody>'
    )


def _number(shown: str, value: float, extra: str = "") -> str:
    """A cell of a number; what is no number has no value to sort by."""
    known = "" if math.isnan(value) else repr(value)
    return f'<td class="number {extra}" data-value="{known}">{shown}</td>'


def _in_two_parts(shown: str) -> str:
    """A mean and its spread, which stand below one another where there is little room."""
    mean, sign, std = shown.partition(" ± ")
    return f'{mean} <span class="std">± {std}</span>' if sign else mean


def _scale(row: Row) -> str:
    """Where ours lies, as a mark on a band as wide as the slack; nothing where there is no gap."""
    gap, slack = row.verdict.gap, row.verdict.slack
    if math.isnan(gap) or not slack > 0:
        return ""
    place = 50 + 50 * max(-1.0, min(1.0, gap / (_REACH * slack)))
    return (
        f'<span class="scale {name_of(row.verdict.word)}" aria-hidden="true"><i style="left:{place:.0f}%"></i></span>'
    )
