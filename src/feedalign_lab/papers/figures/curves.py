"""Curves over training: what trials on file say, epoch by epoch, in mean and deviation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from feedalign_lab.choices import rule_names
from feedalign_lab.papers.cells import Cell, Protocol, Published
from feedalign_lab.papers.figures.drawing import Panel, Scale, Series
from feedalign_lab.papers.figures.figure import Made, Run, Size
from feedalign_lab.papers.figures.probing import Probe, run_probed
from feedalign_lab.papers.runner import Request, run_cells
from feedalign_lab.papers.store import TrialRecord, configuration_hash

Column = Literal["train loss", "test", "accuracy", "angle", "other"]
XAxis = Literal["epoch", "seconds"]
_STACKED = 10


@dataclass(frozen=True)
class Line:
    """One series of a panel.

    Attributes:
        name: As the legend has it.
        cell: Name of the cell whose trials it is over.
        column: Which numbers: "test" is the task's metric, "accuracy" what an error in percent lacks to a hundred,
            "angle" that of the modulatory signal, "other" what a probe noted.
        of: The layer, or what the probe called it.
    """

    name: str
    cell: str
    column: Column
    of: str = ""


@dataclass(frozen=True)
class CurvePanel:
    """One pair of axes over training.

    Attributes:
        title: Heading.
        y_label: With its unit.
        lines: What is drawn.
        x: "epoch", or "seconds" of the training steps.
        y_scale: Of the axis.
        guide: Height of a thin horizontal line.
    """

    title: str
    y_label: str
    lines: tuple[Line, ...]
    x: XAxis = "epoch"
    y_scale: Scale = "linear"
    guide: float | None = None


@dataclass(frozen=True)
class Curves:
    """A figure of curves over training.

    Attributes:
        cells: What is trained.
        panels: What is drawn of it.
        angles_every: Epochs from one measurement of the angles to the next; None for none but at the end.
        probe: Measures more after every epoch.
        is_timed: Whether seconds are drawn, so that trials are trained one by one.
    """

    cells: tuple[Cell, ...]
    panels: tuple[CurvePanel, ...]
    angles_every: int | None = None
    probe: Probe | None = None
    is_timed: bool = False

    def make(self, run: Run) -> Made:
        """Train what is missing and draw; see `Recipe`."""
        found, remarks = trained(run, self.cells, self.angles_every, self.probe, is_timed=self.is_timed)
        if self.is_timed and (machine := _machine(found)):
            remarks = (*remarks, f"Seconds of the training steps alone, one thread pool, on {machine}.")
        rules = {cell.name: cell.rule for cell in self.cells}
        return Made(tuple(_panel(panel, found, rules) for panel in self.panels), _done(run, self.cells, found), remarks)


def trained(
    run: Run,
    cells: Sequence[Cell],
    angles_every: int | None = None,
    probe: Probe | None = None,
    *,
    is_timed: bool = False,
    figure: str = "",
) -> tuple[dict[str, tuple[TrialRecord, ...]], tuple[str, ...]]:
    """Train what is missing.

    Args:
        run: What is asked for.
        cells: What to train.
        angles_every: Epochs from one measurement of the angles to the next.
        probe: Measures more after every epoch.
        is_timed: Whether to train trials one by one.
        figure: Whose records to use, where it is not the run's own.

    Returns:
        The finished trials of the asked configuration by cell, and what went wrong in sentences.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; trials that are done are on file.
    """
    remarks = []
    for epochs in sorted({_epochs(cell, run.size) for cell in cells}):
        request = Request(
            paper=run.paper,
            table=figure or run.figure,
            cells=tuple(cell for cell in cells if _epochs(cell, run.size) == epochs),
            folder=run.store.folder,
            trials=run.size.trials,
            epochs=epochs,
            angles_every=angles_every,
            stacked=1 if is_timed or probe is not None else _STACKED,
            device=run.device,
        )
        if probe is None:
            outcome = run_cells(request, run.watch, run.tell)
        else:
            outcome = run_probed(request, probe, run.watch, run.tell)
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        remarks += [f"{name} is missing: {why}" for name, why in outcome.lacking.items()]
    records = run.store.read(run.paper, figure or run.figure).records
    found = {cell.name: _of_cell(cell, records, run.size) for cell in cells}
    for name, own in found.items():
        if diverged := sum(record.status == "diverged" for record in own):
            remarks.append(f"{diverged} of {len(own)} trials of {name} diverged and are left out.")
    finished = {name: tuple(record for record in own if record.status == "finished") for name, own in found.items()}
    return finished, tuple(remarks)


def curve_cell(
    name: str,
    data: str,
    network: str,
    rule: str,
    size: Size,
    source: str,
    *,
    learning_rate: float | None = None,
) -> Cell:
    """What a curve is trained by: a cell of which no number is printed.

    Args:
        name: Within its figure.
        data: Name of the data.
        network: Name of the network.
        rule: Name of the rule.
        size: The paper's.
        source: Where that stands, in words.
        learning_rate: The step size; None takes the lab's own setting, which is the paper's where it has one.

    Returns:
        The cell.
    """
    protocol = Protocol(size.epochs, size.trials, "last", source, learning_rate=learning_rate)
    return Cell(name, data, network, rule, "error", Published(math.nan), protocol, math.nan)


def _of_cell(cell: Cell, records: Sequence[TrialRecord], size: Size) -> tuple[TrialRecord, ...]:
    """The trials of a cell that were made under what is asked for, as many as are asked for."""
    key = configuration_hash(cell.configuration(_epochs(cell, size)))
    own = [record for record in records if record.key == key]
    return tuple(sorted(own, key=lambda record: record.trial)[: size.trials])


def _epochs(cell: Cell, size: Size) -> int:
    """How long to train a cell: never longer than the paper."""
    return min(size.epochs, cell.protocol.epochs)


def _done(run: Run, cells: Sequence[Cell], found: dict[str, tuple[TrialRecord, ...]]) -> Size:
    """What was run: the fewest trials of any cell that has some."""
    counts = [len(found[cell.name]) for cell in cells if found[cell.name]]
    return replace(run.size, trials=min(counts, default=0))


def _panel(panel: CurvePanel, found: dict[str, tuple[TrialRecord, ...]], rules: dict[str, str]) -> Panel:
    several = len({rules[line.cell] for line in panel.lines}) == len(panel.lines)
    lines = tuple(_series(line, panel.x, found[line.cell], rules[line.cell] if several else "") for line in panel.lines)
    x_label = "epoch" if panel.x == "epoch" else "time of training (s)"
    return Panel(panel.title, x_label, panel.y_label, lines, y_scale=panel.y_scale, guide=panel.guide)


def _series(line: Line, x_axis: XAxis, records: Sequence[TrialRecord], rule: str) -> Series:
    """Mean and deviation over trials, at the epochs that all of them have."""
    columns = [_column(line, record) for record in records]
    epochs = sorted(set.intersection(*(set(column) for column in columns))) if columns else []
    values = {epoch: [column[epoch] for column in columns] for epoch in epochs}
    # Where a signal is zero there is no angle.
    values = {epoch: known for epoch, all_ in values.items() if (known := [v for v in all_ if math.isfinite(v)])}
    seconds = [list(accumulate(record.curve.seconds)) for record in records]
    return Series(
        name=line.name,
        x=tuple(
            float(epoch) if x_axis == "epoch" else statistics.fmean(column[epoch - 1] for column in seconds)
            for epoch in values
        ),
        mean=tuple(statistics.fmean(known) for known in values.values()),
        std=tuple(statistics.stdev(known) if len(known) > 1 else math.nan for known in values.values()),
        n=min(map(len, values.values()), default=0),
        rule=rule if rule in rule_names() else "",
    )


def _column(line: Line, record: TrialRecord) -> dict[int, float]:
    """The numbers of a trial by epoch."""
    curve = record.curve
    match line.column:
        case "angle":
            return {int(epoch): layers[line.of] for epoch, layers in curve.angles.items() if line.of in layers}
        case "train loss":
            values: Sequence[float] = curve.train_loss
        case "test":
            values = curve.test
        case "accuracy":
            values = [100.0 - value for value in curve.test]
        case "other":
            values = curve.others.get(line.of, ())
    return dict(enumerate(values, start=1))


def _machine(found: dict[str, tuple[TrialRecord, ...]]) -> str:
    """Where trials were timed."""
    named = {
        f"{record.environment.get('device_name')} ({record.environment.get('num_threads')} threads)"
        for own in found.values()
        for record in own
    }
    return "; ".join(sorted(named))
