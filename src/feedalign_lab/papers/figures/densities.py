"""How the activations of a hidden layer are distributed, and what becomes of that in training.

Source: Frenkel et al. 2021, Supp. Figs. 4 to 6.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.checks import NOT_THERE, compared
from feedalign_lab.papers.figures.curves import trained
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.figures.figure import CheckMaker, Made, Run, Size
from feedalign_lab.papers.store import TrialRecord
from feedalign_lab.running import evaluating
from feedalign_lab.task import Trial
from feedalign_lab.tensors import TensorTrial

_LAYER = "tanh1"
_NUM_BINS = 40
_WIDTH = 2 / _NUM_BINS
_NUM_EXAMPLES = 1000
_MOST_MOMENTS = 6
_SATURATED = 0.9
_X_LABEL, _Y_LABEL = "activation", "density"
CENTERS = tuple(round(-1 + (place + 0.5) * _WIDTH, 4) for place in range(_NUM_BINS))
ERRORS = "test error"


def density(trial: Trial) -> Mapping[str, float]:
    """The density of the first hidden layer's activations, over the first training examples.

    Args:
        trial: One on tensors, whose network has a tanh layer.

    Returns:
        A number for each of 40 bins from -1 to 1, named by its center; their mean is 1/2.
    """
    dataset = cast("TensorTrial", trial).dataset
    found = activations(trial.model, dataset.x_train[:_NUM_EXAMPLES])
    counts = torch.histc(found.float().cpu(), bins=_NUM_BINS, min=-1, max=1)
    shares = (counts / counts.sum() / _WIDTH).tolist()
    return {_name(center): share for center, share in zip(CENTERS, shares, strict=True)}


@torch.no_grad()
def activations(model: nn.Module, x: Tensor) -> Tensor:
    """The first hidden layer's activations, without dropout.

    Args:
        model: A network of the lab with a tanh layer.
        x: Inputs.

    Returns:
        `[N, H]`.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> None:
        del module, args
        found.append(output.detach())

    hook = model.get_submodule(_LAYER).register_forward_hook(keep, prepend=True)
    try:
        with evaluating(model):
            model(x)
    finally:
        hook.remove()
    return found[0]


@dataclass(frozen=True)
class Densities:
    """Densities over training, a panel per cell, beside the errors of all.

    Attributes:
        cells: What is trained, by the title of its panel.
    """

    cells: tuple[tuple[str, Cell], ...]

    def make(self, run: Run) -> Made:
        """Train what is missing, and draw; see `Recipe`."""
        found, remarks = trained(run, [cell for _, cell in self.cells], probe=density)
        errors = tuple(_errors(title, cell.rule, found[cell.name]) for title, cell in self.cells)
        panels = [Panel(ERRORS, "epoch", "test error (%)", errors)]
        for title, cell in self.cells:
            moments = tuple(_density(f"epoch {e}", e, found[cell.name]) for e in _moments(run.size.epochs))
            panels.append(Panel(title, _X_LABEL, _Y_LABEL, moments, is_ordered=True))
        return Made(tuple(panels), _done(run, found), remarks)


@dataclass(frozen=True)
class FinalDensities:
    """Densities at the end of training, a panel per data set, from the records of other figures.

    Attributes:
        parts: Title of the panel, name of the figure whose records are used, and its cells.
    """

    parts: tuple[tuple[str, str, tuple[tuple[str, Cell], ...]], ...]

    def make(self, run: Run) -> Made:
        """Train what is missing, and draw; see `Recipe`."""
        panels, done = [], []
        remarks: list[str] = []
        for title, figure, cells in self.parts:
            found, missing = trained(run, [cell for _, cell in cells], probe=density, figure=figure)
            series = (_density(name, run.size.epochs, found[cell.name], cell.rule) for name, cell in cells)
            panels.append(Panel(title, _X_LABEL, _Y_LABEL, tuple(series)))
            remarks += missing
            done.append(_done(run, found).trials)
        return Made(tuple(panels), Size(run.size.epochs, min(done)), tuple(remarks))


def is_more_saturated(claim: str, one: tuple[str, str], other: tuple[str, str]) -> CheckMaker:
    """More of one density than of another lies near -1 and 1.

    Args:
        claim: The paper's.
        one: Panel and series of the density that is to be more skewed; of a panel over training an empty name stands
            for the last.
        other: The same of the other.

    Returns:
        The check, by the share of activations beyond 0.9.
    """

    def check(drawing: Drawing) -> Check:
        first, second = (_find(drawing, *which) for which in (one, other))
        if first is None or second is None:
            return Check(claim, NOT_THERE, None)
        named = [name or title for title, name in (other, one)]
        lower, higher = ((n, share_saturated(s), math.nan) for n, s in zip(named, (second, first), strict=True))
        return compared(claim, lower, higher, f" (share of activations beyond {_SATURATED} in size)")

    return check


def share_saturated(series: Series) -> float:
    """The share of activations that are larger than 0.9 in size."""
    return sum(mean * _WIDTH for x, mean in zip(series.x, series.mean, strict=True) if abs(x) > _SATURATED)


def _find(drawing: Drawing, title: str, name: str) -> Series | None:
    panel = drawing.panel(title)
    found = panel.find(name) if name else panel.series[-1]
    return found if found is not None and found.mean else None


def _moments(epochs: int) -> list[int]:
    """Epochs to show: the first, the last, and some between, ever farther apart."""
    steps = [round(epochs ** (place / (_MOST_MOMENTS - 1))) for place in range(_MOST_MOMENTS)]
    return sorted({min(epochs, max(1, step)) for step in steps})


def _density(name: str, epoch: int, records: Sequence[TrialRecord], rule: str = "") -> Series:
    """A density after an epoch, over trials."""
    if not records:
        return Series(name, (), (), n=0, rule=rule)
    columns = [[record.curve.others[_name(center)][epoch - 1] for record in records] for center in CENTERS]
    means = tuple(map(statistics.fmean, columns))
    stds = tuple(statistics.stdev(column) if len(column) > 1 else math.nan for column in columns)
    return Series(name, CENTERS, means, stds, len(records), rule)


def _errors(name: str, rule: str, records: Sequence[TrialRecord]) -> Series:
    columns = list(zip(*(record.curve.test for record in records), strict=True))
    means = tuple(map(statistics.fmean, columns))
    stds = tuple(statistics.stdev(column) if len(column) > 1 else math.nan for column in columns)
    return Series(name, tuple(float(e) for e in range(1, len(columns) + 1)), means, stds, len(records), rule)


def _done(run: Run, found: Mapping[str, Sequence[TrialRecord]]) -> Size:
    counts = [len(records) for records in found.values() if records]
    return Size(run.size.epochs, min(counts, default=0))


def _name(center: float) -> str:
    return f"density at {center:g}"
