"""Encoded rows: in memory for small logs, in files that are read block by block for large ones."""

import hashlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.clicks.row_encoder import ENCODER_NAME, RowEncoder
from feedalign_lab.errors import OutputFolderError

Categories = NDArray[np.int32]
Labels = NDArray[np.uint8]
PartName = Literal["train", "validation", "test"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

_FACTS_NAME = "facts.json"


class Part(ABC):
    """The rows of training, validation or test.

    Attributes:
        num_rows: How many.
        num_clicks: How many of them are clicks.
    """

    num_rows: int
    num_clicks: int

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Categories, Labels]:
        """Read some rows.

        Args:
            start: The first.
            stop: The one behind the last.

        Returns:
            Categories [n, F], numbered through all fields, and labels [n].
        """


class PartInMemory(Part):
    """Rows in memory.

    Args:
        categories: All of them, [N, F].
        labels: All of them, [N].
    """

    def __init__(self, categories: Categories, labels: Labels) -> None:
        self.num_rows, self.num_clicks = len(labels), int(labels.sum(dtype=np.int64))
        self._categories, self._labels = categories, labels

    def read(self, start: int, stop: int) -> tuple[Categories, Labels]:
        """See `Part`."""
        return self._categories[start:stop], self._labels[start:stop]


class PartInFiles(Part):
    """Rows in two files of plain numbers. What is read is read, not mapped: mapped pages would count as memory held.

    Args:
        folder: Where the files are.
        name: Of the part.
        num_fields: Fields F.
        num_rows: How many.
        num_clicks: How many of them are clicks.
    """

    def __init__(self, folder: Path, name: PartName, num_fields: int, num_rows: int, num_clicks: int) -> None:
        self.num_rows, self.num_clicks = num_rows, num_clicks
        self._num_fields = num_fields
        self._categories, self._labels = _paths(folder, name)

    def read(self, start: int, stop: int) -> tuple[Categories, Labels]:
        """See `Part`."""
        count, width = max(0, min(stop, self.num_rows) - start), self._num_fields
        flat = np.fromfile(self._categories, np.int32, count * width, offset=4 * start * width)
        return flat.reshape(count, width), np.fromfile(self._labels, np.uint8, count, offset=start)


class Sink(ABC):
    """Takes encoded rows of all parts."""

    @abstractmethod
    def append(self, name: PartName, categories: Categories, labels: Labels) -> None:
        """Take rows.

        Args:
            name: Of the part.
            categories: Categories [n, F], numbered through all fields.
            labels: Labels [n].
        """


class MemorySink(Sink):
    """Keeps the rows in memory."""

    def __init__(self) -> None:
        self._rows: dict[PartName, list[tuple[Categories, Labels]]] = {name: [] for name in PART_NAMES}

    def append(self, name: PartName, categories: Categories, labels: Labels) -> None:
        """See `Sink`."""
        self._rows[name].append((categories, labels))

    def parts(self, num_fields: int) -> dict[PartName, Part]:
        """What was taken.

        Args:
            num_fields: Fields F, for parts without rows.

        Returns:
            The parts.
        """
        empty = np.empty((0, num_fields), np.int32), np.empty(0, np.uint8)
        return {
            name: PartInMemory(
                np.concatenate([empty[0], *(categories for categories, _ in rows)]),
                np.concatenate([empty[1], *(labels for _, labels in rows)]),
            )
            for name, rows in self._rows.items()
        }


@dataclass
class _Count:
    """Rows and clicks of a part so far."""

    rows: int = 0
    clicks: int = 0


class FileSink(Sink):
    """Writes the rows into the files of a folder.

    Args:
        folder: The folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[PartName, tuple[BinaryIO, BinaryIO]] = {}
        self._counts = {name: _Count() for name in PART_NAMES}

    def append(self, name: PartName, categories: Categories, labels: Labels) -> None:
        """See `Sink`."""
        if name not in self._files:
            first, second = _paths(self._folder, name)
            self._files[name] = first.open("wb"), second.open("wb")
        for file, array in zip(self._files[name], (categories, labels), strict=True):
            file.write(np.ascontiguousarray(array).data)
        self._counts[name].rows += len(labels)
        self._counts[name].clicks += int(labels.sum(dtype=np.int64))

    def close(self) -> None:
        """Close all files."""
        for pair in self._files.values():
            for file in pair:
                file.close()

    def finish(self, encoder: RowEncoder) -> None:
        """Close all files and write down what is in them.

        Args:
            encoder: What encoded the rows.
        """
        self.close()
        path = self._folder / ENCODER_NAME
        encoder.save(path)
        parts = {name: asdict(count) for name, count in self._counts.items()}
        facts = {"sizes": encoder.sizes, "parts": parts, "encoder_bytes": path.stat().st_size}
        facts["times"] = {written.name: _flushed(written) for written in sorted(self._folder.iterdir())}
        (self._folder / _FACTS_NAME).write_text(sealed(facts), encoding="utf-8")


def sealed(facts: Mapping[str, object]) -> str:
    """The text of facts, with a sum that tells whether it is what was written.

    Args:
        facts: Plain values.
    """
    return json.dumps({**facts, "sum": _sum_of(facts)})


def stored(folder: Path) -> tuple[tuple[int, ...], Mapping[PartName, Part]] | None:
    """What a `FileSink` left in a folder.

    Args:
        folder: The folder.

    Returns:
        Categories of each field, and the parts; None where there is nothing, or not all that was written.
    """
    try:
        facts = json.loads((folder / _FACTS_NAME).read_text(encoding="utf-8"))
        if facts.pop("sum") != _sum_of(facts):
            return None
        times = dict(facts["times"])
        sizes = tuple(_checked(size, least=1) for size in facts["sizes"])
        counts = {name: _count(facts["parts"][name]) for name in PART_NAMES}
        encoder_bytes = _checked(facts["encoder_bytes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not sizes or not _is_as_written(folder / ENCODER_NAME, encoder_bytes, times):
        return None
    if not all(_is_whole(folder, name, len(sizes), count.rows, times) for name, count in counts.items()):
        return None
    return sizes, {
        name: PartInFiles(folder, name, len(sizes), count.rows, count.clicks) for name, count in counts.items()
    }


def _count(found: Mapping[str, object]) -> _Count:
    """Rows and clicks of a part, as they were written down."""
    rows, clicks = _checked(found["rows"]), _checked(found["clicks"])
    if clicks > rows:
        raise ValueError("more clicks than rows")
    return _Count(rows, clicks)


def _checked(number: object, least: int = 0) -> int:
    """A whole number that a size may be."""
    if type(number) is not int or number < least:
        raise ValueError("no such number was written down")
    return number


def _is_whole(folder: Path, name: PartName, num_fields: int, num_rows: int, times: Mapping[object, object]) -> bool:
    """Whether the files of a part are those of so many rows; those of an empty one were never opened."""
    sizes = zip(_paths(folder, name), (4 * num_fields * num_rows, num_rows), strict=True)
    return not num_rows or all(_is_as_written(path, size, times) for path, size in sizes)


def _is_as_written(path: Path, size: int, times: Mapping[object, object]) -> bool:
    """Whether nobody has touched a file since: a sum over all of it would take minutes at every start."""
    return path.is_file() and path.stat().st_size == size and path.stat().st_mtime_ns == times.get(path.name)


def _flushed(path: Path) -> int:
    """Have a file on the disk, and tell the time of its last change: after a power cut nothing less is believed."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return path.stat().st_mtime_ns


def _sum_of(facts: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@contextmanager
def folder_to_be(final: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name when all is written and is taken away if anything fails.

    Args:
        final: Its name.

    Yields:
        The folder under a name of its own.

    Raises:
        OutputFolderError: It cannot be made or written.
    """
    scratch: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{final.name}-", dir=final.parent))
        yield scratch
        # Another process may have been faster; what is there and not whole is of no use to anybody.
        if stored(final) is None:
            shutil.rmtree(final, ignore_errors=True)
            os.replace(scratch, final)
    except OSError as error:
        # Errors of the lab have none: they are sentences already.
        if error.strerror is None:
            raise
        raise OutputFolderError(
            f"The encoded log cannot be written into {final.parent}: {error.strerror}. It takes four bytes for each "
            "field of each row; XDG_CACHE_HOME says where else the cache is to be."
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _paths(folder: Path, name: PartName) -> tuple[Path, Path]:
    return folder / f"{name}.categories", folder / f"{name}.labels"
