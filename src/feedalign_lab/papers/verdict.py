"""What the trials on file say of a printed number."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from feedalign_lab.papers.cells import Cell, better_of
from feedalign_lab.papers.store import Curve, TrialRecord, configuration_hash
from feedalign_lab.records import NUM_LAST_EPOCHS, best_of

Word = Literal["reproduced", "better", "worse", "incomplete", "not run"]
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Verdict:
    """A printed number beside ours.

    Attributes:
        word: "reproduced" where ours lies within the slack of the printed number, "better" or "worse" where it lies
            beyond, by the protocol of the paper; "incomplete" where there are fewer epochs or trials than that;
            "not run" where there are no trials.
        mean: Ours, over the finished trials; nan where there is none.
        std: Its standard deviation; nan for a single trial.
        num_trials: Trials that the mean is over.
        num_diverged: Trials that diverged before the epoch that counts, or have no such number: a cell that has any is
            never "reproduced" or "better".
        epochs: Passes over the training data of these trials.
        gap: Ours minus the printed number.
        slack: The larger of the cell's tolerance and two standard errors of the gap.
        label: What is missing in words, such as "20 of 100 epochs, 3 of 10 trials"; empty for a whole protocol.
        num_foreign: Records of this cell that were made under another configuration, which are left out.
    """

    word: Word
    mean: float = math.nan
    std: float = math.nan
    num_trials: int = 0
    num_diverged: int = 0
    epochs: int = 0
    gap: float = math.nan
    slack: float = math.nan
    label: str = ""
    num_foreign: int = 0

    @property
    def is_within(self) -> bool:
        """Whether ours lies within the slack, whatever the protocol."""
        return abs(self.gap) <= self.slack


def judge(cell: Cell, records: Sequence[TrialRecord]) -> Verdict:
    """Put a printed number and the trials on file side by side.

    The trials of the whole protocol count; where there are none, those with the most epochs that differ in nothing
    else.

    Args:
        cell: The cell.
        records: Of any cells.

    Returns:
        The verdict.
    """
    if cell.elsewhere:
        return Verdict("not run")
    chosen = counted(cell, records)
    num_foreign = sum(record.cell == cell.name and not _is_reduced_or_whole(cell, record) for record in records)
    if not chosen:
        return Verdict("not run", num_foreign=num_foreign)
    return _verdict(cell, chosen, num_foreign)


def counted(cell: Cell, records: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The trials that count for a cell.

    Args:
        cell: The cell; one that is trained elsewhere has none.
        records: Of any cells.

    Returns:
        Those of the cell's own configuration with the most epochs, by their numbers; a trial whose number is beyond
        its protocol's is none of them.
    """
    own = [record for record in records if _is_reduced_or_whole(cell, record) and record.trial < cell.protocol.trials]
    if not own:
        return ()
    most = max(record.configuration["epochs"] for record in own)
    chosen = [record for record in own if record.configuration["epochs"] == most]
    return tuple(sorted(chosen, key=lambda record: record.trial))


def value_of(cell: Cell, curve: Curve, metric: str) -> float:
    """What a paper would have read off a trial.

    Args:
        cell: Says which metric, and at which epoch.
        curve: The trial's numbers.
        metric: Name of the task's metric.

    Returns:
        The number, in the unit of the table; nan where the trial has no such metric or no epoch.
    """
    column = curve.others.get(cell.measured, ()) if cell.measured else curve.test
    if not column:
        return math.nan
    value = _read(cell, column, curve, metric)
    # An error in percent is what an accuracy lacks to a hundred, and the other way round.
    return 100.0 - value if {cell.metric, metric} == {"accuracy", "error"} and not cell.measured else value


def _read(cell: Cell, column: Sequence[float], curve: Curve, metric: str) -> float:
    """The number at the epoch that counts."""
    match cell.protocol.reading:
        case "last":
            return column[-1]
        case "last ten":
            return statistics.fmean(column[-NUM_LAST_EPOCHS:])
        case "chosen":
            place = best_of(list(zip(curve.validation, range(len(column)), strict=False)), better_of(metric))
            return math.nan if place is None else column[place]
        case "best":
            return min(column) if better_of(cell.measured or metric) == "lower" else max(column)


def _is_reduced_or_whole(cell: Cell, record: TrialRecord) -> bool:
    """Whether a record was made under a cell's configuration, for as many epochs or fewer."""
    epochs = record.configuration.get("epochs")
    if cell.elsewhere or not isinstance(epochs, int) or not 0 < epochs <= cell.protocol.epochs:
        return False
    return record.key == _key(cell, epochs)


@cache
def _key(cell: Cell, epochs: int) -> str:
    """The hash of a cell's configuration for a number of epochs."""
    return configuration_hash(cell.configuration(epochs))


def _verdict(cell: Cell, records: Sequence[TrialRecord], num_foreign: int) -> Verdict:
    """The verdict of trials under one configuration."""
    epochs: int = records[0].configuration["epochs"]
    finished = [record for record in records if _has_number(cell, record)]
    values = [value_of(cell, record.curve, record.metric) for record in finished]
    num_diverged = len(records) - len(finished)
    mean = statistics.fmean(values) if values else math.nan
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    gap, slack = mean - cell.published.mean, _slack(cell, std, len(values))
    label = _label(cell, epochs, len(records))
    return Verdict(
        word="incomplete" if label else _word(cell, gap, slack, num_diverged),
        mean=mean,
        std=std,
        num_trials=len(finished),
        num_diverged=num_diverged,
        epochs=epochs,
        gap=gap,
        slack=slack,
        label=label,
        num_foreign=num_foreign,
    )


def _has_number(cell: Cell, record: TrialRecord) -> bool:
    """Whether a trial gives the number of its table: one that blew up after the epoch that counts still does."""
    if not math.isfinite(value_of(cell, record.curve, record.metric)):
        return False
    if record.status == "finished":
        return True
    return cell.protocol.reading in {"chosen", "best"} and len(record.curve.test) == record.configuration["epochs"]


def _slack(cell: Cell, std: float, num_trials: int) -> float:
    """How far apart the two numbers may lie."""
    published = cell.published
    variance = std**2 / num_trials if num_trials > 1 else 0.0
    if published.std is not None and published.trials:
        variance += published.std**2 / published.trials
    return max(cell.tolerance, _STANDARD_ERRORS * math.sqrt(variance))


def _word(cell: Cell, gap: float, slack: float, num_diverged: int) -> Word:
    """The verdict of a whole protocol; what diverged, or is no number, is worse."""
    if num_diverged or math.isnan(gap):
        return "worse"
    if abs(gap) <= slack:
        return "reproduced"
    return "better" if (gap < 0) == (cell.better == "lower") else "worse"


def _label(cell: Cell, epochs: int, num_trials: int) -> str:
    """What a protocol lacks."""
    asked = (("epochs", epochs, cell.protocol.epochs), ("trials", num_trials, cell.protocol.trials))
    return ", ".join(f"{ours} of {theirs} {what}" for what, ours, theirs in asked if ours < theirs)
