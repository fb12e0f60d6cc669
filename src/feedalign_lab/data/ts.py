"""Time series in `.ts` files, the format of the UCR and UEA archives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.errors import CorruptFileError, MissingDataError, UnsupportedSeriesError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WRITTEN_BOOLEANS = {"true": True, "false": False}

Line = tuple[int, str]
"""Number of a line, from 1, and its text."""


@dataclass(frozen=True)
class SeriesHeader:
    """What the header of a `.ts` file says.

    Attributes:
        labels: The classes' labels, in the header's order.
        num_dimensions: Numbers at each step; None where the header does not say.
        num_steps: Steps of each series; None where the header does not say.
    """

    labels: tuple[str, ...]
    num_dimensions: int | None
    num_steps: int | None


@dataclass(frozen=True)
class SeriesFile:
    """What a `.ts` file holds.

    Attributes:
        labels: The classes' labels, in the header's order.
        x: Series, float32 [N, T, D].
        y: Places of the series' labels among `labels`, int64 [N].
    """

    labels: tuple[str, ...]
    x: NDArray[np.float32]
    y: NDArray[np.int64]


def read_ts(path: Path) -> SeriesFile:
    """Read labeled series of one length without gaps.

    A series is one line: its dimensions, a colon between two of them, each the values of all steps with commas between
    them, and at the end of the line a colon and the label. Before the line `@data` stand lines with facts; a line that
    starts with # is a comment, in whatever encoding.

    Args:
        path: The file, UTF-8.

    Returns:
        Series and classes.

    Raises:
        CorruptFileError: The file is empty or not UTF-8, its header is incomplete, or a line contradicts the header or
            the lines before it.
        UnsupportedSeriesError: Values are missing, lengths differ, or steps have time stamps.
        MissingDataError: The file cannot be read.
    """
    lines = _lines(path)
    header = _read_header(path, lines)
    classes = {label: number for number, label in enumerate(header.labels)}
    series: list[NDArray[np.float32]] = []
    labels: list[int] = []
    for number, text in lines:
        *dimensions, label = (field.strip() for field in text.split(":"))
        where = f"{path}, line {number}"
        if label not in classes or not dimensions:
            raise CorruptFileError(
                f"{where}: the label {label[:40]!r} is none of those in the header: {', '.join(header.labels)}."
            )
        series.append(_read_series(where, dimensions, header, series[0].shape if series else None))
        labels.append(classes[label])
    if not series:
        raise CorruptFileError(f"{path} holds no series: nothing stands behind its @data.")
    return SeriesFile(header.labels, np.stack(series), np.asarray(labels, dtype=np.int64))


def _lines(path: Path) -> Iterator[Line]:
    """The lines that say something.

    Yields:
        Their numbers, from 1, and texts, without comments and empty lines.
    """
    try:
        raw = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.strip():
        raise CorruptFileError(f"{path} is empty.")
    for number, line in enumerate(raw.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        try:
            text = stripped.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise CorruptFileError(
                f"{path}, line {number} is not UTF-8 ({error.reason}): save the file in that encoding."
            ) from error
        if text:
            yield number, text


def _read_header(path: Path, lines: Iterator[Line]) -> SeriesHeader:
    """Read up to `@data`."""
    facts: dict[str, list[str]] = {}
    for number, text in lines:
        key, *values = text.split()
        if key.lower() == "@data":
            break
        if not key.startswith("@"):
            raise CorruptFileError(
                f"{path}, line {number}, before @data, is neither a comment (#) nor a fact (@): {text[:40]!r}."
            )
        facts[key[1:].lower()] = values
    else:
        raise CorruptFileError(f"{path} has no line @data, behind which the series would stand.")
    if _truth(path, facts, "timestamps"):
        raise UnsupportedSeriesError(f"{path} has time stamps (@timeStamps true), which cannot be read here.")
    return SeriesHeader(_labels(path, facts), _num_dimensions(path, facts), _number(path, facts, "serieslength"))


def _labels(path: Path, facts: dict[str, list[str]]) -> tuple[str, ...]:
    """The labels behind `@classLabel true`."""
    labels = facts.get("classlabel", [])[1:]
    if not _truth(path, facts, "classlabel") or not labels:
        raise CorruptFileError(f"{path} announces no classes: a line such as '@classLabel true 1 2' was expected.")
    if len(set(labels)) != len(labels):
        raise CorruptFileError(f"{path} announces a label twice: {' '.join(labels)}.")
    return tuple(labels)


def _num_dimensions(path: Path, facts: dict[str, list[str]]) -> int | None:
    """Numbers at each step; `@univariate true` stands for one."""
    key = "dimensions" if "dimensions" in facts else "dimension"
    num_dimensions = _number(path, facts, key)
    if not _truth(path, facts, "univariate"):
        return num_dimensions
    if num_dimensions not in {None, 1}:
        raise CorruptFileError(f"{path} contradicts itself: @univariate true, but @{key} {num_dimensions}.")
    return 1


def _truth(path: Path, facts: dict[str, list[str]], key: str) -> bool | None:
    """The truth of a fact; None where it is not there."""
    if key not in facts:
        return None
    written = "".join(facts[key][:1]).lower()
    if written not in _WRITTEN_BOOLEANS:
        raise CorruptFileError(f"{path} says {written!r} behind @{key}: true or false was expected.")
    return _WRITTEN_BOOLEANS[written]


def _number(path: Path, facts: dict[str, list[str]], key: str) -> int | None:
    """The number behind a fact; None where it is not there."""
    if key not in facts:
        return None
    written = " ".join(facts[key])
    if not written.isdecimal() or int(written) < 1:
        raise CorruptFileError(f"{path} says {written!r} behind @{key}: a number of at least 1 was expected.")
    return int(written)


def _read_series(
    where: str, dimensions: Sequence[str], header: SeriesHeader, of_first: tuple[int, ...] | None
) -> NDArray[np.float32]:
    """One series, [T, D], checked against the header and against the first one's shape."""
    announced = header.num_dimensions or (of_first[1] if of_first else len(dimensions))
    if len(dimensions) != announced:
        raise CorruptFileError(f"{where}: the series has {len(dimensions)} dimensions, {announced} were expected.")
    columns = [_read_dimension(where, text) for text in dimensions]
    lengths = {len(column) for column in columns}
    if of_first:
        lengths.add(of_first[0])
    if len(lengths) > 1:
        raise UnsupportedSeriesError(
            f"{where}: series or dimensions differ in length ({', '.join(map(str, sorted(lengths)))} steps): bring "
            "all to one length first."
        )
    (num_steps,) = lengths
    if header.num_steps not in {None, num_steps}:
        raise CorruptFileError(
            f"{where}: the series has {num_steps} steps, but the header announces {header.num_steps}."
        )
    return np.stack(columns, axis=1)


def _read_dimension(where: str, text: str) -> NDArray[np.float32]:
    """The values of one dimension, [T]."""
    values = text.split(",")
    if any(value.strip() == "?" for value in values):
        raise UnsupportedSeriesError(f"{where}: values are missing (?): fill them in first.")
    try:
        with np.errstate(over="ignore"):
            column = np.asarray([float(value) for value in values], dtype=np.float32)
    except ValueError as error:
        raise CorruptFileError(f"{where}: what stands between two commas is no number ({error}).") from error
    if not np.isfinite(column).all():
        first = values[int(np.flatnonzero(~np.isfinite(column))[0])].strip()
        raise CorruptFileError(f"{where}: {first} is not a finite number.")
    return column
