"""The papers, their tables and the verdicts on a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Column
from rich.table import Table as TextTable
from rich.text import Text

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.cells import Cell, Paper, Reading, Table
from feedalign_lab.papers.figures.drawing import Drawing
from feedalign_lab.papers.forms import HEAD, NUMBERS, as_csv, as_data, as_markdown, texts, without_control
from feedalign_lab.papers.rows import NOTHING, WORDS, TableRows, digits_of, joined, published_text, read_rows
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.papers.verdict import Word
from feedalign_lab.results import to_json

FORMS = ("text", "csv", "markdown", "json")


class Titled(Protocol):
    """A figure, as far as it is listed."""

    @property
    def paper(self) -> str:
        """Name of the paper."""

    @property
    def name(self) -> str:
        """What a user types."""

    @property
    def title(self) -> str:
        """What it shows."""


STYLES: dict[Word, str] = {
    "reproduced": "green",
    "better": "cyan",
    "worse": "bold red",
    "incomplete": "yellow",
    "not run": "dim",
}
READINGS: dict[Reading, str] = {
    "last": "the last epoch",
    "last ten": "mean of the last ten epochs",
    "chosen": "the best epoch on the validation part",
    "best": "the best epoch on the test part",
}
_HOLDS = {True: "yes", False: "no", None: "cannot be told"}
_MIN_WIDTH = 120


def print_list(
    papers: Sequence[Paper],
    store: TrialStore,
    console: Console,
    *,
    as_json: bool = False,
    figures: Sequence[Titled] = (),
) -> None:
    """Print every table of every paper with how its cells fare, and every figure.

    Args:
        papers: The papers.
        store: Where the records are.
        console: Where to print.
        as_json: Print JSON in place of tables.
        figures: The figures of all papers.

    Raises:
        OutputFolderError: The file of a table is there and cannot be read at all.
    """
    shown = [read_rows(paper, table, store) for paper in papers for table in paper.tables]
    if as_json:
        listed = [
            {"paper": one.paper, "figure": one.name, "title": one.title, "on_file": _is_on_file(one, store)}
            for one in figures
        ]
        _print_plainly(to_json({"tables": [_overview(found) for found in shown], "figures": listed}), console)
        return
    overview = TextTable("paper", "table", "what it shows", *_right("cells", *WORDS))
    for paper in papers:
        for found in shown:
            if found.paper is paper:
                counts = (_text(found.totals.counts[word] or "", STYLES[word]) for word in WORDS)
                names = (paper.name, found.table.name, found.heading, found.totals.num_cells)
                overview.add_row(*map(_text, names), *counts)
        overview.add_section()
    problems = [problem for found in shown for problem in found.problems]
    of_figures = TextTable("paper", "figure", "what it shows", "on file")
    for one in figures:
        of_figures.add_row(*map(_text, (one.paper, one.name, one.title, "yes" if _is_on_file(one, store) else "")))
    sentence = joined(found.totals for found in shown).sentence
    _print(console, overview, sentence, *([of_figures] if figures else []), *_left_out(problems))


def _is_on_file(figure: Titled, store: TrialStore) -> bool:
    """Whether the data of a figure lie beside the records."""
    return (store.folder / figure.paper / f"{figure.name}.json").is_file()


def print_show(paper: Paper, table: Table | None, console: Console, patterns: Sequence[str] = ()) -> None:
    """Print what a paper or one of its tables consists of, and how each cell is trained.

    Args:
        paper: The paper.
        table: One of its tables; None for the paper as a whole.
        console: Where to print.
        patterns: Of names of cells, as in a shell; none stands for all.

    Raises:
        UnknownNameError: A pattern fits no cell.
    """
    if table is None:
        tables = TextTable("table", "what it shows", *_right("cells"))
        for one in paper.tables:
            tables.add_row(*map(_text, (one.name, one.title, len(one.cells))))
        _print(console, citation(paper), tables)
        return
    digits = digits_of(table.cells)
    chosen = table.choose(patterns)
    facts = [_facts(cell, digits[cell.metric]) for cell in chosen]
    same = (
        {name: value for name, value in facts[0].items() if all(one[name] == value for one in facts)} if facts else {}
    )
    own = [name for name in (facts[0] if facts else ()) if name not in same]
    shown = TextTable(_name_column(), *own, title=_title(paper, table))
    for cell, fact in zip(chosen, facts, strict=True):
        shown.add_row(*map(_text, (cell.name, *(fact[name] for name in own))))
    for_all = "; ".join(f"{name}: {value}" for name, value in same.items() if value)
    _print(console, shown, *([f"For all of them {for_all}."] if for_all else []), *table.notes)


def print_table(
    paper: Paper, table: Table, store: TrialStore, console: Console, patterns: Sequence[str] = (), form: str = "text"
) -> None:
    """Print the printed numbers of a table beside ours, with the verdicts.

    Args:
        paper: The paper.
        table: The table.
        store: Where the records are.
        console: Where to print.
        patterns: Of names of cells, as in a shell; none stands for all.
        form: One of `FORMS`: for a terminal, or for another program, where numbers are not rounded.

    Raises:
        UnknownNameError: A pattern fits no cell, or there is no such form.
        OutputFolderError: The file of the table is there and cannot be read at all.
    """
    found = read_rows(paper, table, store).choose(patterns)
    match form:
        case "text":
            whence = _whence(store.path(paper.name, table.name))
            _print(console, _in_text(found), found.totals.sentence, whence, *table.notes, *_left_out(found.problems))
        case "csv":
            _print_plainly(as_csv([found]), console)
        case "markdown":
            _print_plainly(as_markdown(found), console)
        case "json":
            _print_plainly(to_json(as_data(found)), console)
        case _:
            raise UnknownNameError("format of a table", form, FORMS)


def citation(paper: Paper) -> str:
    """A paper in a line."""
    return f"{paper.authors} ({paper.year}). {paper.title}."


def how(cell: Cell) -> str:
    """How a cell is trained, in words."""
    protocol = cell.protocol
    runs = "1 trial" if protocol.trials == 1 else f"{protocol.trials} trials"
    said = [f"{runs} of {protocol.epochs} epochs, read at: {READINGS[protocol.reading]}"]
    said += [f"not by this command: {cell.elsewhere}"] if cell.elsewhere else []
    said += [f"needs {cell.needs}"] if cell.needs else []
    return "; ".join(said)


def _in_text(found: TableRows) -> TextTable:
    """A table for a terminal."""
    head = [column for name in HEAD[1:] for column in (_right(name) if name in NUMBERS else [Column(name)])]
    shown = TextTable(_name_column(), *head, title=_title(found.paper, found.table))
    for row in found.rows:
        *cells, word, note = texts(row)
        shown.add_row(*map(_text, cells), _text(word, STYLES[row.verdict.word]), _text(note))
    return shown


def _overview(found: TableRows) -> dict[str, object]:
    """A table of `feedalign papers list` for a program to read."""
    return {
        "paper": found.paper.name,
        "table": found.table.name,
        "title": found.table.title,
        "unit": found.table.unit,
        "cells": found.totals.num_cells,
        "verdicts": found.totals.counts,
        "problems": found.problems,
    }


def print_figure(drawing: Drawing, console: Console) -> None:
    """Print what was measured of a figure's statements.

    Args:
        drawing: The figure.
        console: Where to.
    """
    title = f"{drawing.paper} {drawing.figure}: {drawing.title}"
    lines = TextTable(
        "statement", Column("whose", no_wrap=True), "measured", Column("holds", no_wrap=True), title=_text(title)
    )
    for check in drawing.checks:
        holds = _HOLDS[check.holds]
        cells = (check.claim, f"the {check.source}'s" if check.source == "paper" else check.source, check.measured)
        lines.add_row(*map(_text, cells), _text(holds))
    label = [f"Run with {drawing.label}: no reproduction."] if drawing.label else []
    _print(console, *([lines] if drawing.checks else [_text(title)]), *label)


def _whence(path: Path) -> str:
    """Which trials were looked at."""
    if path.exists():
        return f"Trials are those in {path}."
    return f"There are no trials in {path}: --records names the folder of others."


def _left_out(problems: Sequence[str]) -> list[str]:
    """Say of each problem that something was passed over."""
    return [f"left out: {problem}" for problem in problems]


def _print(console: Console, *items: TextTable | Text | str) -> None:
    """Print tables and sentences, wide enough to be read in a file too."""
    if not console.is_terminal:
        console.width = max(console.width, _MIN_WIDTH)
    # Rich ends the process by itself where nobody reads on; the text is written as any other.
    with console.capture() as captured:
        for item in items:
            console.print(_text(item) if isinstance(item, str) else item)
    _print_plainly(captured.get(), console)


def _print_plainly(text: str, console: Console) -> None:
    """Write text as it is."""
    console.file.write(text)


def _facts(cell: Cell, digits: int) -> dict[str, str]:
    """How a cell is trained, by what it is called."""
    protocol = cell.protocol
    settings = {} if cell.elsewhere else cell.configuration()
    batch = settings.get("batch_size", NOTHING)
    # What is not there, or is nothing, is not told.
    names = {"feedback_learning_rate": "feedback rate", "weight_decay": "weight decay", "dropout": "dropout"}
    more = {said: str(settings.get(name) or "") for name, said in names.items()}
    return {
        "data": cell.data,
        "network": cell.network,
        "rule": cell.rule,
        "published": published_text(cell, digits),
        "tolerance": f"{cell.tolerance:g}",
        "rate": str(settings.get("learning_rate", NOTHING)),
        "batch": "all" if batch is None else str(batch),
        **more,
        "epochs": str(protocol.epochs),
        "trials": str(protocol.trials),
        "read at": READINGS[protocol.reading],
        "needs": cell.needs,
        "not trained here": cell.elsewhere,
    }


def _title(paper: Paper, table: Table) -> Text:
    """What stands above a table."""
    return _text(f"{paper.name} {table.name}: {table.title}{f' ({table.unit})' if table.unit else ''}")


def _name_column() -> Column:
    """The column of the cells' names: a user types them, so they are never cut short."""
    return Column("cell", no_wrap=True, overflow="fold")


def _right(*names: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(name, justify="right") for name in names]


def _text(value: object, style: str = "") -> Text:
    """Text in which nothing is markup, since records come from anywhere."""
    return Text(without_control(str(value)), style=style)
