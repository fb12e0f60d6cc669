"""Finished trials on file: one line of JSON each, only ever appended, shared by any number of processes.

A line is written whole or, where a process dies in the middle, not at all for the reader: a line that is no record is
passed over and named, and the next one starts on a line of its own. A trial that is being trained is claimed with a
lock that the system takes back when the process ends, however it ends.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.records import Status

RECORD_FORMAT = 1
ENDING = ".jsonl"
_CLAIMS = ".claims"
_SIGNIFICANT_DIGITS = 7
_HASH_LENGTH = 12
_LONGEST_REASON = 300
_KINDS: Mapping[tuple[str, ...], type] = {
    ("paper", "table", "cell", "message", "metric", "ended"): str,
    ("configuration", "environment"): dict,
    ("trial", "stacked"): int,
}
# What no model and no clock can give.
_RANGES: Mapping[str, tuple[float, float]] = {
    "error": (0.0, math.inf),
    "accuracy": (0.0, 100.0),
    "auc": (0.0, 1.0),
    "ap": (0.0, 1.0),
    "seconds": (0.0, math.inf),
}


@dataclass(frozen=True)
class Curve:
    """The numbers of all epochs, a column each.

    Attributes:
        train_loss: Mean loss of the epoch's steps.
        test: The task's metric on the test part.
        seconds: Wall time of the training steps.
        validation: The metric on the validation part; empty where there is none.
        others: Further metrics on the test part, by name.
        angles: By the number of an epoch, degrees between the rule's and backprop's signal by layer, where they were
            measured.
    """

    train_loss: tuple[float, ...]
    test: tuple[float, ...]
    seconds: tuple[float, ...]
    validation: tuple[float, ...] = ()
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    angles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """One trial of one cell, done.

    Attributes:
        paper: Name of the paper.
        table: Name of the table or figure.
        cell: Name of the cell that it was trained for; others with the same configuration read it too.
        configuration: Everything that decided the trial, but for its number.
        trial: Number of the trial, from 0.
        status: "finished" or "diverged"; interrupted trials are not kept.
        message: What went wrong, empty if nothing did.
        metric: Name of the task's metric.
        curve: The numbers of all epochs.
        environment: Versions, commit, device.
        stacked: How many trials were trained in lock-step with this one, itself included.
        ended: When, in UTC, as ISO 8601.
        format: Of the record.
    """

    paper: str
    table: str
    cell: str
    configuration: Mapping[str, Any]
    trial: int
    status: Status
    message: str
    metric: str
    curve: Curve
    environment: Mapping[str, Any]
    stacked: int = 1
    ended: str = ""
    format: int = RECORD_FORMAT

    @cached_property
    def key(self) -> str:
        """The hash of the configuration."""
        return configuration_hash(self.configuration)


@dataclass(frozen=True)
class Shelf:
    """What a file holds.

    Attributes:
        records: Those that can be read, each trial once.
        problems: What was passed over, each with its line and the reason.
    """

    records: tuple[TrialRecord, ...] = ()
    problems: tuple[str, ...] = ()


class TrialStore:
    """A folder with a folder for each paper and in it a file for each table."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is made or read yet.

        Args:
            folder: The folder.
        """
        self.folder = folder

    def path(self, paper: str, table: str) -> Path:
        """The file of a table."""
        return self.folder / paper / f"{table}{ENDING}"

    def read(self, paper: str, table: str) -> Shelf:
        """Everything on file for a table.

        Args:
            paper: Name of the paper.
            table: Name of the table.

        Returns:
            The records, and what could not be read as one.

        Raises:
            OutputFolderError: The file is there and cannot be read at all.
        """
        path = self.path(paper, table)
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise OutputFolderError(f"The records in {path} cannot be read ({error.strerror}).") from error
        records: dict[tuple[str, int], TrialRecord] = {}
        problems = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            found = _parse(line)
            if isinstance(found, str):
                problems.append(f"{path}, line {number}: {found}")
            elif records.setdefault((found.key, found.trial), found) is not found:
                problems.append(f"{path}, line {number}: trial {found.trial} of {found.cell} is on file already")
        return Shelf(tuple(records.values()), tuple(problems))

    def append(self, record: TrialRecord) -> None:
        """Put a trial on file.

        Args:
            record: The trial.

        Raises:
            OutputFolderError: The file cannot be written; what was on it is as it was.
        """
        path = self.path(record.paper, record.table)
        line = json.dumps(_rounded(asdict(record)), separators=(",", ":"), allow_nan=False).encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                _append_line(path, line)
        except OSError as error:
            raise OutputFolderError(
                f"Trial {record.trial} of {record.cell} is trained, but cannot be put on file in {path} "
                f"({error.strerror or error}): what was there before is kept; make room or choose another folder with "
                "--records, and run the same command again."
            ) from error

    @contextmanager
    def claim(self, paper: str, table: str, key: str, trials: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Keep other processes from training the same trials.

        Args:
            paper: Name of the paper.
            table: Name of the table.
            key: Hash of the configuration.
            trials: Numbers of the trials.

        Yields:
            The trials that nobody else trains; they are given back at the end, or when the process dies.

        Raises:
            OutputFolderError: The folder cannot be written.
        """
        locks: list[FileLock] = []
        try:
            claimed = []
            for trial in trials:
                name = hashlib.sha256(f"{table}/{key}/{trial}".encode()).hexdigest()[:_HASH_LENGTH]
                if (lock := self._lock(paper, name)) is not None:
                    locks.append(lock)
                    claimed.append(trial)
            yield tuple(claimed)
        finally:
            for lock in locks:
                lock.release()

    def _lock(self, paper: str, name: str) -> FileLock | None:
        """A lock that this process now holds, or None where another one does."""
        folder = self.folder / paper / _CLAIMS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / name)
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            raise OutputFolderError(
                f"The records folder {self.folder} cannot be written ({error.strerror}): choose another with --records."
            ) from error
        return lock


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """The name of a configuration.

    Args:
        configuration: Plain values; the order of its keys does not matter.

    Returns:
        Twelve hexadecimal digits.
    """
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def _append_line(path: Path, line: bytes) -> None:
    """Write a line in one call, on a line of its own, or leave the file as it was."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end:
            os.lseek(descriptor, end - 1, os.SEEK_SET)
            # What a process that died left behind ends here, and cannot spoil what comes after.
            line = line if os.read(descriptor, 1) == b"\n" else b"\n" + line
        whole = line + b"\n"
        written = 0
        try:
            while written < len(whole):
                written += os.write(descriptor, whole[written:])
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> TrialRecord | str:
    """A record, or why a line is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return "no whole record (cut short or damaged)"
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        return "no record of a trial"
    if found["format"] > RECORD_FORMAT:
        return f"written in format {found['format']} by a newer feedalign (this one reads up to {RECORD_FORMAT})"
    try:
        curve = Curve(**_columns(found.pop("curve")))
        record = TrialRecord(curve=curve, **found)
        _check(record)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        return f"no record of a trial ({error})"[:_LONGEST_REASON]
    return record


def _columns(curve: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a curve, with None back as nan."""

    def numbers(values: Sequence[float | None]) -> tuple[float, ...]:
        return tuple(math.nan if value is None else float(value) for value in values)

    plain = {key: numbers(values) for key, values in curve.items() if key not in {"others", "angles"}}
    others = {name: numbers(values) for name, values in curve.get("others", {}).items()}
    angles = {
        epoch: {layer: math.nan if degrees is None else float(degrees) for layer, degrees in layers.items()}
        for epoch, layers in curve.get("angles", {}).items()
    }
    return {**plain, "others": others, "angles": angles}


def _check(record: TrialRecord) -> None:
    """Refuse what has all names and the wrong things behind them."""
    for names, kind in _KINDS.items():
        for name in names:
            value = getattr(record, name)
            # True is a number to Python, and no number of a trial.
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}")
    if record.trial < 0 or record.stacked < 1:
        raise ValueError(f"trial is {record.trial}, stacked is {record.stacked}")
    if record.status not in {"finished", "diverged"}:
        raise ValueError(f"status is {record.status!r}")
    curve = record.curve
    columns = [curve.train_loss, curve.test, curve.seconds, *curve.others.values()]
    columns += [curve.validation] if curve.validation else []
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the columns of its curve differ in length")
    columns_of = {record.metric: (*curve.test, *curve.validation), "seconds": curve.seconds, **curve.others}
    for name, column in columns_of.items():
        low, high = _RANGES.get(name.lower(), (-math.inf, math.inf))
        if any(value < low or value > high for value in column):
            raise ValueError(f"its {name} holds numbers below {low:g} or above {high:g}")
    if record.status == "finished" and len(curve.test) != record.configuration.get("epochs"):
        raise ValueError(f"it holds {len(curve.test)} epochs of {record.configuration.get('epochs')}")


def _rounded(value: Any) -> Any:
    """The same with short numbers, and None for what JSON has no number for."""
    if isinstance(value, float):
        return float(f"{value:.{_SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        # The configuration is what its hash is of: to the last digit.
        return {key: item if key == "configuration" else _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
