"""Data sets as tensors, by name."""

from collections.abc import Callable

import torch

from feedalign_lab.data.dataset import Dataset, Inputs, validation_split
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.names import DATA_NAMES, PIXEL_NAMES

__all__ = ["Dataset", "load", "validation_split"]


def load(name: str, device: torch.device | str = "cpu", *, inputs: Inputs = "own") -> Dataset:
    """Load a data set onto a device.

    Args:
        name: One of `feedalign_lab.names.DATA_NAMES`.
        device: Where the tensors are to live.
        inputs: "own", as is usual for the data set; or "symmetric", pixels from -1 to 1.

    Returns:
        The data set, which says in words how its inputs are scaled.

    Raises:
        UnknownNameError: There is no data set of that name.
        SettingError: The inputs are no pixels, so they have no ends to scale to -1 and 1.
    """
    if name not in DATA_NAMES:
        raise UnknownNameError("data set", name, DATA_NAMES)
    if name in PIXEL_NAMES:
        return _pixel_loader(name)(inputs).to(device)
    if inputs != "own":
        raise SettingError(f"The inputs of {name} are no pixels and cannot be scaled to [-1, 1]: take --inputs own.")
    return _loader(name)().to(device)


def _loader(name: str) -> Callable[[], Dataset]:
    """The function that reads or makes a set of anything but images."""
    from feedalign_lab.data import mackey_glass, series, synthetic

    return {
        "libras": series.load_libras,
        "ecg200": series.load_ecg200,
        "strawberry": series.load_strawberry,
        "mackey-glass": mackey_glass.load_mackey_glass,
        "synthetic-regression": synthetic.load_synthetic_regression,
        "synthetic-classification": synthetic.load_synthetic_classification,
    }[name]


def _pixel_loader(name: str) -> Callable[[Inputs], Dataset]:
    """The function that reads a set of images; imported late because scikit-learn alone takes a second."""
    if name == "digits":
        from feedalign_lab.data.digits import load_digits

        return load_digits
    from feedalign_lab.data import cifar, idx, rows

    return {
        "mnist": idx.load_mnist,
        "fashion-mnist": idx.load_fashion_mnist,
        "row-mnist": rows.load_row_mnist,
        "row-fashion-mnist": rows.load_row_fashion_mnist,
        "cifar10": cifar.load_cifar10,
        "cifar100": cifar.load_cifar100,
    }[name]
