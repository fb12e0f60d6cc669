"""MNIST and Fashion-MNIST: gzipped IDX files."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from feedalign_lab.data.dataset import Dataset, Inputs
from feedalign_lab.data.location import Archive, locate
from feedalign_lab.errors import CorruptFileError, MissingDataError

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_PARTS = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
_FASHION_MD5 = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
_NUM_CLASSES = 10
_UNSIGNED_BYTE = 8
_BLOCK = 2**20


def load_mnist(inputs: Inputs = "own") -> Dataset:
    """The MNIST digits: 60,000 + 10,000 grey images of 28 x 28, 10 classes."""
    return _load("mnist", "mnist", _MNIST_URL, _MNIST_MD5, inputs)


def load_fashion_mnist(inputs: Inputs = "own") -> Dataset:
    """Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28, 10 classes."""
    return _load("fashion-mnist", "fashion_mnist", _FASHION_URL, _FASHION_MD5, inputs)


def read_idx(path: Path, num_dimensions: int) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes.

    Args:
        path: The `.gz` file.
        num_dimensions: How many dimensions the file must have (3 for images, 1 for labels).

    Returns:
        The array, uint8, in the shape that the header gives.

    Raises:
        CorruptFileError: The file is truncated, not gzip, or not an IDX file of that kind.
        MissingDataError: It cannot be read.
    """
    try:
        with gzip.open(path, "rb") as stream:
            return _read_idx(path, cast("BinaryIO", stream), num_dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptFileError(f"{path} is not a whole gzip file: {error}. Fetch it again.") from error
    except OSError as error:
        # Errors of the lab have none: they are sentences already.
        if error.strerror is None:
            raise
        raise MissingDataError(f"{path} cannot be read: {error.strerror}.") from error


def _read_idx(path: Path, stream: BinaryIO, num_dimensions: int) -> NDArray[np.uint8]:
    """Header and data, never more of the latter than the header announces, nor room for more than there is."""
    header_size = 4 + 4 * num_dimensions
    header = stream.read(header_size)
    expected_magic = bytes([0, 0, _UNSIGNED_BYTE, num_dimensions])
    if header[:4] != expected_magic or len(header) < header_size:
        raise CorruptFileError(
            f"{path} is not an IDX file of {num_dimensions}-dimensional bytes: "
            f"it starts with 0x{header[:4].hex()}, 0x{expected_magic.hex()} was expected. Fetch it again."
        )
    shape = struct.unpack(f">{num_dimensions}I", header[4:])
    expected_size = math.prod(shape)
    data = bytearray()
    while len(data) <= expected_size and (block := stream.read(_BLOCK)):
        data += block
    if len(data) != expected_size:
        found = f"more than {expected_size}" if len(data) > expected_size else f"{len(data)}"
        raise CorruptFileError(
            f"{path} holds {found} bytes of data, but its header announces {' x '.join(map(str, shape))} = "
            f"{expected_size}. Fetch it again."
        )
    return np.frombuffer(bytes(data), dtype=np.uint8).reshape(shape)


def read_image_part(images: Path, labels: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the images and labels of one part and check them against each other.

    Args:
        images: IDX file of images.
        labels: IDX file of labels.

    Returns:
        Images, float32 [N, 1, H, W] in [0, 1], and class numbers, int64 [N].

    Raises:
        CorruptFileError: Either file is damaged, or the two do not belong together.
    """
    pixels = read_idx(images, num_dimensions=3)
    classes = read_idx(labels, num_dimensions=1)
    if len(pixels) != len(classes) or len(classes) == 0:
        raise CorruptFileError(f"{images} holds {len(pixels)} images, but {labels} {len(classes)} labels.")
    if classes.max() >= _NUM_CLASSES:
        raise CorruptFileError(f"{labels} holds the label {classes.max()}, but there are only {_NUM_CLASSES} classes.")
    x = torch.from_numpy(pixels.astype(np.float32)).div_(255).unsqueeze(1)
    return x, torch.from_numpy(classes.astype(np.int64))


def _load(name: str, folder: str, base_url: str, checksums: tuple[str, ...], inputs: Inputs) -> Dataset:
    """Find the four files and read them."""
    paths = [
        locate(Archive(base_url + part, md5, folder, (part,)))[0] for part, md5 in zip(_PARTS, checksums, strict=True)
    ]
    x_train, y_train = read_image_part(paths[0], paths[1])
    x_test, y_test = read_image_part(paths[2], paths[3])
    normalization = "pixels / 255, in [0, 1]"
    if inputs == "symmetric":
        normalization = "2 * pixels / 255 - 1, in [-1, 1]"
        for x in (x_train, x_test):
            x.mul_(2).sub_(1)
    return Dataset(name, x_train, y_train, x_test, y_test, _NUM_CLASSES, "classification", normalization)
