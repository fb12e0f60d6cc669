"""Power laws: straight lines through logarithms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """`y = exp(offset) x^slope`, by least squares on logarithms.

    Attributes:
        slope: The power.
        error: Asymptotic standard error of the slope; nan for two points.
        offset: Natural logarithm of y at x = 1.
    """

    slope: float
    error: float
    offset: float

    def at(self, x: float) -> float:
        """The law's value at x > 0."""
        return math.exp(self.offset + self.slope * math.log(x))


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit a power law.

    Args:
        x: At least two different numbers above 0.
        y: As many numbers above 0.

    Returns:
        The law.
    """
    log_x, log_y = np.log(np.asarray(x)), np.log(np.asarray(y))
    centered = log_x - log_x.mean()
    spread = float((centered**2).sum())
    slope = float((centered * log_y).sum()) / spread
    offset = float(log_y.mean() - slope * log_x.mean())
    rest = log_y - offset - slope * log_x
    free = len(log_x) - 2
    error = math.sqrt(float((rest**2).sum()) / free / spread) if free > 0 else math.nan
    return PowerLaw(slope, error, offset)
