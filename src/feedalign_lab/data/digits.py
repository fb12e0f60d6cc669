"""The 8 x 8 digits that ship with scikit-learn: no download, trained on in seconds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from feedalign_lab.data.dataset import Dataset, Inputs

_NUM_CLASSES = 10
_NUM_TEST = 500
_SPLIT_SEED = 0
# Pixels run from 0 to 16.
_SCALED: dict[Inputs, Callable[[Any], Any]] = {"own": lambda x: x / 16, "symmetric": lambda x: x / 8 - 1}
_IN_WORDS: dict[Inputs, str] = {"own": "pixels / 16, in [0, 1]", "symmetric": "pixels / 8 - 1, in [-1, 1]"}


def load_digits(inputs: Inputs = "own") -> Dataset:
    """UCI optical digits: 1,297 + 500 images of 8 x 8, 10 classes, a fixed stratified split."""
    x, y = sklearn_digits(return_X_y=True)
    x, normalization = _SCALED[inputs](x), _IN_WORDS[inputs]
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32),
        y.astype(np.int64),
        test_size=_NUM_TEST,
        random_state=_SPLIT_SEED,
        stratify=y,
    )
    return Dataset(
        name="digits",
        x_train=torch.from_numpy(x_train),
        y_train=torch.from_numpy(y_train),
        x_test=torch.from_numpy(x_test),
        y_test=torch.from_numpy(y_test),
        num_classes=_NUM_CLASSES,
        task="classification",
        normalization=normalization,
    )
