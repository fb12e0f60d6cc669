"""What a Monitor writes: one record for each measured step, as a line of JSON, and how the lines are read back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from feedalign.errors import MonitorError
from feedalign.measure.by_layer import ByLayer

FILE_NAME = "monitor.jsonl"

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class MonitorLayer:
    """One layer at one step. None: there is no such number; nan or infinite: the computation came to that.

    Gradients are those that the loss sends through the model's output, norms are Euclidean, of the whole tensor.

    Attributes:
        layer: The layer's name.
        point: The feedback point that teaches it.
        angle: Between the rule's and backprop's gradients of the weight, in degrees; None where one is zero.
        angle_ewma: Its exponentially weighted moving average over the measured steps; None where `angle` is.
        norm: Of the rule's gradient of the weight.
        norm_backprop: Of backprop's.
        ratio: The first over the second; None where backprop's is zero.
        signal_angle: Between the teaching signals, at the feedback point's output.
        signal_angle_ewma: Its moving average.
        signal_norm: Of the rule's teaching signal.
        signal_norm_backprop: Of backprop's gradient there.
        density: Share of the activations at the feedback point that are not zero.
        above_zero: Share of those above zero.
        dead: How many units are zero for every sample, position and step of this batch. A unit is a feature; a channel,
            in a convolution.
        units: Of how many.
    """

    layer: str
    point: str | None = None
    angle: float | None = None
    angle_ewma: float | None = None
    norm: float | None = None
    norm_backprop: float | None = None
    ratio: float | None = None
    signal_angle: float | None = None
    signal_angle_ewma: float | None = None
    signal_norm: float | None = None
    signal_norm_backprop: float | None = None
    density: float | None = None
    above_zero: float | None = None
    dead: int | None = None
    units: int | None = None


@dataclass(frozen=True)
class MonitorFeedback:
    """The last feedback matrix beside the output weight; see `fa.measure.feedback_distance`.

    Attributes:
        point: The last feedback point.
        layer: The output layer.
        distance: Frobenius norm of `B - W`.
        relative: The distance over the norm of `W`.
        angle: Between the two, in degrees; None where one is zero.
    """

    point: str
    layer: str
    distance: float | None = None
    relative: float | None = None
    angle: float | None = None


@dataclass(frozen=True)
class MonitorRecord(ByLayer[MonitorLayer]):
    """One measured step.

    Attributes:
        step: Its number; the first step of a run is 1.
        rule: The rules that were attached; None: there was none, and the model learned by backprop.
        error_norm: Euclidean norm of dL/dy, of all that the model returned and the loss used; zero where no error came
            back.
        replay_error: How far the norm of what the model returns was off, relatively, when it ran again for backprop's
            gradient; None where nothing came back. What is above rounding says that the numbers are not of one step.
        layers: In the model's order.
        feedback: Of direct rules with a matrix right below a linear output layer.
    """

    step: int
    rule: str | None
    error_norm: float
    replay_error: float | None
    layers: tuple[MonitorLayer, ...]
    feedback: MonitorFeedback | None = None

    def scalars(self) -> Iterator[tuple[str, float]]:
        """Yield every number there is with its name, such as `"angle/fc1"`, as they go to TensorBoard."""
        yield "error_norm", self.error_norm
        if self.replay_error is not None:
            yield "replay_error", self.replay_error
        for row in self.layers:
            yield from _numbers(row, row.layer or "(model)")
        if self.feedback is not None:
            yield from ((f"feedback_{name}", value) for name, value in _numbers(self.feedback, self.feedback.point))


def _numbers(row: MonitorLayer | MonitorFeedback, name: str) -> Iterator[tuple[str, float]]:
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, (int, float)):
            yield f"{field.name}/{name}", float(value)


def as_line(record: MonitorRecord) -> str:
    """Return a record as one line of JSON, without the line's end.

    Numbers that JSON has not are written as the strings "nan", "inf" and "-inf".

    Args:
        record: The record.

    Returns:
        The line.
    """
    return json.dumps(_plain(asdict(record)), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def append(path: Path, record: MonitorRecord) -> None:
    """Add a record to a file, on a line of its own whatever stands before it.

    Args:
        path: The file; made if there is none.
        record: The record.
    """
    with path.open("ab") as file:
        file.write(_line_end(path) + as_line(record).encode() + b"\n")


def _line_end(path: Path) -> bytes:
    """What ends a last line that was cut."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return b""
        file.seek(-1, 2)
        return b"" if file.read(1) == b"\n" else b"\n"


def read_records(folder: str | Path) -> list[MonitorRecord]:
    """Read what a Monitor wrote.

    Lines that a killed run left cut are passed over. Where a run was resumed, or started again in the same folder, the
    later line of a step counts, and what the earlier run had written from there on is left out: the records are those
    of one run, by rising steps.

    Args:
        folder: The Monitor's folder, or the file itself.

    Returns:
        The records.

    Raises:
        MonitorError: There is no such file, it cannot be read, or a whole line in it is no record.
    """
    path, content = _content(Path(folder))
    records: list[MonitorRecord] = []
    num_cut = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            num_cut += 1
            continue
        record = _record(found, f"Line {number} of {path}")
        while records and records[-1].step >= record.step:
            records.pop()
        records.append(record)
    if num_cut and not records:
        raise MonitorError(f"Not a line of {path} is JSON; give the folder of a fa.measure.Monitor.")
    return records


def _content(path: Path) -> tuple[Path, bytes]:
    """The file and what is in it."""
    try:
        path = path / FILE_NAME if path.is_dir() else path
        if path.is_file():
            return path, path.read_bytes()
    except OSError as error:
        raise MonitorError(
            f"{str(path)[-200:]} cannot be read ({error.strerror}); give the folder of a fa.measure.Monitor, or the "
            "file it wrote."
        ) from error
    raise MonitorError(f"There is no {path}; give the folder of a fa.measure.Monitor, or the file it wrote.")


def _record(found: object, place: str) -> MonitorRecord:
    if not isinstance(found, Mapping) or not isinstance(found.get("layers"), list):
        raise MonitorError(f"{place} is no record of a Monitor; take the line out, or give another file.")
    layers = tuple(_row(MonitorLayer, row, place) for row in found["layers"])
    feedback = found.get("feedback")
    own = {key: value for key, value in found.items() if key not in {"layers", "feedback"}}
    more = {"layers": layers, "feedback": None if feedback is None else _row(MonitorFeedback, feedback, place)}
    return _row(MonitorRecord, own, place, more)


def _row(kind: type[_Made], found: object, place: str, more: Mapping[str, Any] | None = None) -> _Made:
    """Make a dataclass of what stands in a line; fields that it does not know are of a later version."""
    if not isinstance(found, Mapping):
        raise MonitorError(
            f"{place} is no record of a Monitor: it holds {type(found).__name__} in the place of an object."
        )
    values: dict[str, Any] = dict(more or {})
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in found and field.name not in values:
            values[field.name] = _value(found[field.name], str(field.type), f"{place}: {field.name}")
    try:
        return kind(**values)
    except TypeError as error:
        raise MonitorError(f"{place} is no record of a Monitor: {error}.") from error


# No count is larger, and none that is can be drawn.
_MOST = 2**63
_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def _value(value: object, kind: str, place: str) -> object:
    wanted, _, optional = kind.partition(" | ")
    if value is None and optional:
        return None
    if wanted == "float" and value in ("nan", "inf", "-inf"):
        return float(str(value))
    is_too_large = wanted == "int" and isinstance(value, int) and abs(value) > _MOST
    if isinstance(value, bool) or not isinstance(value, _KINDS[wanted]) or is_too_large:
        raise MonitorError(f"{place} is {value!r:.40}, not {kind}; take the line out, or give another file.")
    try:
        return float(value) if wanted == "float" and isinstance(value, (int, float)) else value
    except OverflowError:
        return math.inf
