"""CIFAR-10 and CIFAR-100: the official python batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feedalign_lab.data.dataset import Dataset, Inputs
from feedalign_lab.data.location import Archive, locate
from feedalign_lab.data.restricted_pickle import read_restricted_pickle
from feedalign_lab.errors import CorruptFileError

_SIDE = 32
_NUM_PIXELS = 3 * _SIDE * _SIDE
# Per channel, over the training images of CIFAR-10, on the scale 0..255.
_MEAN = (125.3, 123.0, 113.9)
_STD = (63.0, 62.1, 66.7)
_NORMALIZATIONS: dict[Inputs, str] = {
    "own": f"(pixels - {_MEAN}) / {_STD} per channel, pixels in 0..255",
    "symmetric": "pixels / 127.5 - 1, in [-1, 1]",
}

_CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar10",
    files=(
        *(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
        "cifar-10-batches-py/test_batch",
    ),
)
_CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar100",
    files=("cifar-100-python/train", "cifar-100-python/test"),
)


def load_cifar10(inputs: Inputs = "own") -> Dataset:
    """CIFAR-10: 50,000 + 10,000 color images of 3 x 32 x 32, 10 classes."""
    return _load("cifar10", _CIFAR10, b"labels", 10, inputs)


def load_cifar100(inputs: Inputs = "own") -> Dataset:
    """CIFAR-100 with its fine labels: 50,000 + 10,000 color images of 3 x 32 x 32, 100 classes."""
    return _load("cifar100", _CIFAR100, b"fine_labels", 100, inputs)


def read_batch(path: Path, label_key: bytes, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one python batch.

    Args:
        path: The pickled batch.
        label_key: The entry that holds the class numbers.
        num_classes: Number of classes; a label at or above it is an error.

    Returns:
        Pixels, uint8 [N, 3072], channel by channel, and class numbers, int64 [N].

    Raises:
        CorruptFileError: The file is damaged, unsafe, or not such a batch.
        MissingDataError: It cannot be read.
    """
    content = read_restricted_pickle(path)
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} holds a {type(content).__name__}, a dict with b'data' was expected.")
    pixels, labels = _entry(content, b"data", path), _entry(content, label_key, path)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_NUM_PIXELS,):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise CorruptFileError(f"{path}: b'data' is {found}, uint8 (N, {_NUM_PIXELS}) was expected.")
    if not isinstance(labels, list) or not all(_is_whole(label) for label in labels):
        raise CorruptFileError(f"{path}: {label_key!r} is not a list of whole numbers.")
    if len(labels) != len(pixels) or not labels:
        raise CorruptFileError(f"{path} holds {len(pixels)} images, but {len(labels)} labels.")
    if min(labels) < 0 or max(labels) >= num_classes:
        raise CorruptFileError(
            f"{path} holds labels from {min(labels)} to {max(labels)}, but there are {num_classes} classes."
        )
    return pixels, np.asarray(labels, dtype=np.int64)


def _is_whole(label: object) -> bool:
    """Whether a label is a number, and none so long that it cannot be printed."""
    return isinstance(label, int) and label.bit_length() < 64


def _entry(content: dict[Any, Any], key: bytes, path: Path) -> Any:
    """One entry of a batch; files written by Python 3 have text keys."""
    for candidate in (key, key.decode()):
        if candidate in content:
            return content[candidate]
    names = sorted(repr(name) for name in content if isinstance(name, str | bytes))
    raise CorruptFileError(f"{path} has no entry {key!r}; it holds {', '.join(names) or 'none by name'}.")


def _read_part(paths: Sequence[Path], label_key: bytes, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images, float32 [N, 3, 32, 32] from 0 to 255, and class numbers, int64 [N]."""
    batches = [read_batch(path, label_key, num_classes) for path in paths]
    pixels = torch.from_numpy(np.concatenate([batch[0] for batch in batches]))
    x = pixels.reshape(-1, 3, _SIDE, _SIDE).to(torch.float32)
    return x, torch.from_numpy(np.concatenate([batch[1] for batch in batches]))


def _normalize(x: Tensor, inputs: Inputs) -> None:
    """Scale pixels from 0 to 255, in place."""
    if inputs == "symmetric":
        x.div_(127.5).sub_(1)
    else:
        x.sub_(torch.tensor(_MEAN).view(3, 1, 1)).div_(torch.tensor(_STD).view(3, 1, 1))


def _load(name: str, archive: Archive, label_key: bytes, num_classes: int, inputs: Inputs) -> Dataset:
    """Find the batches and read them; the last file of the archive is the test part."""
    *train, test = locate(archive)
    x_train, y_train = _read_part(train, label_key, num_classes)
    x_test, y_test = _read_part([test], label_key, num_classes)
    for x in (x_train, x_test):
        _normalize(x, inputs)
    return Dataset(name, x_train, y_train, x_test, y_test, num_classes, "classification", _NORMALIZATIONS[inputs])
