"""What a CSV file without a schema most probably means, from its first rows."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from feedalign_lab.clicks.rows import opened, parsed
from feedalign_lab.clicks.schema import Field, FieldKind, Schema
from feedalign_lab.errors import CorruptFileError

_NUM_ROWS = 10_000
_LABEL_NAMES = ("label", "click", "clicked", "target", "y")
# The text of a click, and of none.
_LABELS = (("1", "0"), ("1", "-1"), ("1.0", "0.0"), ("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"))
_FEWEST_NUMBERS = 10


def header_of(path: Path, delimiter: str, *, has_header: bool) -> list[str]:
    """Names of a log's columns.

    Args:
        path: The file.
        delimiter: What separates columns.
        has_header: Whether its first row names them.

    Returns:
        The names, or numbers from 1.

    Raises:
        CorruptFileError: The file is empty, or two columns have the same name.
    """
    with opened(path) as binary:
        first = next((row for _, row in parsed(path, binary, delimiter, is_quoted=True) if row), None)
    if first is None:
        raise CorruptFileError(f"{path} is empty: there are no rows in it.")
    names = [name.strip() for name in first] if has_header else [str(number) for number in range(1, len(first) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptFileError(f"{path} has two columns called {twice!r}; the first row is to name the columns.")
    return names


def infer_schema(path: Path) -> Schema:
    """Infer a schema: the first row names the columns, and one of them is the label.

    The label is the column called label, click, clicked, target or y; else the last one. Fields whose first 10,000
    values are all numbers, at least 10 different ones among them, are numbers: by their logarithm where all are whole,
    else by quantiles. All others are categorical.

    Args:
        path: The log, in CSV, or with tabs where its name has .tsv in it.

    Returns:
        The schema.

    Raises:
        CorruptFileError: The file is empty, a row is too short, or the label does not have two values of which one can
            be told to be a click.
    """
    delimiter = "\t" if ".tsv" in path.name else ","
    names = header_of(path, delimiter, has_header=True)
    rows = list(islice(_rows(path, delimiter, len(names)), 1, _NUM_ROWS + 1))
    if not rows:
        raise CorruptFileError(f"{path} is empty: there are no rows in it but the names of the columns.")
    columns = list(zip(*rows, strict=True))
    lower = [name.lower() for name in names]
    label = next((lower.index(name) for name in _LABEL_NAMES if name in lower), len(names) - 1)
    positive, negative = _labels(path, names[label], columns[label])
    fields = tuple(
        Field(name, _kind(column))
        for number, (name, column) in enumerate(zip(names, columns, strict=True))
        if number != label
    )
    if not fields:
        raise CorruptFileError(f"{path} has one column, {names[0]!r}; a log needs a label and at least one field.")
    return Schema(fields, label, frozenset({positive}), frozenset({negative}), delimiter=delimiter, has_header=True)


def _rows(path: Path, delimiter: str, num_columns: int) -> Iterator[list[str]]:
    """Go through the rows, the header included.

    Yields:
        Columns of a row.
    """
    with opened(path) as binary:
        for line, row in parsed(path, binary, delimiter, is_quoted=True):
            if row and len(row) != num_columns:
                raise CorruptFileError(
                    f"{path}, line {line}: {len(row)} columns, where the first row names {num_columns}."
                )
            if row:
                yield row


def _labels(path: Path, name: str, column: Sequence[str]) -> tuple[str, str]:
    """The text of a click and of none."""
    found = sorted(set(column))
    lower = {text.lower(): text for text in found}
    for positive, negative in _LABELS:
        if set(lower) == {positive, negative}:
            return lower[positive], lower[negative]
    shown = ", ".join(map(repr, found[:6])) + (" and others" if len(found) > 6 else "")
    raise CorruptFileError(
        f"{path}: no label can be told. The column {name!r} holds {shown}; 1 and 0 would do. Name the label's column "
        f"and what stands there in a schema file, {path.with_suffix('.toml').name} beside the log: "
        'label = "...", positive = ["..."], negative = ["..."].'
    )


def _kind(column: Sequence[str]) -> FieldKind:
    """What a field seems to be."""
    texts = {text for text in column if text}
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return "categorical"
    if len(set(numbers)) < _FEWEST_NUMBERS:
        return "categorical"
    return "log" if all(number.is_integer() for number in numbers) else "quantiles"
