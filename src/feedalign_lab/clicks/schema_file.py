"""Schemas that users write, as TOML beside their log."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from feedalign_lab.clicks.inference import LABEL_NAMES
from feedalign_lab.clicks.schema import ENCODINGS, KINDS, Encoding, Field, FieldKind, Schema
from feedalign_lab.errors import CorruptFileError, MissingDataError

_T = TypeVar("_T")
_KEYS = (
    "label", "positive", "negative", "ignore", "delimiter", "header", "comment", "missing", "encoding", "min_count",
    "num_buckets", "fields",
)  # fmt: skip


class SchemaFile:
    """A schema file.

    Its keys, all optional but the first: `label`, the label's column, which may be left out where it is called label,
    click, clicked, target or y; `positive` and `negative`, lists of what stands there
    (["1"] and ["0"]); `ignore`, a list of columns; `delimiter` (","); `header`, whether the first row names the columns
    (true); `comment`, with which rows begin that are passed over; `missing`, a list of what stands for a missing value;
    `encoding`, "threshold" or "hash"; `min_count` (10) and `num_buckets` (100000); and a table `[fields]` of kinds by
    column, where those that are not in it are "categorical". Columns without names are named by their numbers, from 1.

    Args:
        path: The file.

    Raises:
        MissingDataError: It cannot be read.
        CorruptFileError: It is no TOML, or has a key that it should not have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise MissingDataError(f"The schema {path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptFileError(f"The schema {path} is not TOML: {error}.") from error
        for key in self._values:
            if key not in _KEYS:
                raise CorruptFileError(f"The schema {path} has the key {key!r}; those it can have: {', '.join(_KEYS)}.")

    @property
    def has_header(self) -> bool:
        """Whether the log's first row names the columns."""
        return self._value("header", bool, default=True)

    @property
    def comment(self) -> str:
        """With what rows begin that are passed over; empty for none."""
        return self._value("comment", str, default="")

    @property
    def delimiter(self) -> str:
        """What separates columns, a single character."""
        delimiter = self._value("delimiter", str, default=",")
        if len(delimiter) != 1:
            raise CorruptFileError(f"The schema {self.path} has the delimiter {delimiter!r}; give a single character.")
        return delimiter

    def schema(self, columns: Sequence[str]) -> Schema:
        """The schema for a log.

        Args:
            columns: The log's columns: their names where it has a header, else their numbers from 1.

        Returns:
            The schema.

        Raises:
            CorruptFileError: Something in the file is not as it should be, or names a column that there is not.
        """
        label = self._label(columns)
        ignored = {self._column(name, columns) for name in self._strings("ignore", [])}
        if label in ignored:
            raise CorruptFileError(f"The schema {self.path} ignores the label's column {columns[label]!r}.")
        kinds = self._kinds(columns)
        taken = {label, *ignored}
        fields = tuple(
            Field(name, kinds.get(number, "categorical")) for number, name in enumerate(columns) if number not in taken
        )
        if not fields:
            raise CorruptFileError(f"The schema {self.path} leaves no field among {', '.join(columns)}.")
        self._refuse_what_has_no_effect(fields)
        positive, negative = self._label_texts()
        return Schema(
            fields,
            label,
            positive=positive,
            negative=negative,
            ignored=frozenset(ignored),
            delimiter=self.delimiter,
            has_header=self.has_header,
            comment=self.comment,
            missing=frozenset(self._strings("missing", [])),
            encoding=cast("Encoding", self._choice("encoding", ENCODINGS, "threshold")),
            min_count=self._count("min_count", 10),
            num_buckets=self._count("num_buckets", 100_000),
        )

    def _label(self, columns: Sequence[str]) -> int:
        """Number of the label's column."""
        if "label" in self._values:
            return self._column(str(self._values["label"]), columns)
        lower = [name.lower() for name in columns]
        found = next((lower.index(name) for name in LABEL_NAMES if name in lower), None)
        if found is None:
            raise CorruptFileError(
                f'The schema {self.path} does not say which column is the label: add label = "...", one of '
                f"{', '.join(columns)}."
            )
        return found

    def _label_texts(self) -> tuple[frozenset[str], frozenset[str]]:
        """What stands for a click and for none."""
        positive, negative = self._strings("positive", ["1"]), self._strings("negative", ["0"])
        for key, texts in (("positive", positive), ("negative", negative)):
            if not texts:
                raise CorruptFileError(f"The schema {self.path} has no text for {key}; give at least one.")
        if shared := sorted(set(positive) & set(negative)):
            raise CorruptFileError(
                f"The schema {self.path} calls {shared[0]!r} both positive and negative (where one of them is left "
                "out, it is 1 or 0): say what each is."
            )
        return frozenset(positive), frozenset(negative)

    def _refuse_what_has_no_effect(self, fields: Sequence[Field]) -> None:
        """Refuse settings of the other encoding."""
        is_hashed = self._choice("encoding", ENCODINGS, "threshold") == "hash"
        if "num_buckets" in self._values and not is_hashed:
            raise CorruptFileError(
                f'The schema {self.path} has num_buckets, which means something under encoding = "hash" alone: add '
                "that, or take it out."
            )
        if "min_count" in self._values and is_hashed and all(field.kind != "log" for field in fields):
            raise CorruptFileError(
                f'The schema {self.path} has min_count, which under encoding = "hash" counts for fields of the kind '
                '"log" alone, and there are no counts among these: take it out.'
            )

    def _kinds(self, columns: Sequence[str]) -> dict[int, FieldKind]:
        """Kinds by the number of the column."""
        kinds: dict[int, FieldKind] = {}
        for name, kind in self._value("fields", dict, default={}).items():
            if kind not in KINDS:
                raise CorruptFileError(
                    f"The schema {self.path} makes {name} {kind!r}; a field is one of {', '.join(KINDS)}."
                )
            kinds[self._column(name, columns)] = kind
        return kinds

    def _column(self, name: str, columns: Sequence[str]) -> int:
        if name not in columns:
            raise CorruptFileError(
                f"The schema {self.path} names the column {name!r}, but the log has {', '.join(columns)}."
            )
        return list(columns).index(name)

    def _value(self, key: str, kind: type[_T], *, default: _T) -> _T:
        value = self._values.get(key, default)
        if not isinstance(value, kind):
            raise CorruptFileError(f"The schema {self.path} has {key} = {value!r}; give a {kind.__name__}.")
        return value

    def _strings(self, key: str, default: list[str]) -> list[str]:
        """A list of what stands in the log, where numbers may be written as numbers."""
        return [str(value) for value in self._value(key, list, default=default)]

    def _choice(self, key: str, valid: Sequence[str], default: str) -> str:
        value = self._value(key, str, default=default)
        if value not in valid:
            raise CorruptFileError(f"The schema {self.path} has {key} = {value!r}; give one of {', '.join(valid)}.")
        return value

    def _count(self, key: str, default: int) -> int:
        value = self._value(key, int, default=default)
        if value < 1:
            raise CorruptFileError(f"The schema {self.path} has {key} = {value}; give at least 1.")
        return value
