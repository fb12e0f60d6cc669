"""Angles of the layers' weight gradients to backprop's, over training.

Source: Bacho & Chu 2022, Eq. 20 and Fig. 4; 2024, Fig. 8.
"""

import statistics
from collections.abc import Mapping, Sequence

from feedalign_lab.papers.figures.checks import ANY_GAP, NOT_THERE
from feedalign_lab.papers.figures.curves import CurvePanel, Line
from feedalign_lab.papers.figures.drawing import Check, Drawing
from feedalign_lab.papers.figures.figure import CheckMaker
from feedalign_lab.task import Trial


def weight_angles(trial: Trial) -> Mapping[str, float]:
    """Angles between the rule's and backprop's gradient of each layer's weight, in degrees."""
    return {_column(entry.layer): entry.weight for entry in trial.alignment()}


def angle_panels(rules: Sequence[str], num_hidden: int) -> tuple[CurvePanel, ...]:
    """A panel per rule with a line per hidden layer; the output layer always has backprop's own gradient."""
    return tuple(
        CurvePanel(
            rule,
            "angle to backprop (degrees)",
            tuple(Line(name, rule, "other", _column(layer)) for name, layer in _layers(num_hidden)),
            guide=90.0,
        )
        for rule in rules
    )


def falls_short_by(claim: str, better: str, worse: str, num_hidden: int, degrees: float) -> CheckMaker:
    """The mean angle over hidden layers is smaller by so many degrees under one rule than under another, in the end.

    Args:
        claim: The paper's.
        better: Title of the panel of the rule that is to be aligned better.
        worse: That of the other.
        num_hidden: Hidden layers.
        degrees: The printed difference; two thirds of it count as holding.

    Returns:
        The check.
    """

    def check(drawing: Drawing) -> Check:
        one, other = _ends(drawing, better, num_hidden), _ends(drawing, worse, num_hidden)
        if not one or not other:
            return Check(claim, NOT_THERE, None)
        gap = statistics.fmean(other) - statistics.fmean(one)
        words = (
            f"mean over hidden layers in the end {statistics.fmean(one):.1f} degrees under {better}, "
            f"{statistics.fmean(other):.1f} under {worse}"
        )
        words += f"; {f'{degrees * 2 / 3:g} apart count as holding' if degrees else ANY_GAP}"
        return Check(claim, words, gap >= degrees * 2 / 3 and gap > 0, gap)

    return check


def is_aligned_better(claim: str, better: str, worse: str, num_hidden: int) -> CheckMaker:
    """The mean angle over hidden layers is smaller under one rule than under another, in the end."""
    return falls_short_by(claim, better, worse, num_hidden, 0.0)


def has_smallest_angle_in_last(claim: str, rule: str, num_hidden: int) -> CheckMaker:
    """The last hidden layer has the smallest angle."""

    def check(drawing: Drawing) -> Check:
        ends = _ends(drawing, rule, num_hidden)
        if not ends:
            return Check(claim, NOT_THERE, None)
        words = "in the end, from the first to the last: " + ", ".join(f"{end:.1f}" for end in ends)
        words += "; the smallest of them counts as holding"
        return Check(claim, words, min(ends) == ends[-1], ends[-1])

    return check


def _ends(drawing: Drawing, title: str, num_hidden: int) -> list[float]:
    found = [drawing.panel(title).find(name) for name, _ in _layers(num_hidden)]
    return [series.last[0] for series in found if series is not None]


def _layers(num_hidden: int) -> list[tuple[str, str]]:
    """Names in a legend, and those of the modules."""
    return [(f"layer {number}", f"fc{number}") for number in range(1, num_hidden + 1)]


def _column(layer: str) -> str:
    return f"angle of {layer}"
