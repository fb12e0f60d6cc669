"""Data sets as tensors, by name."""

from collections.abc import Callable

import torch

from feedalign_lab.data.dataset import Dataset, validation_split
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.names import DATA_NAMES

__all__ = ["Dataset", "load", "validation_split"]


def load(name: str, device: torch.device | str = "cpu") -> Dataset:
    """Load a data set onto a device.

    Args:
        name: One of `feedalign_lab.names.DATA_NAMES`.
        device: Where the tensors are to live.

    Returns:
        The data set.

    Raises:
        UnknownNameError: There is no data set of that name.
    """
    if name not in DATA_NAMES:
        raise UnknownNameError("data set", name, DATA_NAMES)
    return _loader(name)().to(device)


def _loader(name: str) -> Callable[[], Dataset]:
    """The function that reads a data set; imported late because scikit-learn alone takes a second."""
    if name == "digits":
        from feedalign_lab.data.digits import load_digits

        return load_digits
    if name.startswith("synthetic"):
        from feedalign_lab.data import synthetic

        return {
            "synthetic-regression": synthetic.load_synthetic_regression,
            "synthetic-classification": synthetic.load_synthetic_classification,
        }[name]
    from feedalign_lab.data import cifar, idx

    return {
        "mnist": idx.load_mnist,
        "fashion-mnist": idx.load_fashion_mnist,
        "cifar10": cifar.load_cifar10,
        "cifar100": cifar.load_cifar100,
    }[name]
