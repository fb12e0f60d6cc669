"""Hidden activations of the nodes of a graph in two dimensions, by t-SNE.

Source: Launay et al. 2020, Figs. 2 and A.2.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from feedalign_lab.domains import domain_of
from feedalign_lab.errors import LabError
from feedalign_lab.graphs.pictures import Scatter
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.checks import NOT_THERE
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.figures.figure import CheckMaker, Made, Run, Size
from feedalign_lab.training import run_trial

NUM_NEIGHBORS = 10


@dataclass(frozen=True)
class Scatters:
    """A map of the nodes per rule; the first trial of each, trained anew: it takes seconds.

    Attributes:
        cells: What is trained, node classifiers all.
    """

    cells: tuple[Cell, ...]

    def make(self, run: Run) -> Made:
        """Train, place the nodes and draw; see `Recipe`."""
        panels, remarks = [], []
        for cell in self.cells:
            try:
                panel, remark = _mapped(run, cell)
            except LabError as error:
                panel, remark = Panel(cell.rule, "", "", (), is_map=True), f"{cell.name} is missing: {error}"
            panels.append(panel)
            remarks += [remark] if remark else []
        return Made(tuple(panels), Size(run.size.epochs, 1), tuple(remarks))


def has_clusters(claim: str, rule: str, *, at_least: float | None = None, at_most: float | None = None) -> CheckMaker:
    """How many of a node's neighbors on the map are of its class.

    Args:
        claim: The paper's.
        rule: Name of the rule, the title of its panel.
        at_least: Percent, fixed before the first run, for a map that is to have clusters.
        at_most: Percent for one that is to have none.

    Returns:
        The check.
    """

    def check(drawing: Drawing) -> Check:
        panel = drawing.panel(rule)
        share = agreement(panel)
        if math.isnan(share):
            return Check(claim, NOT_THERE, None)
        limits = [
            f"{word} {limit:g} % {what}"
            for word, limit, what in (
                ("at least", at_least, "counts as clusters"),
                ("at most", at_most, "counts as none"),
            )
            if limit is not None
        ]
        words = (
            f"{share:.1f} % of a node's {NUM_NEIGHBORS} nearest on the map are of its class under {rule}, where "
            f"chance has {by_chance(panel):.1f} %; {'; '.join(limits)}"
        )
        holds = (at_least is None or share >= at_least) and (at_most is None or share <= at_most)
        return Check(claim, words, holds, share)

    return check


def alike(claim: str, one: str, other: str, slack: float) -> CheckMaker:
    """Two maps have clusters alike, by the neighbors of the same class.

    Args:
        claim: The paper's.
        one: Name of a rule.
        other: Name of another.
        slack: Percentage points, fixed before the first run.

    Returns:
        The check.
    """

    def check(drawing: Drawing) -> Check:
        first, second = agreement(drawing.panel(one)), agreement(drawing.panel(other))
        if math.isnan(first + second):
            return Check(claim, NOT_THERE, None)
        words = f"{first:.1f} % under {one}, {second:.1f} % under {other}; {slack:g} points count as alike"
        return Check(claim, words, abs(first - second) <= slack, first - second)

    return check


def agreement(panel: Panel) -> float:
    """Percent of the nearest points on a map that are of a point's own class; nan for an empty map."""
    from sklearn.neighbors import NearestNeighbors

    positions, labels = _points(panel)
    if len(positions) <= NUM_NEIGHBORS or not positions.std(axis=0).any():
        return math.nan if not len(positions) else by_chance(panel)
    # Without points of its own, it leaves each point out of its neighbors.
    near: NDArray[np.int64] = (
        NearestNeighbors(n_neighbors=NUM_NEIGHBORS).fit(positions).kneighbors(return_distance=False)
    )
    return float((labels[near] == labels[:, None]).mean() * 100)


def by_chance(panel: Panel) -> float:
    """The same percentage where points lie anywhere."""
    shares = np.array([len(series.x) for series in panel.series], dtype=float)
    return float(100 * ((shares / shares.sum()) ** 2).sum())


def _points(panel: Panel) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows = [(x, y) for series in panel.series for x, y in zip(series.x, series.mean, strict=True)]
    labels = [label for label, series in enumerate(panel.series) for _ in series.x]
    return np.array(rows, dtype=float).reshape(-1, 2), np.array(labels, dtype=int)


def _mapped(run: Run, cell: Cell) -> tuple[Panel, str]:
    """Train a cell's first trial and place its nodes."""
    # Imported late: PyTorch Geometric takes seconds.
    from feedalign_lab.graphs.nodes import NodeTrial

    plan = cell.plan(epochs=run.size.epochs, trials=1)
    task = domain_of(plan.data).load(plan, torch.device(run.device), run.tell)
    spec = plan.spec(cell.rule, 0)
    trial = cast("NodeTrial", task.trial(spec))
    result = run_trial(trial, spec, plan.schedule, run.watch(cell.name, 0, plan.schedule.epochs))
    if result.status == "interrupted":
        raise KeyboardInterrupt
    run.tell(f"placing the nodes under {cell.rule}", 0.5)
    scatter = Scatter.of_activations(trial.hidden(), trial.graph.labels)
    series = []
    for label, name in enumerate(trial.graph.classes):
        places = scatter.positions[scatter.labels == label]
        series.append(Series(str(name), _rounded(places[:, 0]), _rounded(places[:, 1]), style="dots"))
    score = result.epochs[-1].test_score
    remark = f"Test {task.metric.heading} under {cell.rule}: {score:.1f}."
    return Panel(cell.rule, "", "", tuple(series), is_map=True), remark


def _rounded(values: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)
