"""Accuracy against the strength of each limit of hardware."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feedalign_lab.limits_sweep import CONTROLS, Point, Series, SweepPlan
from feedalign_lab.plots import as_png

PANELS: Mapping[str, tuple[str, str]] = {
    "error-bits": ("bits of the error", "log2"),
    "error-ternary": ("threshold of a ternary error", "log"),
    "feedback-bits": ("bits of the feedback", "log2"),
    "feedback-density": ("share of feedback that is not zero", "log"),
    "noise": ("noise over the signal's rms", "log"),
    "delay": ("steps that the error is late", "log2"),
}
"""Heading and scale of each panel, by the limit that varies."""
_COLORS = {
    "backprop": "#000000",
    "shallow": "#7f7f7f",
    "dfa": "#0072b2",
    "dkp": "#d55e00",
    "dfa, tanh units": "#009e73",
    "error-scale=row": "#9b1fe8",
    "error-rounding=stochastic": "#e69f00",
}
_OTHER = "#cc79a7"
_LOWEST = 55.0
_PER_ROW, _WIDTH, _HEIGHT = 3, 4.0, 3.1
_HIGH_IS_FREE = ("error-bits", "feedback-bits", "feedback-density")


def accuracies(points: Sequence[Mapping[str, Any]], wanted: Point) -> list[float]:
    """Accuracies of the trials of a point that did not diverge, in percent; none where it was not trained.

    Args:
        points: Of a record.
        wanted: The point.
    """
    return [
        accuracy
        for point in points
        if (point["network"], point["rule"], point["limits"]) == wanted
        for accuracy in point["accuracy"]
        if accuracy is not None
    ]


def draw_limits(points: Sequence[Mapping[str, Any]], plan: SweepPlan) -> bytes:
    """Mean accuracy with one standard deviation over seeds, a panel for each limit; horizontal lines have none.

    The tightest limit is on the right of each panel. Points whose trials all diverged are left out, and the axis ends
    where few points lie below.

    Args:
        points: Of a record.
        plan: The lines.

    Returns:
        The PNG image.
    """
    series = [replace(line, network=line.network or plan.network) for line in plan.series]
    shown = [panel for panel in PANELS if any(_drawn(points, line) for line in series if line.panel == panel)]
    num_rows = max(1, -(-len(shown) // _PER_ROW))
    figure = Figure(figsize=(_PER_ROW * _WIDTH, num_rows * _HEIGHT + 0.9), layout="constrained")
    figure.suptitle(f"{plan.data}, {plan.network}, {plan.epochs} epochs, {plan.trials} seeds")
    first: Axes | None = None
    handles: dict[str, Any] = {}
    for position, panel in enumerate(shown):
        axes = figure.add_subplot(num_rows, _PER_ROW, position + 1, sharey=first)
        first = first or axes
        _draw_free(axes, points, plan, [line for line in series if line.panel == panel])
        for number, line in enumerate(line for line in series if line.panel == panel):
            _draw_line(axes, points, line, number)
        heading, scale = PANELS[panel]
        axes.set(xlabel=heading, ylabel="test accuracy (%)")
        axes.set_xscale("log", base=2 if scale == "log2" else 10)
        values = sorted({value for line in series if line.panel == panel for value in line.values})
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        if panel in _HIGH_IS_FREE:
            axes.invert_xaxis()
        lines, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, lines, strict=True))
    if first is not None:
        first.set_ylim(bottom=max(_LOWEST, first.get_ylim()[0]))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize="small")
    return as_png(figure)


def _drawn(points: Sequence[Mapping[str, Any]], line: Series) -> list[tuple[float, list[float]]]:
    """Strengths of a line with the accuracies there are."""
    found = [
        (value, accuracies(points, Point(line.network, line.rule, line.limits(value)))) for value in sorted(line.values)
    ]
    return [(value, numbers) for value, numbers in found if numbers]


def _draw_line(axes: Axes, points: Sequence[Mapping[str, Any]], line: Series, number: int) -> None:
    drawn = _drawn(points, line)
    if not drawn:
        return
    markers = "osD^v"
    axes.errorbar(
        [value for value, _ in drawn],
        [statistics.mean(numbers) for _, numbers in drawn],
        [statistics.stdev(numbers) if len(numbers) > 1 else 0.0 for _, numbers in drawn],
        label=line.label or line.rule,
        marker=markers[number % len(markers)],
        markersize=4,
        capsize=2,
        color=_color(line),
        linestyle=":" if line.extra else "-",
        linewidth=1.4,
    )


def _color(line: Series) -> str:
    """Of a rule, or of what is varied of it."""
    return _COLORS.get(line.extra or line.label or line.rule, _OTHER)


def _draw_free(axes: Axes, points: Sequence[Mapping[str, Any]], plan: SweepPlan, series: Sequence[Series]) -> None:
    """Horizontal lines of what has no limits."""
    lines = {(plan.network, rule): (_COLORS[rule], rule) for rule in CONTROLS}
    for line in series:
        if not line.extra:
            lines[line.network, line.rule] = _color(line), line.label or line.rule
    for (network, rule), (color, name) in lines.items():
        numbers = accuracies(points, Point(network, rule, ""))
        if numbers:
            label = f"{name} without limits"
            axes.axhline(statistics.mean(numbers), color=color, linewidth=0.8, linestyle="--", label=label)
