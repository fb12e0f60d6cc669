"""Which rows train, which validate and which test."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["whole", "development", "train", "validation", "test"]
"""Which parts the rows of a source go to: all three, training and validation, or one."""

# Shares of training, validation and test; 80 : 10 : 10 are those of Launay et al.'s public code.
_SHARES: Mapping[Role, tuple[float, float, float]] = {
    "whole": (0.8, 0.1, 0.1),
    "development": (0.9, 0.1, 0.0),
    "train": (1.0, 0.0, 0.0),
    "validation": (0.0, 1.0, 0.0),
    "test": (0.0, 0.0, 1.0),
}


def split(first: int, count: int, role: Role) -> NDArray[np.uint8]:
    """Which part each of some rows belongs to: a function of the row's number alone.

    Args:
        first: Number of the first row among those of its source.
        count: How many.
        role: Of the source.

    Returns:
        Numbers of parts in the order of `PART_NAMES`, [n].
    """
    # Without the last limit, so that no rounding of the sum leaves a row out.
    limits = np.cumsum(_SHARES[role])[:-1]
    return np.searchsorted(limits, _uniform(first, count), side="right").astype(np.uint8)


def _uniform(first: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), a mixture of the bits of each row's number (splitmix64)."""
    numbers = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = numbers * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
