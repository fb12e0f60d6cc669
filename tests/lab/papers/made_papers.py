"""Small papers made up for tests: quick to train, with numbers of our own as the printed ones."""

from dataclasses import replace
from typing import Any

from feedalign_lab.papers.cells import Cell, Paper, Protocol, Published, Reading, Table
from feedalign_lab.papers.store import Curve, TrialRecord


def cell(name: str = "fc1-8/dfa", *, rule: str = "dfa", mean: float = 10.0, **changes: Any) -> Cell:
    """A cell on the digits, of three epochs and two trials."""
    made = Cell(
        name=name,
        data="digits",
        network="fc1-8",
        rule=rule,
        metric="error",
        published=Published(mean),
        protocol=Protocol(epochs=3, trials=2, reading="last", source="made up"),
        tolerance=0.5,
    )
    return replace(made, **changes)


def protocol(**changes: Any) -> Protocol:
    """The protocol of `cell`, with changes."""
    return replace(cell().protocol, **changes)


def reading(how: Reading) -> Protocol:
    """The protocol of `cell`, read off at another epoch."""
    return protocol(reading=how)


def paper(*cells: Cell) -> Paper:
    """A paper with one table."""
    return Paper("made", "A. Author", 2020, "A title", (Table("table1", "A table", "%", cells),))


def record(of: Cell, trial: int = 0, *, test: tuple[float, ...] = (30.0, 20.0, 10.0), **changes: Any) -> TrialRecord:
    """A record of a cell, of as many epochs as there are scores."""
    made = TrialRecord(
        paper="made",
        table="table1",
        cell=of.name,
        configuration=of.configuration(len(test)),
        trial=trial,
        status="finished",
        message="",
        metric="error",
        curve=Curve(train_loss=test, test=test, seconds=(1.0,) * len(test)),
        environment={"torch": "2.13.0"},
    )
    return replace(made, **changes)
