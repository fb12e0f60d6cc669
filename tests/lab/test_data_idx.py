"""IDX files: what is read, and that damage is named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from feedalign_lab.data.idx import read_idx, read_image_part
from feedalign_lab.errors import CorruptFileError


def write_idx(path: Path, array: np.ndarray, magic: int | None = None) -> Path:
    header = struct.pack(f">{1 + array.ndim}I", magic if magic is not None else 0x0800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "images.gz", np.arange(2 * 3 * 4).reshape(2, 3, 4) * 11)


def test_reads_images_and_labels_in_order(images: Path, tmp_path: Path) -> None:
    labels = write_idx(tmp_path / "labels.gz", np.array([9, 0]))
    x, y = read_image_part(images, labels)
    assert x.shape == (2, 1, 3, 4)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[1, 0, 2, 3], torch.tensor(23 * 11 / 255))
    assert y.tolist() == [9, 0]


def test_truncated_gzip_is_named(images: Path) -> None:
    images.write_bytes(images.read_bytes()[:-6])
    with pytest.raises(CorruptFileError, match=r"images\.gz is not a whole gzip file"):
        read_idx(images, num_dimensions=3)


def test_file_that_is_not_gzip_is_named(images: Path) -> None:
    images.write_bytes(b"<html>not found</html>")
    with pytest.raises(CorruptFileError, match="not a whole gzip file"):
        read_idx(images, num_dimensions=3)


def test_flipped_byte_in_the_middle_is_noticed(images: Path) -> None:
    raw = bytearray(images.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    images.write_bytes(bytes(raw))
    with pytest.raises(CorruptFileError):
        read_idx(images, num_dimensions=3)


def test_wrong_magic_says_found_and_expected(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "labels.gz", np.array([1, 2, 3]))
    with pytest.raises(CorruptFileError, match=r"starts with 0x00000801, 0x00000803 was expected"):
        read_idx(path, num_dimensions=3)


def test_header_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3, 0, 0])))
    with pytest.raises(CorruptFileError):
        read_idx(path, num_dimensions=3)


@pytest.mark.parametrize("num_images", [1, 3])
def test_size_that_contradicts_the_header(tmp_path: Path, num_images: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, num_images, 2, 2) + bytes(8)))
    with pytest.raises(CorruptFileError, match=rf"holds (8|more than 4) bytes of data.* = {num_images * 4}"):
        read_idx(path, num_dimensions=3)


def test_images_and_labels_of_different_numbers(images: Path, tmp_path: Path) -> None:
    labels = write_idx(tmp_path / "labels.gz", np.array([1, 2, 3]))
    with pytest.raises(CorruptFileError, match=r"2 images.*3 labels"):
        read_image_part(images, labels)


def test_label_outside_the_classes(images: Path, tmp_path: Path) -> None:
    labels = write_idx(tmp_path / "labels.gz", np.array([1, 10]))
    with pytest.raises(CorruptFileError, match="label 10, but there are only 10 classes"):
        read_image_part(images, labels)


def test_data_far_beyond_what_the_header_announces_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(struct.pack(">2I", 0x801, 4) + bytes(2**24), 1))
    with pytest.raises(CorruptFileError, match="holds more than 4 bytes"):
        read_idx(path, num_dimensions=1)


def test_a_header_that_announces_more_than_there_can_be_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)))
    with pytest.raises(CorruptFileError, match="holds 0 bytes of data"):
        read_idx(path, num_dimensions=3)
