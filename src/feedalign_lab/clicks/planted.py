"""A simulated log in Criteo's format with planted interactions of fields, so that the best possible AUC is known."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feedalign_lab.clicks.rows import Chunk
from feedalign_lab.errors import SettingError
from feedalign_lab.task import Tell, silent

Numbers = NDArray[np.float64]

NUM_ROWS = 200_000
"""Rows of the log that is called `planted`."""

_ROWS_AT_ONCE = 10_000
_NUM_COUNTS = 13
_NUM_CATEGORICAL = 26
# Distinct values of C1 to C26: few where there are interactions, many elsewhere, as in the real log.
_CARDINALITIES = (
    4, 5, 6, 6, 8, 8, 10, 10, 12, 12, 16, 20, 30, 40, 60, 100,
    200, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000,
)  # fmt: skip
_SHARE_MISSING = 0.1
# Fields 0 to 12 are counts, 13 to 38 categorical.
_PAIRS = ((0, 13), (1, 14), (2, 15), (16, 17), (18, 19), (20, 21))
_TRIPLES = ((13, 14, 15), (16, 17, 18), (19, 20, 21), (3, 13, 16), (4, 14, 17), (5, 15, 18))
_INTERCEPT = -2.2
# How steeply frequencies of values fall.
_EXPONENT = 1.4
MEAN_OF_SIGNS = 0.5
"""Of the hidden signs of the log that is called `planted`."""
# Standard deviations of the three sums in the logit.
_OF_SINGLES, _OF_PAIRS, _OF_TRIPLES = 0.5, 0.8, 1.8
_BYTES_OF_ROW = 240


@dataclass(frozen=True)
class _Categorical:
    """A categorical field: what its values are, how frequent, and what they do.

    Attributes:
        texts: Eight hexadecimal digits for each value.
        shares: Cumulative frequencies of the values.
        effects: What each adds to the logit.
        signs: Of mean 0 and variance 1 over the values' frequencies.
    """

    texts: NDArray[np.object_]
    shares: Numbers
    effects: Numbers
    signs: Numbers


@cache
def _categorical(number: int) -> _Categorical:
    """Categorical field of a number from 0."""
    size = _CARDINALITIES[number]
    random = np.random.default_rng([number, 1])
    weights = (np.arange(size) + 3.0) ** -_EXPONENT
    shares = weights / weights.sum()
    # Neighbours in frequency get opposite signs, so that both signs are about equally frequent.
    signs = np.where(np.arange(size) % 2 == 0, 1.0, -1.0)
    signs -= shares @ signs
    signs /= np.sqrt(shares @ signs**2)
    texts = np.array([f"{zlib.crc32(f'C{number + 1}={value}'.encode()):08x}" for value in range(size)], dtype=object)
    return _Categorical(texts, np.cumsum(shares), random.normal(size=size), signs)


@dataclass(frozen=True)
class PlantedLog:
    """Rows whose clicks are drawn with known probabilities.

    The logit is a constant plus three sums: of an effect of each value, of products of hidden signs over pairs of
    fields, and of such products over triples, which no sum over pairs can stand for. A value's sign and effect
    depend on nothing but the value, so that all logs, of whatever seed and size, follow the same law. As signs have a
    mean of 1/2, interactions show in their fields one by one, too, as they do in real logs: were the mean 0, nothing
    but the whole triple would tell anything.

    Attributes:
        num_rows: How many rows.
        seed: Of the rows.
        mean_of_signs: What is added to hidden signs, which else average to zero.
    """

    num_rows: int = NUM_ROWS
    seed: int = 0
    mean_of_signs: float = MEAN_OF_SIGNS

    def __post_init__(self) -> None:
        """Refuse a log without rows.

        Raises:
            SettingError: There are no rows.
        """
        if self.num_rows < 1:
            raise SettingError(f"A simulated log needs at least one row, not {self.num_rows}.")

    def chunks(self) -> Iterator[Chunk]:
        """Draw all rows.

        Yields:
            The rows as text, a few thousand at a time.
        """
        for first, values, probabilities, clicks in self._draws():
            del probabilities
            columns = [_count_texts(values[:, number]) for number in range(_NUM_COUNTS)]
            columns += [_category_texts(number, values[:, _NUM_COUNTS + number]) for number in range(_NUM_CATEGORICAL)]
            position = _BYTES_OF_ROW * (first + len(clicks))
            yield Chunk(clicks, columns, partial(_where, first), position)

    def size(self) -> int:
        """About how many bytes the text has."""
        return _BYTES_OF_ROW * self.num_rows

    def probabilities(self) -> Iterator[tuple[int, Numbers]]:
        """The true probability of a click for each row.

        Yields:
            The number of the first row, and the probabilities of it and the next few thousand.
        """
        for first, _, probabilities, _ in self._draws():
            yield first, probabilities

    def _draws(self) -> Iterator[tuple[int, NDArray[np.int64], Numbers, NDArray[np.uint8]]]:
        """Draw a few thousand rows at a time.

        Yields:
            The number of the first row, values where -1 is a missing one, probabilities and clicks.
        """
        for first in range(0, self.num_rows, _ROWS_AT_ONCE):
            # Numbered by their first row: a longer log begins with the rows of a shorter one.
            random = np.random.default_rng([self.seed, first])
            values = _values(random)
            probabilities = 1 / (1 + np.exp(-_logits(values, self.mean_of_signs)))
            clicks = (random.random(_ROWS_AT_ONCE) < probabilities).astype(np.uint8)
            count = min(_ROWS_AT_ONCE, self.num_rows - first)
            yield first, values[:count], probabilities[:count], clicks[:count]


def _where(first: int, row: int) -> str:
    return f"planted, row {first + row + 1}"


def _values(random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the values of all fields, [n, 39]."""
    counts = np.floor(np.exp(random.normal(np.linspace(0.5, 6, _NUM_COUNTS), 1.5, (_ROWS_AT_ONCE, _NUM_COUNTS))))
    uniform = random.random((_ROWS_AT_ONCE, _NUM_CATEGORICAL))
    chosen = [
        np.minimum(np.searchsorted(_categorical(number).shares, uniform[:, number]), size - 1)
        for number, size in enumerate(_CARDINALITIES)
    ]
    values = np.concatenate([counts.astype(np.int64), np.stack(chosen, axis=1)], axis=1)
    # Every other field is never missing.
    is_missing = random.random(values.shape) < _SHARE_MISSING * (np.arange(values.shape[1]) % 2)
    return np.where(is_missing, -1, values)


def _logits(values: NDArray[np.int64], mean_of_signs: float) -> Numbers:
    """The true logits of rows, [n]."""
    num_fields = values.shape[1]
    effects = np.empty(values.shape)
    signs = np.empty(values.shape)
    for number in range(num_fields):
        effects[:, number], signs[:, number] = _of_field(number, values[:, number])
    signs += mean_of_signs
    is_missing = values < 0
    effects[is_missing], signs[is_missing] = 0.0, 0.0
    singles = effects.sum(axis=1) / np.sqrt(num_fields)
    pairs, triples = (_interactions(signs, of, mean_of_signs) for of in (_PAIRS, _TRIPLES))
    logits: Numbers = _INTERCEPT + _OF_SINGLES * singles + _OF_PAIRS * pairs + _OF_TRIPLES * triples
    return logits


def _interactions(signs: Numbers, combinations: Sequence[tuple[int, ...]], mean: float) -> Numbers:
    """The sum over combinations of fields of the products of their signs, of variance 1 if no two share a field."""
    num_factors = len(combinations[0])
    variance = (1 + mean**2) ** num_factors - mean ** (2 * num_factors)
    products = np.stack([signs[:, list(fields)].prod(axis=1) for fields in combinations])
    total: Numbers = products.sum(axis=0) / np.sqrt(len(combinations) * variance)
    return total


def _of_field(number: int, values: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Effects and signs, of mean 0, of a field's values."""
    if number >= _NUM_COUNTS:
        field = _categorical(number - _NUM_COUNTS)
        return field.effects[values], field.signs[values]
    # The median of the numbers before they are rounded down: not quite balanced where counts are small.
    is_large = values >= np.floor(np.exp(np.linspace(0.5, 6, _NUM_COUNTS)[number]))
    signs = np.where(is_large, 1.0, -1.0)
    return 0.7 * signs, signs


def _count_texts(values: NDArray[np.int64]) -> Sequence[str]:
    return ["" if value < 0 else str(value) for value in values.tolist()]


def _category_texts(number: int, values: NDArray[np.int64]) -> Sequence[str]:
    # A missing value is -1: the last of all texts.
    texts: list[str] = np.append(_categorical(number).texts, "")[values].tolist()
    return texts


def bayes_auc(probabilities: Numbers) -> float:
    """The AUC to be expected of the true probabilities, which no predictor exceeds in expectation.

    Args:
        probabilities: Of clicks, for rows drawn from the law in question [n].

    Returns:
        Of all pairs of rows, one clicked and one not, the expected share that the probabilities put in order:
        sum_ij p_i (1 - p_j) [p_i > p_j] / (sum_i p_i sum_j (1 - p_j)), a tie counting half.
    """
    p, sizes = np.unique(probabilities, return_counts=True)
    clicks, others = p * sizes, (1 - p) * sizes
    below = np.cumsum(others) - others
    return float(clicks @ (below + others / 2) / (clicks.sum() * others.sum()))


def write_planted(path: Path, num_rows: int, *, seed: int = 0, tell: Tell = silent) -> float:
    """Write a log as a file in Criteo's format.

    Args:
        path: The file; it takes its name when all is written.
        num_rows: How many rows.
        seed: Of the rows.
        tell: Told how far it is.

    Returns:
        The AUC to be expected of the true probabilities.

    Raises:
        SettingError: There are no rows.
    """
    log = PlantedLog(num_rows, seed)
    scratch = path.with_name(f"{path.name}.part")
    try:
        with scratch.open("w", encoding="utf-8", newline="") as file:
            for chunk in log.chunks():
                labels = map(str, chunk.labels.tolist())
                file.writelines("\t".join(row) + "\n" for row in zip(labels, *chunk.columns, strict=True))
                tell(f"writing {path.name}", min(1.0, chunk.position / log.size()))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return bayes_auc(np.concatenate([some for _, some in log.probabilities()]))
