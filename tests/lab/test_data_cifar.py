"""CIFAR batches: what is read, and that a pickle can ask for nothing but arrays."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feedalign_lab import data
from feedalign_lab.data.cifar import read_batch
from feedalign_lab.data.restricted_pickle import read_restricted_pickle
from feedalign_lab.errors import CorruptFileError, UnsafePickleError


def pixels(num_images: int) -> np.ndarray:
    return (np.arange(num_images * 3072) % 251).astype(np.uint8).reshape(num_images, 3072)


def write_batch(path: Path, protocol: int = 2, **entries: Any) -> Path:
    content = {b"data": pixels(3), b"labels": [1, 0, 9]} | {key.encode(): v for key, v in entries.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_pixels_and_labels(tmp_path: Path, protocol: int) -> None:
    array, labels = read_batch(write_batch(tmp_path / "batch", protocol), b"labels", num_classes=10)
    np.testing.assert_array_equal(array, pixels(3))
    assert labels.tolist() == [1, 0, 9]


def test_reads_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    # The opcodes of the official files: protocol 2, byte strings, numpy.core.multiarray, array data as str.
    raw = pixels(1).tobytes()
    content = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x01M\x00\x0ctcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw + b"tbU\x06labels](K\x07eu."
    )
    path = tmp_path / "batch"
    path.write_bytes(content)
    array, labels = read_batch(path, b"labels", num_classes=10)
    np.testing.assert_array_equal(array, pixels(1))
    assert labels.tolist() == [7]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_malicious_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    path = write_batch(tmp_path / "batch", labels=Calls(os.system, f"touch {victim}"))
    with pytest.raises(UnsafePickleError, match=r"batch asks for '\w+\.system' and was refused"):
        read_restricted_pickle(path)
    assert not victim.exists()


@pytest.mark.parametrize("function", [eval, print, np.load, np.zeros, getattr])
def test_no_other_function_is_allowed(tmp_path: Path, function: Callable[..., Any]) -> None:
    path = write_batch(tmp_path / "batch", labels=Calls(function, "1"))
    with pytest.raises(UnsafePickleError):
        read_restricted_pickle(path)


def test_encoding_other_than_latin1_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00rot_13\x86R.")
    with pytest.raises(CorruptFileError, match="rot_13"):
        read_restricted_pickle(path)


def test_array_of_any_announced_size_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x06" + b"\x7f" * 6 + b"\x85U\x01b\x87R."
    )
    with pytest.raises(CorruptFileError, match="an array without its numbers"):
        read_restricted_pickle(path)


def test_truncated_pickle_is_named(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "batch")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptFileError, match="batch is not a whole pickle"):
        read_batch(path, b"labels", num_classes=10)


def test_persistent_reference_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02U\x03abcQ.")
    with pytest.raises(UnsafePickleError, match="outside the file"):
        read_restricted_pickle(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": [0, 1, 10]}, "labels from 0 to 10, but there are 10 classes"),
        ({"labels": [-1, 1, 2]}, "labels from -1 to 2"),
        ({"labels": [0, 1]}, "3 images, but 2 labels"),
        ({"labels": [0, 1, "2"]}, "not a list of whole numbers"),
        ({"labels": 3}, "not a list of whole numbers"),
        ({"data": pixels(3)[:, :100]}, r"\(3, 100\), uint8 \(N, 3072\) was expected"),
        ({"data": pixels(3).astype(np.int64)}, "int64"),
        ({"data": [1, 2, 3]}, "is list"),
    ],
)
def test_batch_of_the_wrong_content(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read_batch(write_batch(tmp_path / "batch", **entries), b"labels", num_classes=10)


def test_batch_without_the_labels_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="no entry b'fine_labels'"):
        read_batch(write_batch(tmp_path / "batch"), b"fine_labels", num_classes=100)


def test_pickle_that_is_no_dict(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(CorruptFileError, match="holds a list"):
        read_batch(path, b"labels", num_classes=10)


def test_cifar10_joins_the_batches_and_normalizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    for number in range(1, 6):
        write_batch(folder / f"data_batch_{number}", labels=[number, number, number])
    write_batch(folder / "test_batch")
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    dataset = data.load("cifar10")
    assert dataset.y_train.tolist() == [label for label in range(1, 6) for _ in range(3)]
    assert dataset.x_test.shape == (3, 3, 32, 32)
    green = pixels(3)[2, 1024 + 5 * 32 + 7]
    torch.testing.assert_close(dataset.x_test[2, 1, 5, 7], torch.tensor((float(green) - 123.0) / 62.1))
    symmetric = data.load("cifar10", inputs="symmetric")
    torch.testing.assert_close(symmetric.x_test[2, 1, 5, 7], torch.tensor(float(green) / 127.5 - 1))
    assert symmetric.normalization == "pixels / 127.5 - 1, in [-1, 1]"


def test_cifar100_takes_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar100" / "cifar-100-python"
    write_batch(folder / "train", fine_labels=[99, 0, 50], coarse_labels=[1, 2, 3])
    write_batch(folder / "test", fine_labels=[4, 5, 6], coarse_labels=[1, 2, 3])
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    dataset = data.load("cifar100")
    assert dataset.y_train.tolist() == [99, 0, 50]
    assert dataset.num_outputs == 100
