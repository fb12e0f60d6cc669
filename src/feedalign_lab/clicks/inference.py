"""What a CSV file without a schema most probably means, from its first rows."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from feedalign_lab.clicks.numerals import as_number
from feedalign_lab.clicks.rows import opened, parsed
from feedalign_lab.clicks.schema import Field, FieldKind, Schema
from feedalign_lab.errors import CorruptFileError

NUM_ROWS_LOOKED_AT = 10_000
"""Rows from which kinds of fields are guessed."""

LABEL_NAMES = ("label", "click", "clicked", "target", "y")
"""What the label's column is called, where nothing else is said."""

# The text of a click, and of none.
_LABELS = (("1", "0"), ("1", "-1"), ("1.0", "0.0"), ("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"))
_DELIMITERS = (";", "\t", "|")
_FEWEST_NUMBERS = 10
# Whole numbers of which each is so frequent are learned one by one: no order between them has to be assumed.
_ROWS_OF_EACH = 50
# Above this share of numbers, a field's other texts are more likely slips than values.
_SHARE_OF_NUMBERS = 0.8
# Above this share of two texts that are a label's, others in its column are slips.
_SHARE_OF_LABELS = 0.8
# "item_id", "item id", "itemId", "ItemID", but neither "paid" nor "grid".
_NAME_OF_THINGS = re.compile(r"(?:^|[_\-. ])(?i:id|zip|zip_?code|postcode|postal_?code)$|(?<=[a-z])(?:Id|ID)$")


def header_of(path: Path, delimiter: str, *, has_header: bool, comment: str = "") -> list[str]:
    """Names of a log's columns.

    Args:
        path: The file.
        delimiter: What separates columns.
        has_header: Whether its first row names them.
        comment: Rows that start so are passed over; empty for none.

    Returns:
        The names, or numbers from 1.

    Raises:
        CorruptFileError: The file is empty, or two columns have the same name.
    """
    with opened(path) as binary, closing(parsed(path, binary, delimiter, is_quoted=True)) as rows:
        first = next((row for _, row in rows if row and not (comment and row[0].startswith(comment))), None)
    if first is None:
        raise CorruptFileError(f"{path} is empty: there are no rows in it.")
    names = [name.strip() for name in first] if has_header else [str(number) for number in range(1, len(first) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptFileError(f"{path} has two columns called {twice!r}; the first row is to name the columns.")
    return names


def infer_schema(path: Path, beside: Path) -> Schema:
    """Infer a schema: the first row names the columns, and one of them is the label.

    The label is the column called label, click, clicked, target or y; else the last one. Kinds come from the first
    10,000 rows. A field is categorical if it holds more than numbers, or fewer than 10 different ones, or whole ones
    that either have 50 rows each or are called an id or a postal code. Other numbers are taken by their logarithm where
    all are whole, else by quantiles.

    Args:
        path: The log, in CSV, or with tabs where its name has .tsv in it.
        beside: Where a schema would be looked for, for errors.

    Returns:
        The schema.

    Raises:
        CorruptFileError: The file is empty, a row is too short, the first row names nothing, there is a single column,
            a label is neither of two values of which one can be told to be a click, or a field holds numbers with other
            text among them.
    """
    delimiter = "\t" if ".tsv" in path.name else ","
    names = header_of(path, delimiter, has_header=True)
    if len(names) == 1:
        raise CorruptFileError(_single_column(path, names[0], beside))
    rows = list(islice(_rows(path, delimiter, len(names)), 1, NUM_ROWS_LOOKED_AT + 1))
    if not rows:
        raise CorruptFileError(f"{path} is empty: there are no rows in it but the names of the columns.")
    lines, columns = [line for line, _ in rows], list(zip(*(row for _, row in rows), strict=True))
    lower = [name.lower() for name in names]
    label = next((lower.index(name) for name in LABEL_NAMES if name in lower), len(names) - 1)
    guess = _Guess(path, beside, names, lines, columns, label)
    guess.refuse_data_as_names()
    positive, negative = guess.labels()
    return Schema(
        guess.fields(),
        label,
        frozenset({positive}),
        frozenset({negative}),
        delimiter=delimiter,
        has_header=True,
        is_guessed=True,
    )


def _rows(path: Path, delimiter: str, num_columns: int) -> Iterator[tuple[int, list[str]]]:
    """Go through the rows, the header included.

    Yields:
        The row's number of its last line, and its columns.
    """
    with opened(path) as binary:
        for line, row in parsed(path, binary, delimiter, is_quoted=True):
            if row and len(row) != num_columns:
                raise CorruptFileError(
                    f"{path}, line {line}: {len(row)} columns, where the first row names {num_columns}."
                )
            if row:
                yield line, row


def _single_column(path: Path, name: str, beside: Path) -> str:
    """What to say of a file that has one column, or none of the expected delimiters."""
    found = next((delimiter for delimiter in _DELIMITERS if delimiter in name), None)
    if found is None:
        return f"{path} has one column, {name!r}; a log needs a label and at least one field."
    shown = "\\t" if found == "\t" else found
    return (
        f"{path} has one column, {name!r}. If something else than a comma separates columns, say so in a schema file, "
        f'{beside}: delimiter = "{shown}"; label = "..."; and in [fields] what is a number.'
    )


@dataclass(frozen=True)
class _Guess:
    """The first rows of a log, and what they seem to be.

    Attributes:
        path: The log.
        beside: Where its schema would be.
        names: Of the columns.
        lines: The number of each row's line.
        columns: What stands in each column.
        label: Number of the label's column.
    """

    path: Path
    beside: Path
    names: Sequence[str]
    lines: Sequence[int]
    columns: Sequence[Sequence[str]]
    label: int

    def refuse_data_as_names(self) -> None:
        """Refuse a first row that looks like any other."""
        number = next((name for name in self.names if _is_number(name)), None)
        name = self.names[self.label]
        if number is None and name not in self.columns[self.label]:
            return
        what = f"is called {name!r} as its values are" if number is None else f"would be called {number!r}"
        raise CorruptFileError(
            f"{self.path}, line 1: the first row is to name the columns, and one {what}. Put names above the rows; or "
            f"write header = false and label, the number of its column, into a schema file, {self.beside}: "
            f'header = false; label = "{self.label + 1}"; and in [fields], by their numbers, which are numbers.'
        )

    def labels(self) -> tuple[str, str]:
        """The text of a click and of none."""
        counts = Counter(self.columns[self.label])
        commonest = dict(counts.most_common(2))
        are_most = sum(commonest.values()) >= _SHARE_OF_LABELS * counts.total()
        for found in (counts, commonest) if are_most else (counts,):
            lower = {text.lower(): text for text in found}
            for positive, negative in _LABELS:
                if set(lower) == {positive, negative}:
                    self._refuse_other_labels(lower[positive], lower[negative])
                    return lower[positive], lower[negative]
        texts = sorted(counts)
        shown = ", ".join(map(repr, texts[:6])) + (" and others" if len(texts) > 6 else "")
        raise CorruptFileError(
            f"{self.path}: no label can be told. The column {self.names[self.label]!r} holds {shown}; 1 and 0 would do."
            f" Name the label's column and what stands there in a schema file, {self.beside}: "
            'label = "...", positive = ["..."], negative = ["..."].'
        )

    def _refuse_other_labels(self, positive: str, negative: str) -> None:
        """Refuse a few other texts among many labels."""
        for line, text in zip(self.lines, self.columns[self.label], strict=True):
            if text not in {positive, negative}:
                raise CorruptFileError(
                    f"{self.path}, line {line}: the label is {text!r}, where {', '.join(sorted((positive, negative)))} "
                    "are expected. A last line that is too short is what a truncated file looks like."
                )

    def fields(self) -> tuple[Field, ...]:
        """All columns but the label's."""
        kinds = {number: self._kind(number) for number in range(len(self.names)) if number != self.label}
        for number in kinds:
            self._refuse_slips(number, kinds)
        return tuple(Field(self.names[number], kind) for number, kind in kinds.items())

    def _kind(self, number: int) -> FieldKind:
        """What a field seems to be, slips among its numbers left aside."""
        counts = Counter(text for text in self.columns[number] if text)
        numbers = {text: as_number(text) for text in counts if _is_number(text)}
        values = set(numbers.values())
        others = {text: count for text, count in counts.items() if text not in numbers}
        # What is no number is a slip where it is rare, or stands for no value where it is always the same.
        are_slips = len(others) <= 1 or sum(others.values()) <= (1 - _SHARE_OF_NUMBERS) * counts.total()
        if len(values) < _FEWEST_NUMBERS or not are_slips:
            return "categorical"
        if not all(value.is_integer() for value in values):
            return "quantiles"
        is_many_each = len(values) * _ROWS_OF_EACH <= counts.total() - sum(others.values())
        return "categorical" if is_many_each or _NAME_OF_THINGS.search(self.names[number]) else "log"

    def _refuse_slips(self, number: int, kinds: Mapping[int, FieldKind]) -> None:
        """Refuse numbers with other text among them, which would be neither numbers nor categories."""
        if kinds[number] == "categorical":
            return
        for line, text in zip(self.lines, self.columns[number], strict=True):
            if text and not _is_number(text):
                others = [f'"{self.names[n]}" = "{kind}"' for n, kind in kinds.items() if kind != "categorical"]
                positive, negative = self.labels()
                raise CorruptFileError(
                    f"{self.path}, line {line}: {self.names[number]} is {text!r}, where most rows have a number. Mend "
                    f"the line; or, if it stands for a missing value, say so in a schema file, {self.beside}; one that "
                    f'says what is guessed here, a line each: label = "{self.names[self.label]}"; '
                    f'positive = ["{positive}"]; negative = ["{negative}"]; missing = ["{text}"]; [fields]; '
                    f"{'; '.join(others)}."
                )


def _is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        as_number(text)
    except ValueError:
        return False
    return True
