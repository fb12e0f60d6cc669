"""The data of synthetic classification are what Frenkel et al. 2021 say in section 4, seen in the data alone.

Of 256 features 128 inform and the others are noise. A class has five clusters of equal size about corners of a cube, at
plus or minus 4.5 in each informative feature: its mean there is 4.5 / 5 times a sum of five signs, an odd number.
"""

import pytest
import torch
from torch import Tensor

from feedalign_lab import data

SEPARATION, NUM_CLUSTERS = 4.5, 5


@pytest.fixture(scope="module")
def examples() -> tuple[Tensor, Tensor]:
    """All of them, `[30000, 256]`, and their classes."""
    dataset = data.load("synthetic-classification")
    assert dataset.y_train is not None
    return torch.cat([dataset.x_train, dataset.x_test]).double(), torch.cat([dataset.y_train, dataset.y_test])


def is_noise(x: Tensor) -> Tensor:
    return (x.var(0) - 1).abs() < 0.1


def from_odd(means: Tensor, unit: float) -> float:
    """Mean squared distance from the nearest odd multiple of a unit, in units; a third where there is no such unit."""
    halves = (means / unit - 1) / 2
    return float((2 * (halves - halves.round())).square().mean())


def test_half_of_the_features_are_noise(examples: tuple[Tensor, Tensor]) -> None:
    x, classes = examples
    noise = x[:, is_noise(x)]
    assert noise.shape[1] == 128
    assert float(x[:, ~is_noise(x)].var(0).min()) > 2
    means = torch.stack([noise[classes == label].mean(0) for label in range(10)])
    # Means of 3 000 numbers of variance 1.
    assert float(means.square().mean() * 3_000) == pytest.approx(1, abs=0.2)


def test_classes_lie_where_five_corners_of_the_cube_put_them(examples: tuple[Tensor, Tensor]) -> None:
    x, classes = examples
    informative = x[:, ~is_noise(x)]
    means = torch.stack([informative[classes == label].mean(0) for label in range(10)])
    found = from_odd(means, SEPARATION / NUM_CLUSTERS)
    assert found < 0.05
    for other in (SEPARATION / 4, SEPARATION / 6, 3.5 / NUM_CLUSTERS, 5.5 / NUM_CLUSTERS):
        assert from_odd(means, other) > 3 * found
    assert int(torch.bincount(classes).min()) > 2_900
