"""The two synthetic tasks of Frenkel, Lefebvre and Bol (2021), section 4 and figures 2 and 3."""

import math

import numpy as np
import torch
from sklearn.datasets import make_classification
from torch import Tensor

from feedalign_lab.data.dataset import Dataset

_NUM_FEATURES = 256
_NUM_OUTPUTS = 10
_SEED = 0


def load_synthetic_regression() -> Dataset:
    """Regression of ten phase-shifted cosines of the mean input: 5,000 + 1,000 examples.

    x has 256 entries drawn from N(mu, 1), mu ~ U(-pi, pi) per example, and
    y_j = cos(mean(x) - pi/2 + j pi/9) for j = 0..9.
    Differs from the paper: it does not say whether every run draws its own data; here all share one draw.
    """
    draws = torch.Generator().manual_seed(_SEED)
    x_train, y_train = _regression_part(5_000, draws)
    x_test, y_test = _regression_part(1_000, draws)
    return Dataset(
        "synthetic-regression", x_train, y_train, x_test, y_test, None, "regression", "none, N(mu, 1) entries"
    )


def load_synthetic_classification() -> Dataset:
    """Ten classes of five Gaussian clusters each in 256 dimensions: 25,000 + 5,000 examples.

    scikit-learn's make_classification with 128 informative features, no redundant or repeated ones,
    class_sep 4.5 and scale 1, as in the paper and its authors' code; the first 25,000 examples train.
    """
    num_train, num_test = 25_000, 5_000
    x, y = make_classification(
        n_samples=num_train + num_test,
        n_features=_NUM_FEATURES,
        n_informative=128,
        n_redundant=0,
        n_repeated=0,
        n_classes=_NUM_OUTPUTS,
        n_clusters_per_class=5,
        class_sep=4.5,
        scale=1.0,
        shuffle=True,
        random_state=_SEED,
    )
    inputs = torch.from_numpy(x.astype(np.float32))
    classes = torch.from_numpy(y.astype(np.int64))
    return Dataset(
        "synthetic-classification",
        inputs[:num_train],
        classes[:num_train],
        inputs[num_train:],
        classes[num_train:],
        _NUM_OUTPUTS,
        "classification",
        "none, make_classification with scale 1",
    )


def _regression_part(num_examples: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs [N, 256] and targets [N, 10], float32."""
    centers = (torch.rand(num_examples, 1, generator=draws) * 2 - 1) * math.pi
    x = centers + torch.randn(num_examples, _NUM_FEATURES, generator=draws)
    phases = torch.arange(_NUM_OUTPUTS) * (math.pi / 9) - math.pi / 2
    return x, torch.cos(x.mean(dim=1, keepdim=True) + phases)
