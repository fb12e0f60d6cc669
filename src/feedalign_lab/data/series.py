"""Labeled series of the UCR and UEA archives: Libras, ECG200 and Strawberry."""

from pathlib import Path

import numpy as np
import torch

from feedalign_lab.data.dataset import Dataset, Part, pooled_dataset
from feedalign_lab.data.location import Archive, locate
from feedalign_lab.data.ts import read_ts
from feedalign_lab.errors import CorruptFileError

_FOLDER = "ucr_uea"
_ADDRESS = "https://timeseriesclassification.com/aeon-toolkit"
_NORMALIZATIONS = {
    "libras": "none, coordinates in [0, 1]",
    "ecg200": "none beyond the archive's own: mean 0 and variance 1 in each series",
    "strawberry": "none beyond the archive's own: mean 0 and variance 1 in each series",
}


def load_libras() -> Dataset:
    """Libras: 360 hand movements, 45 steps of 2 coordinates, 15 classes; only 330 of the series are distinct."""
    return _load("libras", "Libras")


def load_ecg200() -> Dataset:
    """ECG200: 200 heartbeats of 96 steps, 2 classes, two thirds of them in the larger one."""
    return _load("ecg200", "ECG200")


def load_strawberry() -> Dataset:
    """Strawberry: 983 spectra of 235 steps, 2 classes, 64 % of them in the larger one."""
    return _load("strawberry", "Strawberry")


def read_pool(train: Path, test: Path) -> tuple[Part, int]:
    """Put the two parts of the archive together, for trials to split anew.

    Args:
        train: The `.ts` file of the archive's training part.
        test: That of its test part.

    Returns:
        Series, float32 [N, T, D], and classes, int64 [N]; and the number of classes.

    Raises:
        CorruptFileError: A file is damaged, or the two do not belong together.
    """
    first, second = read_ts(train), read_ts(test)
    if first.labels != second.labels:
        raise CorruptFileError(
            f"{train} has the classes {', '.join(first.labels)}, but {test} {', '.join(second.labels)}."
        )
    if first.x.shape[1:] != second.x.shape[1:]:
        shapes = [f"{shape[0]} steps of {shape[1]}" for shape in (first.x.shape[1:], second.x.shape[1:])]
        raise CorruptFileError(f"The series in {train} have {shapes[0]} numbers, but those in {test} {shapes[1]}.")
    x, y = np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y])
    return Part(torch.from_numpy(x), torch.from_numpy(y)), len(first.labels)


def _load(name: str, title: str) -> Dataset:
    """Find the two files and read them."""
    files = (f"{title}_TRAIN.ts", f"{title}_TEST.ts")
    pool, num_classes = read_pool(*locate(Archive(f"{_ADDRESS}/{title}.zip", None, _FOLDER, files)))
    return pooled_dataset(name, pool, num_classes, _NORMALIZATIONS[name])
