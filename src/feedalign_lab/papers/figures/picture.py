"""The picture of a drawing: nothing in it that its data does not have."""

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from feedalign_lab.choices import rule_names
from feedalign_lab.papers.figures.drawing import Drawing, Panel, Series
from feedalign_lab.plots import as_png, line_style

_PANEL_WIDTH, _PANEL_HEIGHT = 4.6, 3.6
_MOST_COLUMNS = 3
_CHARACTERS_PER_INCH = 17
_LINE_HEIGHT = 0.14
_MOST_IN_A_PANEL = 9
_MARKERS = "os^Dv<>P"
_COUNTED = ("epoch", "updates")
_RIGHT_ANGLE = 90.0
_FROM_ZERO = "density"
_FEW_DECADES = 300.0


def draw(drawing: Drawing) -> bytes:
    """Draw panels with title, label and caption.

    Args:
        drawing: What to draw.

    Returns:
        The PNG image.
    """
    num_columns = _num_columns(len(drawing.panels))
    num_rows = math.ceil(len(drawing.panels) / num_columns)
    width = num_columns * _PANEL_WIDTH
    text = _below(drawing, int(width * _CHARACTERS_PER_INCH))
    height_of_text = _LINE_HEIGHT * (text.count("\n") + 2)
    figure = Figure(figsize=(width, num_rows * _PANEL_HEIGHT + height_of_text + 0.5), layout="constrained")
    rows = GridSpec(2, 1, figure, height_ratios=(num_rows * _PANEL_HEIGHT + 0.5, height_of_text))
    panels, words = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    label = f" ({drawing.label})" if drawing.label else ""
    panels.suptitle(textwrap.fill(f"{drawing.title}{label}", int(width * 9)), fontsize="medium")
    words.text(0.01, 0.95, text, va="top", ha="left", fontsize=7.5)
    for number, panel in enumerate(drawing.panels, start=1):
        _draw_panel(panels.add_subplot(num_rows, num_columns, number), panel)
    return as_png(figure)


def _num_columns(num_panels: int) -> int:
    """Four panels are two rows of two."""
    return 2 if num_panels == 4 else max(1, min(num_panels, _MOST_COLUMNS))


def _below(drawing: Drawing, width: int) -> str:
    """Caption, and each statement with what was measured."""
    so_far = drawing.so_far.upper()
    words = {True: f"HOLDS{so_far}", False: f"FAILS{so_far}", None: "OPEN"}
    protocol = f"Reduced: {drawing.label}. " if drawing.label else ""
    lines = textwrap.wrap(protocol + drawing.caption, width)
    for check in drawing.checks:
        whose = "Ours: " if check.source == "ours" else ""
        text = f"{words[check.holds]}: {whose}{check.claim} Here {check.measured}."
        lines += textwrap.wrap(text, width, initial_indent="\N{BULLET} ", subsequent_indent="   ")
    return "\n".join(lines)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label, xscale=panel.x_scale, yscale=panel.y_scale)
    axes.title.set_fontsize("medium")
    if panel.guide is not None:
        axes.axhline(panel.guide, color="#bbbbbb", linewidth=0.8)
    for place, series in enumerate(panel.series):
        if series.mean:
            _draw_series(axes, series, _look(panel, place), _MARKERS[place % len(_MARKERS)])
    if axes.get_legend_handles_labels()[1]:
        is_long = len(panel.series) > _MOST_IN_A_PANEL
        axes.legend(fontsize="xx-small" if is_long else "x-small", ncols=2 if is_long else 1)
        _scale(axes, panel)
    else:
        axes.text(0.5, 0.5, "nothing on file", ha="center", va="center", transform=axes.transAxes, color="#777777")


def _scale(axes: Axes, panel: Panel) -> None:
    """Set ends and ticks of the axes."""
    if panel.is_map:
        axes.set(xticks=[], yticks=[])
    elif panel.x_label in _COUNTED:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if panel.y_label == _FROM_ZERO:
        axes.set_ylim(bottom=0)
    if panel.x_range is not None:
        axes.set_xlim(*panel.x_range)
    if panel.guide == _RIGHT_ANGLE:
        axes.set_ylim(-3, max(105.0, axes.get_ylim()[1]))
    ends = ((axes.xaxis, panel.x_scale, axes.get_xlim()), (axes.yaxis, panel.y_scale, axes.get_ylim()))
    for axis, scale, (low, high) in ends:
        if scale == "log" and high < low * _FEW_DECADES:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def _look(panel: Panel, place: int) -> dict[str, Any]:
    """Color, dash and width."""
    if panel.is_ordered:
        share = place / max(1, len(panel.series) - 1)
        return {"color": colormaps["viridis"](0.9 * (1 - share)), "linestyle": "-", "linewidth": 1.4}
    places = [rule_names().index(one.rule) for one in panel.series if one.rule in rule_names()]
    colors = {line_style(number)["color"] for number in places}
    # The same color for a rule in all panels, but where there are too few for the rules of this one.
    is_by_rule = len(places) == len(panel.series) == len(colors)
    return line_style(places[place] if is_by_rule else place)


def _draw_series(axes: Axes, series: Series, look: dict[str, Any], marker: str) -> None:
    x, mean = np.array(series.x), np.array(series.mean)
    std = np.nan_to_num(np.array(series.std)) if series.std else np.zeros_like(mean)
    match series.style:
        case "fit":
            axes.plot(x, mean, label=series.name, color=look["color"], linewidth=0.8)
        case "dots":
            axes.plot(x, mean, ".", markersize=2, color=look["color"], label=series.name)
        case "points":
            bars = std if std.any() else None
            axes.errorbar(
                x, mean, bars, fmt=marker, markersize=4, color=look["color"], label=series.name, elinewidth=0.8
            )
        case "line":
            axes.plot(x, mean, label=series.name, marker="o" if len(x) == 1 else None, markersize=3, **look)
            axes.fill_between(x, mean - std, mean + std, color=look["color"], alpha=0.15, linewidth=0)
