"""The figure of the benchmark's sweeps: step time over backprop's, with the limit of operations as a line."""

from __future__ import annotations

from io import BytesIO
from typing import Any

Record = dict[str, Any]

_LABELS = {"width": "width", "depth": "hidden layers", "batch": "batch", "steps": "steps T"}
_COLORS = {
    "fa": "#e69f00",
    "dfa": "#0072b2",
    "drtp-streaming": "#009e73",
    "dkp": "#56b4e9",
    "fdfa": "#d55e00",
    "fg-a": "#cc79a7",
    "biotorch-dfa": "#000000",
    "biotorch-fa": "#7f7f7f",
}
_OTHER = "#999999"
_PANEL_WIDTH, _HEIGHT = 3.1, 3.6


def sweeps(record: Record, source: str) -> bytes:
    """Draw step times over backprop's against each dimension that was swept.

    Args:
        record: What `feedalign bench --sweep all` writes.
        source: What the file says of where its numbers come from.

    Returns:
        The image, SVG; the same bytes for the same arguments.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = [name for name in _LABELS if any(case["sweep"] == name for case in record["cases"])]
    # Text stays text, in a viewer's own font; identifiers come from the salt instead of chance.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "feedalign", "font.family": "sans-serif"}):
        figure = Figure(figsize=(_PANEL_WIDTH * max(len(names), 1) + 0.4, _HEIGHT))
        figure.subplots_adjust(left=0.07, right=0.99, bottom=0.15, top=0.74, wspace=0.2)
        handles: dict[str, Any] = {}
        for place, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), place + 1)
            handles |= _draw(axes, [case for case in record["cases"] if case["sweep"] == name], name)
            if place == 0:
                axes.set_ylabel("step time over backprop's")
        if handles:
            figure.legend(list(handles.values()), list(handles), loc="upper center", ncols=5, frameon=False, fontsize=8)
        image = BytesIO()
        FigureCanvasSVG(figure).print_svg(image, metadata={"Date": None, "Creator": None, "Description": source})
    return image.getvalue()


def _draw(axes: Any, cases: list[Record], name: str) -> dict[str, Any]:
    """One panel: a line for each contestant, dashed its limit; returns the entries of the legend."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    sizes = [case["size"][name] for case in cases]
    by_case = [{row["name"]: row for row in case["rows"]} for case in cases]
    handles: dict[str, Any] = {}
    for one in dict.fromkeys(found for rows in by_case for found in rows if found != "backprop"):
        here = [(size, rows[one]) for size, rows in zip(sizes, by_case, strict=True) if one in rows]
        style = {"color": _COLORS.get(one, _OTHER)}
        times = [row["step"]["median"] for _, row in here]
        (handles[one],) = axes.plot([size for size, _ in here], times, "-o", markersize=3, label=one, **style)
        limits = [row["limit"] for _, row in here]
        if None not in limits:
            (line,) = axes.plot([size for size, _ in here], limits, ":", linewidth=1.2, **style)
            if one == "dfa":
                handles["limit of operations (each in its color)"] = line
    axes.axhline(1.0, color="#555555", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS[name], title=f"{cases[0]['architecture']}")
    axes.title.set_fontsize(10)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", linewidth=0.6)
    return handles
