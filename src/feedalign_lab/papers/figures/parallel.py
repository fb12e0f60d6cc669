"""The alignment theorem of DRTP as a figure: angles and norms of signals over updates.

Source: Frenkel et al. 2021, Fig. 4 and Supplementary Note 1; see `papers.theorem`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.figures.figure import CheckMaker, Made, Run
from feedalign_lab.papers.theorem import CASES, OneExample, Signals, watch

PARALLEL = 1e-6
"""Degrees that count as none: those of rounding."""
NOT_PARALLEL = 1.0
"""Degrees above which signals are not parallel."""
_RIGHT_ANGLE = 90.0


@dataclass(frozen=True)
class Parallel:
    """The theorem's network, and those that break one of its conditions each.

    Attributes:
        cases: The networks.
    """

    cases: tuple[OneExample, ...] = CASES

    def make(self, run: Run) -> Made:
        """Train them on their one example; see `Recipe`."""
        found = [(case, watch(case)) for case in self.cases]
        angles = [_panel(case, rows, angles_of(case), "angle to backprop (degrees)", _angle) for case, rows in found]
        norms = [_panel(case, rows, norms_of(case), "norm of backprop's signal", _norm) for case, rows in found]
        return Made((*angles, *norms), run.size)


def angles_of(case: OneExample) -> str:
    """Title of the panel of a case's angles."""
    return f"{case.title}, K = {case.num_layers}"


def norms_of(case: OneExample) -> str:
    """Title of the panel of a case's norms."""
    return f"norms, {case.title}"


def is_parallel(claim: str, case: OneExample) -> CheckMaker:
    """Signals are parallel from update K on."""

    def check(drawing: Drawing) -> Check:
        late = [angle for x, angle in _all(drawing.panel(angles_of(case))) if x >= case.num_layers]
        worst = max(late)
        words = (
            f"the largest of {len(late)} angles from update {case.num_layers} on is {worst:.2g} degrees; below "
            f"{PARALLEL:g} counts as parallel"
        )
        return Check(claim, words, worst < PARALLEL, worst)

    return check


def is_zero_before(claim: str, case: OneExample) -> CheckMaker:
    """Backprop's signal is exactly zero before update K."""

    def check(drawing: Drawing) -> Check:
        early = [x for x, _ in _all(drawing.panel(norms_of(case))) if x < case.num_layers]
        words = f"{len(early)} of backprop's signals before update {case.num_layers} are not zero"
        words += "; none counts as holding"
        return Check(claim, words, not early, float(len(early)))

    return check


def is_within_right_angle(claim: str, case: OneExample) -> CheckMaker:
    """Signals are within 90 degrees of each other from update 1 on, wherever there are two: the paper's statement."""

    def check(drawing: Drawing) -> Check:
        found = [angle for x, angle in _all(drawing.panel(angles_of(case))) if x > 0]
        worst = max(found)
        words = (
            f"the largest of {len(found)} angles from update 1 on is {worst:.2g} degrees; below {_RIGHT_ANGLE:g} "
            "counts as holding, and where backprop's signal is zero there is no angle"
        )
        return Check(claim, words, worst < _RIGHT_ANGLE, worst)

    return check


def is_not_parallel(claim: str, case: OneExample) -> CheckMaker:
    """Signals are not exactly parallel where a condition is broken: the control.

    Args:
        claim: Ours.
        case: The network.

    Returns:
        The check; it says as well what the angles mean for the paper's weaker statement, that of 90 degrees.
    """

    def check(drawing: Drawing) -> Check:
        found = [(x, angle) for x, angle in _all(drawing.panel(angles_of(case))) if x > 0]
        worst = max(angle for x, angle in found if x >= case.num_layers)
        largest, when = max((angle, x) for x, angle in found)
        weaker = "beyond" if largest >= _RIGHT_ANGLE else "not beyond"
        words = (
            f"the largest angle from update {case.num_layers} on is {worst:.3g} degrees; above {NOT_PARALLEL:g} counts "
            f"as not parallel. The largest from update 1 on, {largest:.3g} at update {when:g}, is {weaker} the "
            f"{_RIGHT_ANGLE:g} degrees of the paper's own, weaker statement"
        )
        return Check(claim, words, worst > NOT_PARALLEL, worst)

    return check


def _all(panel: Panel) -> list[tuple[float, float]]:
    return [pair for series in panel.series for pair in zip(series.x, series.mean, strict=True)]


def _angle(row: Signals) -> float | None:
    return row.angle if row.backprop and row.drtp else None


def _norm(row: Signals) -> float | None:
    return row.backprop or None


def _panel(
    case: OneExample, rows: Sequence[Signals], title: str, y_label: str, value: Callable[[Signals], float | None]
) -> Panel:
    series = []
    for layer in range(1, case.num_layers):
        points = [(float(row.step), y) for row in rows if row.layer == layer and (y := value(row)) is not None]
        series.append(Series(f"layer {layer}", tuple(x for x, _ in points), tuple(y for _, y in points)))
    # From the start, so that it is seen where there is no signal yet.
    x_range = (-0.5, case.num_steps + 0.5)
    if value is _angle:
        return Panel(title, "updates", y_label, tuple(series), guide=90.0, x_range=x_range)
    return Panel(title, "updates", y_label, tuple(series), y_scale="log", x_range=x_range)
