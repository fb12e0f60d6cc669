"""What the page's script draws and lists: the learning curves of a cell, its settings, and the series of a figure."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.drawing import Drawing, Panel, Series
from feedalign_lab.papers.printed import how
from feedalign_lab.papers.rows import Row
from feedalign_lab.papers.store import TrialRecord
from feedalign_lab.papers.verdict import value_of

_SIGNIFICANT_DIGITS = 5
_MOST_POINTS = 4000
"""A figure with more is a picture alone: a page of megabytes helps nobody."""

Json = dict[str, Any]


def as_script(value: Any) -> str:
    """JSON that can stand in a page between the tags of a script.

    Args:
        value: Plain values, numbers among them being finite or None.

    Returns:
        The text, in which nothing can end the script.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def row_data(row: Row, unit: str) -> Json:
    """What is shown where a row is opened.

    Args:
        row: The row.
        unit: Of the table's numbers.

    Returns:
        Plain values: settings, trials and curves.
    """
    return {
        "about": _about(row.cell, unit),
        "settings": _pairs(row.trials[0].configuration if row.trials else {}),
        "environment": _environments(row.trials),
        "trials": [_trial(row, record) for record in row.trials],
        "seconds": [_numbers(itertools.accumulate(record.curve.seconds)) for record in row.trials],
        "panels": _panels(row, unit),
    }


def figure_data(drawing: Drawing) -> list[Json]:
    """The panels of a figure, for the script to draw.

    Args:
        drawing: The figure.

    Returns:
        The panels that are lines over an axis; none where there are too many points, or places on a map.
    """
    num_points = sum(len(series.x) for panel in drawing.panels for series in panel.series)
    if num_points > _MOST_POINTS:
        return []
    return [_figure_panel(panel) for panel in drawing.panels if not panel.is_map]


def _figure_panel(panel: Panel) -> Json:
    """A panel of a figure."""
    return {
        "title": panel.title,
        "x": panel.x_label,
        "y": panel.y_label,
        "xLog": panel.x_scale == "log",
        "yLog": panel.y_scale == "log",
        "guide": _short(panel.guide),
        "series": [_figure_series(series) for series in panel.series],
    }


def _figure_series(series: Series) -> Json:
    """A series of a figure."""
    return {
        "name": series.name,
        "x": _numbers(series.x),
        "y": _numbers(series.mean),
        "std": _numbers(series.std),
        "dots": series.style in {"dots", "points"},
    }


def _about(cell: Cell, unit: str) -> list[tuple[str, str]]:
    """What a cell is, and how it is to be trained."""
    published = cell.published
    runs = "not said" if published.trials is None else str(published.trials)
    return [
        ("data", cell.data),
        ("network", cell.network),
        ("rule", cell.rule),
        ("metric", f"{cell.measured or cell.metric}{f' ({unit})' if unit else ''}, {cell.better} is better"),
        ("protocol", how(cell)),
        ("its source", cell.protocol.source),
        ("tolerance", f"{cell.tolerance:g}, fixed before the first run"),
        ("trials in the paper", runs),
    ]


def _trial(row: Row, record: TrialRecord) -> Json:
    """A trial in a line."""
    value = math.nan if record.status == "diverged" else value_of(row.cell, record.curve, record.metric)
    return {
        "trial": record.trial,
        "status": _text(record.status) + (f": {_text(record.message)}" if record.message else ""),
        "value": _short(value),
        "epochs": len(record.curve.test),
        "seconds": _short(sum(second for second in record.curve.seconds if not math.isnan(second))),
        "stacked": _text(record.stacked),
        "ended": _text(record.ended),
    }


def _panels(row: Row, unit: str) -> list[Json]:
    """The curves of a cell, by what they are curves of; that which the verdict is of comes first."""
    cell, records = row.cell, row.trials
    title = f"{cell.measured or cell.metric}{f' ({unit})' if unit else ''}"
    main = {record.trial: _main(cell, record) for record in records}
    if not any(main.values()):
        return []
    printed = {"published": _short(cell.published.mean), "slack": _short(row.verdict.slack)}
    others = [_panel(name, found, records) for name, found in _others(cell, records).items() if any(found.values())]
    return [{**_panel(title, main, records), **printed}, *others, *_angle_panels(records)]


def _main(cell: Cell, record: TrialRecord) -> Sequence[float]:
    """The numbers that the verdict is read off, in the unit of the table."""
    curve = record.curve
    column = curve.others.get(cell.measured, ()) if cell.measured else curve.test
    return [_in_unit(cell, value, record.metric) for value in column]


def _in_unit(cell: Cell, value: float, metric: str) -> float:
    """A score as the table has it, where the task counts hits and the table misses, or the other way round."""
    is_other_way = {cell.metric, metric} == {"accuracy", "error"} and not cell.measured
    return 100.0 - value if is_other_way else value


def _others(cell: Cell, records: Sequence[TrialRecord]) -> dict[str, dict[int, Sequence[float]]]:
    """Everything else that has a number for each epoch, by name and trial."""
    columns: dict[str, dict[int, Sequence[float]]] = {
        "loss in training": {record.trial: record.curve.train_loss for record in records},
        f"{cell.metric} on the validation part": {
            record.trial: [_in_unit(cell, value, record.metric) for value in record.curve.validation]
            for record in records
        },
    }
    for name in dict.fromkeys(name for record in records for name in record.curve.others):
        if name != cell.measured:
            columns[_text(name)] = {record.trial: record.curve.others.get(name, ()) for record in records}
    if cell.measured:
        columns["main metric of the task"] = {record.trial: record.curve.test for record in records}
    return columns


def _panel(title: str, columns: Mapping[int, Sequence[float]], records: Sequence[TrialRecord]) -> Json:
    """Curves of all trials; the script counts the epochs itself where there is no x."""
    return {
        "title": title,
        "x": "epoch",
        "y": title,
        "series": [
            {
                "name": f"trial {record.trial}" + (" (diverged)" if record.status == "diverged" else ""),
                "y": _numbers(columns[record.trial]),
            }
            for record in records
        ],
    }


def _angle_panels(records: Sequence[TrialRecord]) -> list[Json]:
    """Angles to backprop, a panel for each layer."""
    layers = dict.fromkeys(layer for record in records for angles in record.curve.angles.values() for layer in angles)
    return [_angle_panel(layer, records) for layer in layers]


def _angle_panel(layer: str, records: Sequence[TrialRecord]) -> Json:
    """Angles of a layer at the epochs where they were measured."""
    series = []
    for record in records:
        measured = {int(epoch): angles for epoch, angles in record.curve.angles.items() if epoch.isdecimal()}
        places = sorted(epoch for epoch, angles in measured.items() if layer in angles)
        degrees = _numbers(measured[epoch][layer] for epoch in places)
        series.append({"name": f"trial {record.trial}", "x": places, "y": degrees})
    title = f"angle to backprop, layer {_text(layer)} (degrees)"
    return {"title": title, "x": "epoch", "y": title, "series": series}


def _environments(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Facts about where the trials ran, each with all its values."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.environment.items():
            values.setdefault(_text(name), {})[_text(value)] = None
    return [(name, ", ".join(found)) for name, found in values.items()]


def _pairs(configuration: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A configuration in words."""
    return [(_text(name).replace("_", " "), _text(value)) for name, value in configuration.items()]


def _text(value: object) -> str:
    """Any value as a user would write it."""
    return "–" if value is None else value if isinstance(value, str) else str(value)


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers with as many digits as can be seen, and None for nan."""
    return [_short(value) for value in values]


def _short(value: float | None) -> float | None:
    """A number with as many digits as can be seen; None for nan and infinity."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
