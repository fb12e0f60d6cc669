"""Figures drawn from recorded results, as SVG."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import bench_figures

Record = dict[str, Any]

_LINES = (
    ("bptt", "backprop through time", "#d55e00", "--"),
    ("dfa", "DFA", "#0072b2", "-"),
)
_PANEL_WIDTH, _HEIGHT = 2.9, 3.0


def stale(records: Path, folder: Path) -> list[str]:
    """Return the names of the figures that are not drawn from their record as it is.

    Each figure holds the digest of what it was drawn from and by, so that neither another version of matplotlib nor
    another machine makes one stale.

    Args:
        records: The folder of the records; a figure whose record is not there is never stale.
        folder: The folder of the figures.
    """
    found = []
    for name, (source, drawn) in FROM_RECORDS.items():
        record, figure = records / f"{source}.json", folder / f"{name}.svg"
        if record.exists() and not (figure.exists() and _digest(record, drawn) in figure.read_text(encoding="utf-8")):
            found.append(name)
    return found


def draw(name: str, records: Path, folder: Path) -> None:
    """Draw a figure from its record.

    Args:
        name: The figure.
        records: The folder of the records.
        folder: Where `NAME.svg` is written.
    """
    source, drawn = FROM_RECORDS[name]
    path = records / f"{source}.json"
    folder.mkdir(parents=True, exist_ok=True)
    svg = drawn(json.loads(path.read_text(encoding="utf-8")), f"docs/records/{source}.json, {_digest(path, drawn)}")
    (folder / f"{name}.svg").write_bytes(svg)


def backward_time(record: Record, source: str) -> bytes:
    """Draw the time of the backward pass against the number of steps, a panel for each kind of layer.

    Args:
        record: What `python -m benchmarks` writes of recurrent networks.
        source: What the file says of where its numbers come from.

    Returns:
        The image; the same bytes for the same arguments.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    cases = record["backward_time"]
    # Text stays text, in a viewer's own font; identifiers come from the salt instead of chance.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "feedalign", "font.family": "sans-serif"}):
        figure = Figure(figsize=(_PANEL_WIDTH * len(cases) + 0.4, _HEIGHT))
        figure.subplots_adjust(left=0.08, right=0.99, bottom=0.16, top=0.80, wspace=0.12)
        panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
        for axes, case in zip(panels, cases, strict=True):
            for key, label, color, dashes in _LINES:
                axes.plot(case["lengths"], case["ms"][key], dashes, marker="o", markersize=3, color=color, label=label)
            axes.set(xscale="log", yscale="log", title=f"nn.{case['cell'].upper()}, {case['shape']}", xlabel="steps T")
            axes.title.set_fontsize(10)
            axes.xaxis.set_major_locator(FixedLocator(case["lengths"]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
            axes.grid(color="#dddddd", linewidth=0.6)
        panels[0].set_ylabel("backward pass (ms)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", ncols=len(_LINES), frameon=False)
        image = BytesIO()
        metadata = {"Date": None, "Creator": None, "Description": source}
        FigureCanvasSVG(figure).print_svg(image, metadata=metadata)
    return image.getvalue()


def _digest(record: Path, drawn: Callable[[Record, str], bytes]) -> str:
    """What stands for the record's content and for how it is drawn."""
    return hashlib.sha256(record.read_bytes() + Path(inspect.getfile(drawn)).read_bytes()).hexdigest()[:16]


FROM_RECORDS: dict[str, tuple[str, Callable[[Record, str], bytes]]] = {
    "backward-time": ("bench-recurrent", backward_time),
    "bench-rules": ("bench-rules", bench_figures.sweeps),
}
"""For each figure, the record that it is drawn from, and what draws it."""
