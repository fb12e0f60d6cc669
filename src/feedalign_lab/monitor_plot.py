"""What a Monitor recorded, over the steps of a training: a panel for each quantity, a line for each layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from feedalign.measure import MonitorRecord
from feedalign_lab.plots import as_png, line_style

QUANTITIES: Mapping[str, str] = {
    "angle": "gradient, degrees to backprop's",
    "angle_ewma": "gradient, degrees, moving average",
    "norm": "norm of the gradient",
    "norm_backprop": "norm of backprop's gradient",
    "ratio": "gradient's norm over backprop's",
    "signal_angle": "signal, degrees to backprop's",
    "signal_angle_ewma": "signal, degrees, moving average",
    "signal_norm": "norm of the teaching signal",
    "signal_norm_backprop": "norm of backprop's signal",
    "density": "share of activations not zero",
    "above_zero": "share of activations above zero",
    "dead": "units zero for the whole batch",
    "units": "units",
    "error_norm": "norm of the error",
    "replay_error": "relative error of the replay",
    "feedback_distance": "norm of B - W",
    "feedback_relative": "norm of B - W over that of W",
    "feedback_angle": "degrees between B and W",
}
"""What the axis of each quantity says; the names are those of the records and of TensorBoard."""
_ANGLES = frozenset(name for name in QUANTITIES if "angle" in name)
_SIZES = frozenset(name for name in QUANTITIES if "norm" in name) | {"ratio", "feedback_distance", "feedback_relative"}
_PER_ROW, _WIDTH, _HEIGHT = 3, 4.2, 3.2
# Lines that colors and dashes tell apart; of more, the colors tell the depth.
_NUM_TOLD_APART = 9
# Of a name in the legend, in inches.
_LINE_HEIGHT = 0.2
# Sizes over so many orders of magnitude are on a log scale.
_WIDE = 30.0
# Beyond these the arithmetic of an axis overflows.
_LEAST, _MOST = 1e-100, 1e100

Curves = dict[str, list[float]]


def curves_of(records: Sequence[MonitorRecord]) -> dict[str, Curves]:
    """Values of every quantity by line: a layer, the feedback's point, or the empty name for a whole step.

    Args:
        records: By rising steps.

    Returns:
        By quantity, a value for each record, nan where it has none, the layers in the model's order; quantities and
        lines without any value are left out.
    """
    found: dict[str, Curves] = {}
    for place, record in enumerate(records):
        for tag, value in record.scalars():
            quantity, _, line = tag.partition("/")
            lines = found.setdefault(quantity, {})
            if line not in lines:
                lines[line] = [math.nan] * len(records)
            lines[line][place] = value
    # A layer may have its first value after those above it.
    order = {row.layer or "(model)": number for number, row in enumerate(records[-1].layers)} if records else {}
    return {
        quantity: {line: lines[line] for line in sorted(lines, key=lambda line: order.get(line, len(order)))}
        for quantity, lines in found.items()
    }


def draw_monitor(records: Sequence[MonitorRecord], curves: Mapping[str, Curves], title: str) -> bytes:
    """Quantities over steps, a panel each, with a line for each layer; what is not finite leaves a gap.

    Args:
        records: By rising steps.
        curves: By quantity, those of `curves_of`.
        title: Heading of the image.

    Returns:
        The PNG image.
    """
    num_columns = max(1, min(len(curves), _PER_ROW))
    num_rows = max(1, math.ceil(len(curves) / num_columns))
    figure = Figure(figsize=(num_columns * _WIDTH + 1.6, num_rows * _HEIGHT + 0.4), layout="constrained")
    figure.suptitle(_literal(title))
    names = list(dict.fromkeys(line for lines in curves.values() for line in lines))
    handles: dict[str, Any] = {}
    for position, (quantity, lines) in enumerate(curves.items()):
        axes = figure.add_subplot(num_rows, num_columns, position + 1)
        for line, values in lines.items():
            drawn = [value if abs(value) < _MOST else math.nan for value in values]
            style = _style(names.index(line), len(names))
            marker = "o" if sum(map(math.isfinite, drawn)) == 1 else None
            handles[line] = axes.plot([record.step for record in records], drawn, marker=marker, **style)[0]
        _set_axes(axes, quantity, [value for values in lines.values() for value in values])
    _add_legend(figure, {name: handles[name] for name in names if name})
    return as_png(figure)


def _style(number: int, num_lines: int) -> dict[str, Any]:
    if num_lines <= _NUM_TOLD_APART:
        return line_style(number)
    return {"color": colormaps["viridis"](number / (num_lines - 1)), "linewidth": 1.2}


def _set_axes(axes: Axes, quantity: str, values: Sequence[float]) -> None:
    axes.set(xlabel="step", ylabel=QUANTITIES[quantity], title=quantity)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    known = [value for value in values if abs(value) < _MOST]
    if quantity in _ANGLES:
        axes.axhline(90, color="#bbbbbb", linewidth=0.8, zorder=0)
        # The exact gradient lies at zero: leave it visible.
        axes.set_ylim(-3, max(105.0, *known) if known else 105.0)
    elif quantity in _SIZES and known and min(known) > _LEAST and max(known) > _WIDE * min(known):
        axes.set_yscale("log")


def _add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Names beside the panels; of more than fit there, some at even distances from the first to the last."""
    names, num_fit = list(handles), int(figure.get_figheight() / _LINE_HEIGHT)
    if len(names) > num_fit:
        names = [names[round(place * (len(names) - 1) / (num_fit - 1))] for place in range(num_fit)]
    if names:
        labels = [_literal(name) for name in names]
        figure.legend([handles[name] for name in names], labels, loc="outside right upper", fontsize="small")


def _literal(text: str) -> str:
    """Text that matplotlib takes for no formula, and for no name of its own, as which it takes `_orig_mod`."""
    literal = text.replace("\\", "/").replace("$", r"\$")
    return f" {literal}" if literal.startswith("_") else literal
