"""Rows of a log, read from text a few thousand at a time and checked line by line."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.clicks.schema import Schema
from feedalign_lab.errors import CorruptFileError, MissingDataError

_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Chunk:
    """Some rows, column by column.

    Attributes:
        labels: 1 for a click, 0 for none, [n].
        columns: The text of each field, n values each; "" is a missing one.
        where: Says which row of the log a row of the chunk is, for errors: "log.csv, line 3".
        position: How far into its source reading has come, in bytes.
    """

    labels: NDArray[np.uint8]
    columns: Sequence[Sequence[str]]
    where: Callable[[int], str]
    position: int


@dataclass(frozen=True)
class TextFile:
    """A log as a text file, plain or, where its name ends in .gz, compressed.

    Attributes:
        path: The file.
        schema: How to read it.
    """

    path: Path
    schema: Schema

    def chunks(self) -> Iterator[Chunk]:
        """Read it from its beginning, a few thousand rows at a time.

        Yields:
            The rows, in the order of the file; empty lines and comments are passed over.

        Raises:
            MissingDataError: The file cannot be read.
            CorruptFileError: A row has another number of columns or another label than the schema says, the text is not
                UTF-8 or not what its compression promises, or there are no rows.
        """
        rows: list[list[str]] = []
        lines: list[int] = []
        is_empty = True
        with opened(self.path) as binary:
            for line, row in self._rows(binary):
                rows.append(row)
                lines.append(line)
                if len(rows) == _ROWS_AT_ONCE:
                    yield self._chunk(rows, lines, _position(binary))
                    is_empty = False
                    rows, lines = [], []
        if rows:
            yield self._chunk(rows, lines, self.size())
        elif is_empty:
            raise CorruptFileError(f"{self.path} is empty: there are no rows in it.")

    def size(self) -> int:
        """Bytes of the file.

        Raises:
            MissingDataError: There is no such file.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise MissingDataError(f"{self.path} cannot be read: {error.strerror}.") from error

    def _rows(self, binary: BinaryIO) -> Iterator[tuple[int, list[str]]]:
        """Rows with the right number of columns, behind the header.

        Yields:
            The row's number of its last line, and its columns.
        """
        expected, comment = self.schema.num_columns, self.schema.comment
        is_header = self.schema.has_header
        for line, row in parsed(self.path, binary, self.schema.delimiter, is_quoted=self.schema.is_quoted):
            if not row or (comment and row[0].startswith(comment)):
                continue
            if is_header:
                is_header = False
                continue
            if len(row) != expected:
                delimiter = "\\t" if self.schema.delimiter == "\t" else self.schema.delimiter
                raise CorruptFileError(
                    f"{self.path}, line {line}: {len(row)} columns, where {expected} are expected: the label and "
                    f'{len(self.schema.fields)} fields, separated by "{delimiter}". A last line that is too short is '
                    "what a truncated file looks like; elsewhere, look for delimiters within values."
                )
            yield line, row

    def _chunk(self, rows: list[list[str]], lines: list[int], position: int) -> Chunk:
        columns = list(zip(*rows, strict=True))
        schema = self.schema
        clicks = {**dict.fromkeys(schema.positive, 1), **dict.fromkeys(schema.negative, 0)}
        label_texts = columns[schema.label_column]
        try:
            labels = np.fromiter(map(clicks.__getitem__, label_texts), dtype=np.uint8, count=len(rows))
        except KeyError:
            number = next(n for n, text in enumerate(label_texts) if text not in clicks)
            raise CorruptFileError(
                f"{self.path}, line {lines[number]}: the label is {label_texts[number]!r}, where "
                f"{', '.join(sorted(clicks))} are expected. For a `clicks:` log, `positive` and `negative` in a schema "
                "file say what labels are."
            ) from None
        fields: list[Sequence[str]] = [columns[number] for number in schema.field_columns]
        if schema.missing:
            blank = dict.fromkeys(schema.missing, "")
            fields = [[blank.get(text, text) for text in column] for column in fields]
        return Chunk(labels, fields, lambda number: f"{self.path}, line {lines[number]}", position)


def parsed(
    path: Path, binary: BinaryIO, delimiter: str, *, is_quoted: bool
) -> Generator[tuple[int, list[str]], None, None]:
    """Split the lines of an open file into columns.

    Args:
        path: Its path, for errors.
        binary: The open file.
        delimiter: What separates columns.
        is_quoted: Whether a column may stand in double quotes.

    Yields:
        The number of each row's last line, from 1, and its columns.

    Raises:
        CorruptFileError: The text is not UTF-8 or not what its compression promises, or quotes are not in order.
    """
    # Spreadsheets put a byte order mark before the first name.
    text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    reader = (
        csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
        if is_quoted
        else csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    )
    last = 0
    try:
        for row in reader:
            last = reader.line_num
            yield last, row
    except csv.Error as error:
        raise CorruptFileError(f"{path}, line {_told(error, last, reader.line_num)}.") from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(
            f"{path}, line {_line_not_decoded(path)}: not UTF-8 text ({error.reason}). Write the file anew as UTF-8."
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptFileError(f"{path}, behind line {reader.line_num}: {error}.") from error
    finally:
        text.detach()


def _told(error: csv.Error, last: int, current: int) -> str:
    """The line and what is wrong in it, between the last whole row and the line that was read."""
    if "end of data" in str(error):
        return f"{last + 1}: a quote is opened and not closed"
    if "expected after" in str(error):
        return f'{current}: text behind a closing quote; a quote within a quoted value is written twice, ""'
    return f"{current}: {error}"


def _line_not_decoded(path: Path) -> int:
    """The first line that is not UTF-8: the decoder works in blocks and does not know."""
    with opened(path) as binary:
        return next(number for number, line in enumerate(binary, start=1) if not _is_utf8(line))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def opened(path: Path) -> BinaryIO:
    """Open a log, plain or compressed.

    Args:
        path: The file.

    Returns:
        Its bytes, with the compression undone.

    Raises:
        MissingDataError: It cannot be read.
    """
    try:
        return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error


def _position(binary: BinaryIO) -> int:
    """How far into the file on the disk reading has come."""
    compressed: BinaryIO = getattr(binary, "fileobj", binary)
    return compressed.tell()
