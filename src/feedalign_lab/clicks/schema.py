"""What the columns of a log are: the one description that Criteo's format, UCI Adult and any CSV file go through."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FieldKind = Literal["categorical", "log", "quantiles"]
Encoding = Literal["threshold", "hash"]

KINDS: tuple[FieldKind, ...] = ("categorical", "log", "quantiles")
ENCODINGS: tuple[Encoding, ...] = ("threshold", "hash")


@dataclass(frozen=True)
class Field:
    """One field of a log.

    Attributes:
        name: Its name.
        kind: "categorical": every value is a category of its own. "log": numbers, of which v > 2 falls into category
            floor(log(v)^2) and v <= 2 into one of its own, as is usual for Criteo's counts. "quantiles": numbers, cut
            where equally many training values fall between two cuts.
    """

    name: str
    kind: FieldKind


@dataclass(frozen=True)
class Schema:
    """How the rows of a log are read and made into categories.

    Attributes:
        fields: The fields, in the order of the columns.
        label_column: Number of the label's column, from 0.
        positive: What stands in the label's column for a click.
        negative: What stands there for none.
        ignored: Numbers of columns that are no field.
        delimiter: What separates columns.
        is_quoted: Whether a column may stand in double quotes.
        has_header: Whether the first row names the columns.
        comment: Rows that start so are passed over; empty for none.
        missing: What stands for a missing value, beside nothing at all.
        encoding: "threshold": each value that is frequent enough in training is a category of its own, all others of
            a field share one. "hash": a value's checksum decides its category.
        min_count: How often a value must occur in training to be a category of its own.
        num_buckets: Categories of each categorical field under "hash".
        is_guessed: Whether the kinds of the fields are guesses from a log's first rows.
    """

    fields: tuple[Field, ...]
    label_column: int
    positive: frozenset[str] = frozenset({"1"})
    negative: frozenset[str] = frozenset({"0"})
    ignored: frozenset[int] = frozenset()
    delimiter: str = ","
    is_quoted: bool = True
    has_header: bool = False
    comment: str = ""
    missing: frozenset[str] = frozenset()
    encoding: Encoding = "threshold"
    min_count: int = 10
    num_buckets: int = 100_000
    is_guessed: bool = False

    @property
    def num_columns(self) -> int:
        """Columns of a row."""
        return len(self.fields) + len(self.ignored) + 1

    @property
    def field_columns(self) -> tuple[int, ...]:
        """The number of each field's column."""
        others = {self.label_column, *self.ignored}
        return tuple(number for number in range(self.num_columns) if number not in others)


CRITEO = Schema(
    fields=(
        *(Field(f"I{number}", "log") for number in range(1, 14)),
        *(Field(f"C{number}", "categorical") for number in range(1, 27)),
    ),
    label_column=0,
    delimiter="\t",
    is_quoted=False,
)
"""Criteo's format: the label, 13 counts and 26 hashed categories, separated by tabs, without a header.

Source: the transform of counts and the threshold of 10 are those of the winners of Kaggle's contest of 2014, which
torchfm and the public code of Launay et al. 2020 use.
"""

_ADULT_FIELDS: Mapping[str, FieldKind] = {
    "age": "log",
    "workclass": "categorical",
    "fnlwgt": "log",
    "education": "categorical",
    "education-num": "log",
    "marital-status": "categorical",
    "occupation": "categorical",
    "relationship": "categorical",
    "race": "categorical",
    "sex": "categorical",
    "capital-gain": "log",
    "capital-loss": "log",
    "hours-per-week": "log",
    "native-country": "categorical",
}

ADULT = Schema(
    fields=tuple(Field(name, kind) for name, kind in _ADULT_FIELDS.items()),
    label_column=14,
    positive=frozenset({">50K", ">50K."}),
    negative=frozenset({"<=50K", "<=50K."}),
    comment="|",
    missing=frozenset({"?"}),
)
"""UCI Adult: 14 fields, and whether a person earns more than 50,000 dollars a year."""
