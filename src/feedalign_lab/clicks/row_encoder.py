"""What was learned of a log's values, kept: to encode new rows as the training rows were."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.clicks.encoders import FieldEncoder, make_encoder
from feedalign_lab.clicks.schema import ENCODINGS, KINDS, Field, Schema
from feedalign_lab.errors import CorruptFileError, MissingDataError

ENCODER_NAME = "encoder.json"

_FORMAT = 1
# Categories are numbered in 32 bits.
_LARGEST = 2**31
_SETS = ("positive", "negative", "ignored", "missing")


class RowEncoder:
    """Makes categories of rows.

    Args:
        schema: How the log is read.
        encoders: One for each field, finished.
    """

    def __init__(self, schema: Schema, encoders: Sequence[FieldEncoder]) -> None:
        self.schema, self.encoders = schema, tuple(encoders)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields."""
        return tuple(field.name for field in self.schema.fields)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Categories of each field, that of unseen values included."""
        return tuple(encoder.num_categories for encoder in self.encoders)

    @property
    def num_categories(self) -> int:
        """Categories of all fields together."""
        return sum(self.sizes)

    def encode(self, rows: Sequence[Mapping[str, object]]) -> NDArray[np.int32]:
        """Make categories of rows.

        Args:
            rows: Of each, what it has in each field, by the field's name: text as the log has it, or a number; nothing,
                "" and what the schema calls missing are missing values. Other names are passed over.

        Returns:
            Categories [n, F], numbered through all fields.

        Raises:
            CorruptFileError: A row lacks a field, or has something else where a number is expected.
        """
        found = np.empty((len(rows), len(self.encoders)), dtype=np.int32)
        offsets = np.cumsum([0, *self.sizes[:-1]])
        for number, (name, encoder) in enumerate(zip(self.names, self.encoders, strict=True)):
            column = [self._text(row, position, name) for position, row in enumerate(rows, start=1)]
            try:
                found[:, number] = encoder.encode(column) + offsets[number]
            except ValueError as error:
                text = str(error.args[0])
                raise CorruptFileError(
                    f"Row {column.index(text) + 1}: {name} is {text!r}, where a number is expected, as in the log that "
                    "was trained on."
                ) from None
        return found

    def _text(self, row: Mapping[str, object], position: int, name: str) -> str:
        """What stands in a field, in the form of the log."""
        if name not in row:
            raise CorruptFileError(f"Row {position} has no {name}; the fields are {', '.join(self.names)}.")
        text = "" if row[name] is None else str(row[name]).lstrip()
        return "" if text in self.schema.missing else text

    def save(self, path: Path) -> None:
        """Write it into a file, field by field.

        Args:
            path: The file.
        """
        schema = asdict(self.schema)
        schema.update({name: sorted(schema[name]) for name in _SETS})
        with path.open("w", encoding="utf-8") as file:
            file.write(f'{{"format": {_FORMAT},\n"schema": {json.dumps(schema)},\n"encoders": [')
            for number, encoder in enumerate(self.encoders):
                file.write(",\n" if number else "\n")
                file.write(json.dumps(encoder.state()))
            file.write("\n]}\n")

    @classmethod
    def load(cls, path: Path) -> "RowEncoder":
        """Read it from a file.

        Args:
            path: The file.

        Returns:
            The encoder.

        Raises:
            MissingDataError: It cannot be read.
            CorruptFileError: It is not what `save` writes.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise CorruptFileError(f"{path} has the format {content['format']}, where {_FORMAT} is expected.")
            schema = _schema(content["schema"])
            encoders = [make_encoder(field, schema) for field in schema.fields]
            for encoder, state in zip(encoders, content["encoders"], strict=True):
                encoder.restore(state)
        except OSError as error:
            raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error
        except CorruptFileError:
            raise
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CorruptFileError(
                f"{path} is not what `feedalign train` writes ({type(error).__name__}: {error}): train anew."
            ) from error
        return cls(schema, encoders)


def _schema(content: dict[str, Any]) -> Schema:
    """A schema from plain data."""
    sets = {name: frozenset(content[name]) for name in _SETS}
    schema = Schema(**{**content, **sets, "fields": tuple(Field(**field) for field in content["fields"])})
    names_and_texts = (*(field.name for field in schema.fields), *schema.positive, *schema.negative, *schema.missing)
    if not all(isinstance(text, str) for text in names_and_texts):
        raise TypeError("a name or a value is no text")
    if schema.encoding not in ENCODINGS or not all(field.kind in KINDS for field in schema.fields):
        raise ValueError("a field is of no kind that there is")
    numbers = (schema.label_column, schema.min_count, schema.num_buckets, *schema.ignored)
    if not schema.fields or not all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
        raise ValueError("a count or the number of a column cannot be")
    return schema
