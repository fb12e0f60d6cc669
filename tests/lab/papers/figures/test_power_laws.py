import math

import numpy as np
import pytest

from feedalign_lab.papers.figures.fits import power_law


def test_a_power_law_is_found_exactly() -> None:
    law = power_law([1.0, 2.0, 4.0], [3.0, 12.0, 48.0])
    assert law.slope == pytest.approx(2.0)
    assert law.error == pytest.approx(0.0, abs=1e-12)
    assert law.at(3.0) == pytest.approx(27.0)


def test_slope_and_error_are_those_of_numpy() -> None:
    draws = np.random.default_rng(0)
    x = np.geomspace(0.01, 10, 8)
    y = x**1.3 * np.exp(draws.normal(0, 0.2, 8))
    (slope, offset), covariance = np.polyfit(np.log(x), np.log(y), 1, cov="unscaled")
    rest = np.log(y) - offset - slope * np.log(x)
    law = power_law(x.tolist(), y.tolist())
    assert law.slope == pytest.approx(slope)
    assert law.offset == pytest.approx(offset)
    assert law.error == pytest.approx(math.sqrt(covariance[0, 0] * (rest**2).sum() / 6))


def test_two_points_have_no_error() -> None:
    assert math.isnan(power_law([1.0, 10.0], [1.0, 10.0]).error)
