"""Markdown of what rules cost, counted and timed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

import feedalign as fa
from feedalign.measure import Cost
from tables import Record, counted, number, table

_COUNTED_WIDTHS, _COUNTED_BATCH = (784, 512, 512, 512, 10), 32

Cell = Callable[[Record], str]
_KIB, _MIB = 2**10, 2**20
_STEP_TIME = "step time over backprop's (limit)"
_SWEEPS = {"width": "width", "depth": "hidden layers", "batch": "batch", "steps": "steps T"}


def step_times(record: Record) -> str:
    """Render the step time of each contestant on each architecture, its limit beside it."""
    return f"{_by_architecture(record, _STEP_TIME, _with_limit)}\n\n{_caption(record)}"


def forwards(record: Record) -> str:
    """Render the forward's time."""
    return _by_architecture(record, "forward over backprop's", lambda row: number(row["forward"]["median"], 2))


def backwards(record: Record) -> str:
    """Render the backward's time."""
    return _by_architecture(record, "backward over backprop's", lambda row: number(row["backward"]["median"], 2))


def memory(record: Record) -> str:
    """Render peak memory over backprop's."""
    return _by_architecture(record, "peak memory over backprop's", lambda row: number(row["memory"], 2))


def feedback(record: Record) -> str:
    """Render what feedback multiplies and holds."""
    return _by_architecture(record, "feedback: millions of MACs in a step, MiB", _of_feedback)


def sizes(record: Record) -> str:
    """Render what each architecture is, with backprop's own time and memory."""
    rows = [
        (
            f"`{case['architecture']}`",
            case["what"],
            number(case["rows"][0]["step_ms"], 1),
            number(case["rows"][0]["peak_bytes"] / _MIB, 1),
            str(case["rounds"]),
        )
        for case in _table_of(record)
    ]
    return table(("architecture", "size", "backprop, ms", "MiB", "rounds"), rows)


def sweeps(record: Record) -> str:
    """Render the figure of all sweeps, then each as a table."""
    found = {name: [case for case in record["cases"] if case["sweep"] == name] for name in _SWEEPS}
    parts = ["![Step time over backprop's against width, depth, batch and steps](figures/bench-rules.svg)"]
    for name, cases in found.items():
        if cases:
            head = [f"`{cases[0]['architecture']}`, {_SWEEPS[name]}", *(str(case["size"][name]) for case in cases)]
            parts.append(table(head, _rows(cases, _with_limit)))
    return "\n\n".join(parts)


def misses(record: Record) -> str:
    """Render rules that need no more operations than backprop and are slower, where layers have 512 units or more."""
    rows = [
        (f"`{case['architecture']}`", case["what"], case["sweep"] or "–", row["name"], *_numbers(row))
        for case in record["cases"]
        if case["size"]["width"] >= _WIDE and case["architecture"] != "cnn"
        for row in case["rows"]
        if row["limit"] is not None and row["name"] != "backprop" and row["limit"] <= 1.0 < row["step"]["low"]
    ]
    if not rows:
        return (
            "None: where layers have 512 units or more, no rule that needs no more operations than backprop is slower."
        )
    return table(("architecture", "size", "sweep of", "rule", "step time", "quartiles", "limit"), rows)


_WIDE = 512


def _numbers(row: Record) -> tuple[str, str, str]:
    step = row["step"]
    return number(step["median"], 3), f"{step['low']:.3f} .. {step['high']:.3f}", number(row["limit"], 3)


def left_out(record: Record) -> str:
    """Render why contestants are not in the table, reasons of several architectures together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for case in _table_of(record):
        for name, reason in case["left_out"].items():
            if not reason.startswith("BioTorch is"):
                reasons.setdefault((name, _first_sentence(reason)), []).append(f"`{case['architecture']}`")
    lines = [f"* {name} on {', '.join(where)}: {reason}" for (name, reason), where in reasons.items()]
    if not str(record["biotorch"])[0].isdigit():
        lines.append(f"* {record['biotorch']}")
    return "\n".join(lines) or "Everything that was named ran."


def _first_sentence(reason: str, most: int = 240) -> str:
    line = reason.splitlines()[0]
    return line if len(line) <= most else f"{line[:most].rpartition(' ')[0]} ..."


def _table_of(record: Record) -> list[Record]:
    return [case for case in record["cases"] if case["sweep"] is None]


def _by_architecture(record: Record, what: str, cell: Cell) -> str:
    cases = _table_of(record)
    return table([what, *(f"`{case['architecture']}`" for case in cases)], _rows(cases, cell))


def _rows(cases: list[Record], cell: Cell) -> list[list[str]]:
    """A row for each contestant of any case but backprop."""
    by_case = [{row["name"]: row for row in case["rows"]} for case in cases]
    names = dict.fromkeys(name for rows in by_case for name in rows if name != "backprop")
    return [[name, *(cell(rows[name]) if name in rows else "–" for rows in by_case)] for name in names]


def _with_limit(row: Record) -> str:
    limit = "–" if row["limit"] is None else f"{row['limit']:.2f}"
    return f"{row['step']['median']:.2f} ({limit})"


def _of_feedback(row: Record) -> str:
    if row["feedback_macs"] is None:
        return "–"
    return f"{row['feedback_macs'] / 1e6:.3g}, {row['feedback_bytes'] / _MIB:.3g}"


def _caption(record: Record) -> str:
    where: dict[str, Any] = record["environment"]
    machine = (
        f"{counted(where['num_threads'], 'thread')} of a CPU ({where['device_name']})"
        if where["device"] == "cpu"
        else where["device_name"]
    )
    tested = "" if record["tests"] == "passed" else f" The tests of the tree: {record['tests']}."
    status = "" if record["status"] == "finished" else " The run was interrupted: cases are missing."
    return (
        "Medians of whole training steps over backprop's, interleaved in one process; in parentheses the operations of "
        f"a step over backprop's. {record['optimizer']}, {record['dtype']}, PyTorch {where['torch']}, {machine}, load "
        f"before: {where['load_average']}.{tested}{status}"
    )


def overhead(record: Record) -> str:
    """Render what a rule adds to forward and backward of a tiny network."""
    rows = [
        [name, *(f"{row[part]:.0f}" for part in ("median", "least", "forward, least", "backward, least"))]
        for name, row in record["beyond"].items()
    ]
    head = ["microseconds more than the model alone", "median", "least", "of it forward", "of it backward"]
    return f"{table(head, rows)}\n\n{record['network']}, with its loss, one thread, PyTorch {record['torch']}."


def costs() -> str:
    """Count a step of every rule on one network: nothing is timed, so that no record is needed."""
    head = ("rule", "limit", "forward", "backward", "feedback", "tangents", "kept", "feedback held")
    kinds = ("weights", "activations", "errors", "feedback")
    rows = []
    for name, cost in _counted():
        macs = (cost.forward, cost.backward, cost.feedback, cost.perturbation)
        moved = [cost.moved.read(kind) + cost.moved.written(kind) for kind in kinds]
        cells = [number(count / 1e6, 2) for count in macs]
        cells += [number(size / _KIB, 0) for size in (cost.kept_bytes, cost.feedback_bytes)]
        rows.append((name, number(cost.limit, 2), *cells, *(number(size / _MIB, 2) for size in moved)))
    return table((*head, *(f"moved: {kind}" for kind in kinds)), rows)


def _counted() -> list[tuple[str, Cost]]:
    """Each rule's name and its cost, and that of DRTP once more when it streams."""
    found = []
    draws = torch.Generator().manual_seed(0)
    x, labels = torch.randn(_COUNTED_BATCH, _COUNTED_WIDTHS[0], generator=draws), torch.arange(_COUNTED_BATCH) % 10
    for rule in fa.ALL_RULES:
        hidden = [layer for pair in pairwise(_COUNTED_WIDTHS[:-1]) for layer in (nn.Linear(*pair), nn.Tanh())]
        with fa.attach(nn.Sequential(*hidden, nn.Linear(*_COUNTED_WIDTHS[-2:])), rule(), example_inputs=x) as handle:
            found.append((rule.name, fa.measure.cost(handle, x)))
            if isinstance(rule(), fa.DRTP):
                handle.targets(labels)
                found.append(("drtp, streaming", fa.measure.cost(handle, x)))
    return found


FROM_RECORDS: dict[str, Callable[[Record], str]] = {
    "bench-rules": step_times,
    "bench-rules#sizes": sizes,
    "bench-rules#forward": forwards,
    "bench-rules#backward": backwards,
    "bench-rules#memory": memory,
    "bench-rules#feedback": feedback,
    "bench-rules#sweeps": sweeps,
    "bench-rules#misses": misses,
    "bench-rules#left-out": left_out,
    "bench-overhead": overhead,
}
"""How the record, or a part of it, is rendered."""
