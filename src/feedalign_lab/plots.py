"""Learning curves and angles as PNG images."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from feedalign_lab.choices import rule_names
from feedalign_lab.records import TrialResult, hidden_layers
from feedalign_lab.task import Metric

_PANEL_WIDTH, _PANEL_HEIGHT = 4.2, 3.4
_PANELS_PER_ROW = 3
# Color and dash both tell the rules apart, for print and for the color-blind.
_COLORS = ("#000000", "#7f7f7f", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#e69f00", "#9b1fe8")
_DASHES = ("-", "--", "-.", ":")


def draw_learning_curves(rules: Sequence[str], trials: Sequence[TrialResult], title: str, metric: Metric) -> bytes:
    """The metric on the test part over epochs, a line per rule with a band of one standard deviation over trials.

    Args:
        rules: The rules to draw, in the order of the legend.
        trials: Results of any trials; each adds the epochs it completed.
        title: Heading of the image.
        metric: What the trials are judged by.

    Returns:
        The PNG image.
    """
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for rule in rules:
        curves = [[epoch.test_score for epoch in trial.epochs] for trial in trials if trial.rule == rule]
        _draw_band(axes, curves, rule)
    axes.set(xlabel="epoch", ylabel=f"test {metric.heading}", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    scores = [epoch.test_score for trial in trials for epoch in trial.epochs if math.isfinite(epoch.test_score)]
    if metric.better == "lower" and scores and min(scores) > 0:
        _use_log_scale(axes, min(scores), max(scores))
    if axes.has_data():
        axes.legend(ncols=2, fontsize="small")
    return as_png(figure)


def draw_angles(rules: Sequence[str], trials: Sequence[TrialResult], title: str) -> bytes | None:
    """Angle between the rule's delta and backprop's over epochs, a panel per layer.

    Args:
        rules: The rules to draw, in the order of the legend.
        trials: Results of any trials.
        title: Heading of the image.

    Returns:
        The PNG image; None where no layer has an angle.
    """
    layers = _layer_names(trials)
    if not layers:
        return None
    num_rows = max(1, math.ceil(len(layers) / _PANELS_PER_ROW))
    num_columns = max(1, min(len(layers), _PANELS_PER_ROW))
    figure = Figure(figsize=(num_columns * _PANEL_WIDTH + 1.6, num_rows * _PANEL_HEIGHT + 0.4), layout="constrained")
    figure.suptitle(title)
    handles: dict[str, Any] = {}
    for position, layer in enumerate(layers):
        axes = figure.add_subplot(num_rows, num_columns, position + 1)
        axes.axhline(90, color="#bbbbbb", linewidth=0.8)
        for rule in rules:
            curves = [_angle_curve(trial, layer) for trial in trials if trial.rule == rule]
            _draw_band(axes, curves, rule)
        axes.set(xlabel="epoch", ylabel="angle to backprop (degrees)", title=layer)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        # Backprop's own line lies at zero: leave it visible.
        axes.set_ylim(-3, max(105.0, axes.get_ylim()[1]))
        lines, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, lines, strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    return as_png(figure)


def _use_log_scale(axes: Axes, smallest: float, largest: float) -> None:
    """Set the errors on a log scale, on which the good rules can still be told apart, with plain numbers."""
    axes.set_yscale("log")
    axes.set_ylim(smallest * 0.8, largest * 1.2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _layer_names(trials: Sequence[TrialResult]) -> list[str]:
    """Hidden layers in forward order, those at which some rule has an angle."""
    entries = (entry for trial in trials for epoch in trial.epochs for entry in hidden_layers(epoch))
    angles: dict[str, list[float]] = {}
    for entry in entries:
        angles.setdefault(entry.layer, []).append(entry.delta)
    return [layer for layer, values in angles.items() if any(math.isfinite(value) for value in values)]


def _angle_curve(trial: TrialResult, layer: str) -> list[float]:
    """The delta angle of one layer, epoch by epoch."""
    angles = [{entry.layer: entry.delta for entry in epoch.alignment} for epoch in trial.epochs]
    return [by_layer.get(layer, math.nan) for by_layer in angles]


def _draw_band(axes: Axes, curves: Sequence[Sequence[float]], rule: str) -> None:
    """Mean over trials, and one standard deviation around it where two trials or more got that far."""
    longest = max((len(curve) for curve in curves), default=0)
    values: NDArray[np.float64] = np.full((len(curves), longest), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = curve
    epochs = [epoch for epoch in range(longest) if np.isfinite(values[:, epoch]).any()]
    if not epochs:
        return
    means = np.array([np.nanmean(values[:, epoch]) for epoch in epochs])
    # By the rule's place in the library, so that it looks the same in every comparison.
    style = line_style(rule_names().index(rule))
    x = np.array(epochs) + 1
    marker = "o" if len(epochs) == 1 else None
    axes.plot(x, means, label=rule, marker=marker, **style)
    spreads = np.array([_sample_std(values[:, epoch]) for epoch in epochs])
    axes.fill_between(x, means - spreads, means + spreads, color=style["color"], alpha=0.15, linewidth=0)


def _sample_std(column: NDArray[np.float64]) -> float:
    """Standard deviation over the trials that have a value; 0 for a single one."""
    known = column[np.isfinite(column)]
    return float(known.std(ddof=1)) if len(known) > 1 else 0.0


def line_style(number: int) -> dict[str, Any]:
    """Color, dash and width of a line, as arguments of matplotlib's `plot`.

    Args:
        number: Place of the line among all there may be, from 0; so that it looks the same in every image.
    """
    return {"color": _COLORS[number % len(_COLORS)], "linestyle": _DASHES[number % len(_DASHES)], "linewidth": 1.4}


def as_png(figure: Figure) -> bytes:
    """Draw a figure as an image, without a display.

    Args:
        figure: The figure.

    Returns:
        The PNG image.
    """
    buffer = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
