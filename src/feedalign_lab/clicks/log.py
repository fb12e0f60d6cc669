"""A click log, encoded: two passes over its text, the first over the training rows alone."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.clicks.encoders import make_encoder, save_memory
from feedalign_lab.clicks.row_encoder import ENCODER_NAME, RowEncoder
from feedalign_lab.clicks.rows import Chunk
from feedalign_lab.clicks.schema import Schema
from feedalign_lab.clicks.splitting import Role, split
from feedalign_lab.clicks.store import (
    PART_NAMES,
    FileSink,
    MemorySink,
    Part,
    PartName,
    Sink,
    folder_to_be,
    stored,
)
from feedalign_lab.data.location import cache_root
from feedalign_lab.errors import CorruptFileError, MissingDataError, SettingError
from feedalign_lab.task import Tell

LARGEST_IN_MEMORY = 64 * 2**20
"""Bytes of text up to which the encoded log is kept in memory."""

_FORMAT = 3
# Of a large file: 256 KiB are read in no time, the whole would take minutes.
_NUM_SAMPLES, _SAMPLE_SIZE = 64, 4096


class ChunkSource(Protocol):
    """Where rows come from, the same at every pass."""

    def chunks(self) -> Iterator[Chunk]:
        """Give all rows, a few thousand at a time."""
        ...

    def size(self) -> int:
        """Bytes of text."""
        ...


@dataclass(frozen=True)
class Source:
    """A file of a log, or what stands for one.

    Attributes:
        rows: Gives the rows.
        role: Which parts they go to.
    """

    rows: ChunkSource
    role: Role


@dataclass(frozen=True, eq=False)
class ClickLog:
    """An encoded log.

    Attributes:
        name: What the user typed.
        schema: How its text was read.
        sizes: Categories of each field, that of unseen values included.
        parts: Training, validation and test.
        kept_encoder: What encoded the rows, or, of a large log, the file that has it.
        bayes_auc: The AUC of the true probabilities on the test part, where they are known.
    """

    name: str
    schema: Schema
    sizes: tuple[int, ...]
    parts: Mapping[PartName, Part]
    kept_encoder: RowEncoder | Path
    bayes_auc: float | None = None

    @property
    def num_categories(self) -> int:
        """Categories of all fields together."""
        return sum(self.sizes)

    def encoder(self) -> RowEncoder:
        """What makes categories of rows as it did of these."""
        return RowEncoder.load(self.kept_encoder) if isinstance(self.kept_encoder, Path) else self.kept_encoder

    def save_encoder(self, path: Path) -> None:
        """Write the encoder into a file.

        Args:
            path: The file; `RowEncoder.load` reads it.
        """
        if isinstance(self.kept_encoder, Path):
            shutil.copyfile(self.kept_encoder, path)
        else:
            self.kept_encoder.save(path)


def encode(name: str, sources: Sequence[Source], schema: Schema, tell: Tell, key: str | None = None) -> ClickLog:
    """Read a log twice: to learn the categories from its training rows, and to encode it.

    Args:
        name: What the user typed.
        sources: Where its rows come from.
        schema: How its text is read.
        tell: Told how far it is.
        key: Tells the text from any other, to find it encoded already; None keeps the encoded log in memory.

    Returns:
        The log. A large one lies encoded in the cache, where it is found the next time.

    Raises:
        CorruptFileError: Something in the text is not as it should be.
        MissingDataError: A file cannot be read.
        OutputFolderError: The cache cannot be written.
        SettingError: A part has no rows, or none of one class.
    """
    if key is None:
        sink = MemorySink()
        encoder = _encode_into(sink, sources, schema, tell)
        return _checked(ClickLog(name, schema, encoder.sizes, sink.parts(len(encoder.sizes)), encoder))
    folder = cache_root() / "clicks" / hashlib.sha256(f"{_FORMAT} {schema} {key}".encode()).hexdigest()[:24]
    if (found := stored(folder)) is None:
        with folder_to_be(folder) as scratch:
            files = FileSink(scratch)
            try:
                files.finish(_encode_into(files, sources, schema, tell))
            finally:
                files.close()
        found = stored(folder)
    assert found is not None
    return _checked(ClickLog(name, schema, *found, folder / ENCODER_NAME))


def key_of(paths: Sequence[Path]) -> str | None:
    """What tells large files from any others.

    Args:
        paths: Files that exist.

    Returns:
        Their names, sizes and times, and a sum over a few places of each; None where they are so small that encoding
        them anew takes no time.

    Raises:
        MissingDataError: A file cannot be read.
    """
    states = [path.stat() for path in paths]
    if sum(state.st_size for state in states) <= LARGEST_IN_MEMORY:
        return None
    return " ".join(
        f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {_sum_of_samples(path, state.st_size)}"
        for path, state in zip(paths, states, strict=True)
    )


def _sum_of_samples(path: Path, size: int) -> str:
    """A sum over blocks at even distances, the first and the last among them: a copy may have kept size and time."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for number in range(_NUM_SAMPLES):
                file.seek(max(0, size - _SAMPLE_SIZE) * number // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_SIZE))
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _encode_into(sink: Sink, sources: Sequence[Source], schema: Schema, tell: Tell) -> RowEncoder:
    """Both passes.

    Returns:
        What encoded the rows.
    """
    encoders = [make_encoder(field, schema) for field in schema.fields]
    for chunk, parts in _pass(sources, tell, "counting values"):
        # As a list: going through an array makes a numpy object of each entry.
        mask = (parts == PART_NAMES.index("train")).tolist()
        for number, encoder in enumerate(encoders if any(mask) else ()):
            with _located(chunk, number, schema):
                encoder.observe(list(compress(chunk.columns[number], mask)))
        save_memory(encoders)
    for encoder in encoders:
        encoder.finish()
    sizes = tuple(encoder.num_categories for encoder in encoders)
    offsets = np.cumsum([0, *sizes[:-1]])
    for chunk, parts in _pass(sources, tell, "encoding rows"):
        categories = np.empty((len(chunk.labels), len(sizes)), dtype=np.int32)
        for number, encoder in enumerate(encoders):
            with _located(chunk, number, schema):
                categories[:, number] = encoder.encode(chunk.columns[number]) + offsets[number]
        for part, name in enumerate(PART_NAMES):
            if (mask := parts == part).any():
                sink.append(name, categories[mask], chunk.labels[mask])
    return RowEncoder(schema, encoders)


def _pass(sources: Sequence[Source], tell: Tell, what: str) -> Iterator[tuple[Chunk, NDArray[np.uint8]]]:
    """Go once through all rows.

    Yields:
        Rows, and the part of each.
    """
    sizes = [source.rows.size() for source in sources]
    total = max(1, sum(sizes))
    for number, source in enumerate(sources):
        done, first = sum(sizes[:number]), 0
        for chunk in source.rows.chunks():
            yield chunk, split(first, len(chunk.labels), source.role)
            tell(what, (done + chunk.position) / total)
            first += len(chunk.labels)


@contextmanager
def _located(chunk: Chunk, number: int, schema: Schema) -> Iterator[None]:
    """Say in which line a text is that is no number."""
    try:
        yield
    except ValueError as error:
        text, field = str(error.args[0]), schema.fields[number]
        row = chunk.columns[number].index(text)
        raise CorruptFileError(
            f"{chunk.where(row)}: {field.name} is {text!r}, where a number is expected. Mend the line; or, where these "
            'are no numbers, make the field "categorical" in a schema file.'
        ) from None


def _checked(log: ClickLog) -> ClickLog:
    """Refuse a log on which nothing could be learned or measured.

    Raises:
        SettingError: A part has no rows, or none of one class.
    """
    for name, part in log.parts.items():
        if part.num_clicks in {0, part.num_rows}:
            found = f"{part.num_rows:,} rows, {part.num_clicks:,} of them clicks"
            raise SettingError(
                f"The {name} part of {log.name} has {found}; it needs both clicks and rows without one. Give more "
                "rows, or, where the label is not a click, say in the schema what `positive` and `negative` are."
            )
    return log
