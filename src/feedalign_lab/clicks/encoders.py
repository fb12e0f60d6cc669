"""From the text of a field to a category, learned from the training rows in bounded memory."""

import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.clicks.numerals import as_number, log_category
from feedalign_lab.clicks.schema import Field, Schema

MOST_VALUES = 3_000_000
"""Distinct values of all fields together that are counted at once: some 400 MB."""

_MOST_REMEMBERED = 100_000
_MOST_SAMPLED = 100_000
_NUM_QUANTILES = 32


class FieldEncoder(ABC):
    """Makes categories of one field's text. First `observe` all training rows, then `finish`, then `encode` any.

    Category 0 is shared by everything that training did not show, or not often enough.
    """

    @abstractmethod
    def observe(self, column: Sequence[str]) -> None:
        """Look at training rows.

        Args:
            column: The field's text; "" is a missing value.

        Raises:
            ValueError: A number is expected and something else found, the error's argument.
        """

    @abstractmethod
    def finish(self) -> None:
        """Settle the categories."""

    @property
    @abstractmethod
    def num_categories(self) -> int:
        """Categories, that of the unseen included."""

    @abstractmethod
    def encode(self, column: Sequence[str]) -> NDArray[np.int32]:
        """Make categories of rows.

        Args:
            column: The field's text; "" is a missing value.

        Returns:
            Categories from 0, [n].

        Raises:
            ValueError: A number is expected and something else found, the error's argument.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What was learned, as plain data."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what another encoder of the same field has learned, in the place of `finish`.

        Args:
            state: Its state.

        Raises:
            ValueError: It is the state of no such encoder.
        """

    def num_counted(self) -> int:
        """Distinct values that are being counted."""
        return 0

    def forget(self, count: int) -> None:
        """Forget values seen no more than this often so far, to save memory.

        Args:
            count: How often.
        """
        del count


class _Remembering(dict[str, int]):
    """What a function makes of text; texts seen before are looked up, and forgotten when they become too many."""

    def __init__(self, function: Callable[[str], int]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> int:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        value = self[text] = self._function(text)
        return value


class _Known(dict[int | str, int]):
    """Categories of known values; 0 for all others."""

    def __missing__(self, value: int | str) -> int:
        return 0


_MISSING = -(2**31)


def _log_category_of_text(text: str) -> int:
    return log_category(as_number(text)) if text else _MISSING


class ThresholdEncoder(FieldEncoder):
    """A category for each value that is frequent enough in training, in the order of frequency.

    Where values had to be forgotten while they were counted, their counts start again: a value may then miss the
    threshold, none can pass it wrongly.

    Args:
        min_count: How often is enough.
        is_log: Whether the field holds counts, whose logarithms are the values.
    """

    def __init__(self, min_count: int, *, is_log: bool) -> None:
        self._min_count = min_count
        self._values = _Remembering(_log_category_of_text) if is_log else None
        self._counts: Counter[int | str] = Counter()
        self._known = _Known()

    def observe(self, column: Sequence[str]) -> None:
        """See `FieldEncoder`."""
        self._counts.update(column if self._values is None else map(self._values.__getitem__, column))

    def finish(self) -> None:
        """See `FieldEncoder`."""
        frequent = [(-count, str(value), value) for value, count in self._counts.items() if count >= self._min_count]
        self.restore({"values": [value for _, _, value in sorted(frequent)]})
        self._counts = Counter()

    def state(self) -> dict[str, Any]:
        """See `FieldEncoder`: the values in the order of their categories, from 1."""
        return {"values": list(self._known)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `FieldEncoder`."""
        values = state["values"]
        if not isinstance(values, list) or not all(type(value) in {int, str} for value in values):
            raise ValueError("values are numbers or texts")
        self._known = _Known({value: number for number, value in enumerate(values, start=1)})

    @property
    def num_categories(self) -> int:
        """See `FieldEncoder`."""
        return 1 + len(self._known)

    def encode(self, column: Sequence[str]) -> NDArray[np.int32]:
        """See `FieldEncoder`."""
        values = column if self._values is None else map(self._values.__getitem__, column)
        return np.fromiter(map(self._known.__getitem__, values), dtype=np.int32, count=len(column))

    def num_counted(self) -> int:
        """See `FieldEncoder`."""
        return len(self._counts)

    def forget(self, count: int) -> None:
        """See `FieldEncoder`."""
        self._counts = Counter({value: seen for value, seen in self._counts.items() if seen > count})


class HashEncoder(FieldEncoder):
    """A category by the value's checksum: nothing is counted, and values may share a category.

    Args:
        num_buckets: Categories for values that are not missing.
    """

    def __init__(self, num_buckets: int) -> None:
        self._num_buckets = num_buckets
        self._buckets = _Remembering(self._bucket)

    def observe(self, column: Sequence[str]) -> None:
        """See `FieldEncoder`; there is nothing to learn."""

    def finish(self) -> None:
        """See `FieldEncoder`; there is nothing to settle."""

    def state(self) -> dict[str, Any]:
        """See `FieldEncoder`; the schema tells everything."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `FieldEncoder`; there is nothing to take."""

    @property
    def num_categories(self) -> int:
        """See `FieldEncoder`."""
        return 1 + self._num_buckets

    def encode(self, column: Sequence[str]) -> NDArray[np.int32]:
        """See `FieldEncoder`."""
        return np.fromiter(map(self._buckets.__getitem__, column), dtype=np.int32, count=len(column))

    def _bucket(self, text: str) -> int:
        return 1 + zlib.crc32(text.encode()) % self._num_buckets if text else 0


class QuantileEncoder(FieldEncoder):
    """Numbers, cut into 32 ranges of about equally many training values; equal numbers are never parted.

    The cuts come from at most 100,000 values, taken at even distances through the training rows.
    """

    def __init__(self) -> None:
        self._sample: list[float] = []
        self._stride = 1
        self._num_seen = 0
        self._cuts = np.empty(0)

    def observe(self, column: Sequence[str]) -> None:
        """See `FieldEncoder`."""
        numbers = [as_number(text) for text in column if text]
        first = -self._num_seen % self._stride
        self._sample += numbers[first :: self._stride]
        self._num_seen += len(numbers)
        while len(self._sample) > _MOST_SAMPLED:
            self._sample = self._sample[::2]
            self._stride *= 2

    def finish(self) -> None:
        """See `FieldEncoder`."""
        if self._sample:
            shares = np.arange(1, _NUM_QUANTILES) / _NUM_QUANTILES
            self._cuts = np.unique(np.quantile(np.array(self._sample), shares))
        self._sample = []

    def state(self) -> dict[str, Any]:
        """See `FieldEncoder`: where the ranges are cut."""
        return {"cuts": self._cuts.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `FieldEncoder`."""
        cuts = np.array(state["cuts"], dtype=float)
        if cuts.ndim != 1 or not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
            raise ValueError("cuts are a row of rising numbers")
        self._cuts = cuts

    @property
    def num_categories(self) -> int:
        """See `FieldEncoder`; a missing value has category 0."""
        return 2 + len(self._cuts)

    def encode(self, column: Sequence[str]) -> NDArray[np.int32]:
        """See `FieldEncoder`."""
        numbers = np.array([as_number(text) if text else 0.0 for text in column])
        ranges = 1 + np.searchsorted(self._cuts, numbers, side="right")
        is_there = np.fromiter(map(bool, column), dtype=bool, count=len(column))
        return np.where(is_there, ranges, 0).astype(np.int32)


def make_encoder(field: Field, schema: Schema) -> FieldEncoder:
    """The encoder of a field.

    Args:
        field: The field.
        schema: Its log's schema.

    Returns:
        The encoder; it has seen nothing yet.
    """
    if field.kind == "quantiles":
        return QuantileEncoder()
    if field.kind == "categorical" and schema.encoding == "hash":
        return HashEncoder(schema.num_buckets)
    return ThresholdEncoder(schema.min_count, is_log=field.kind == "log")


def save_memory(encoders: Sequence[FieldEncoder], most: int = MOST_VALUES) -> None:
    """Forget the rarest values while too many are being counted.

    Args:
        encoders: All fields' encoders.
        most: How many distinct values may be counted at once.
    """
    count = 1
    while sum(encoder.num_counted() for encoder in encoders) > most:
        for encoder in encoders:
            encoder.forget(count)
        count += 1
