"""The device and the threads that a command was told to use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from feedalign_lab.errors import SettingError


def device_named(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: What the user typed.

    Returns:
        The device.

    Raises:
        SettingError: This machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"The device {name!r} cannot be used here: choose cpu, or cuda with a GPU.") from error
    return device


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Use so many CPU threads for a while.

    Args:
        number: How many; None leaves PyTorch's choice.

    Raises:
        SettingError: There are fewer than one.
    """
    if number is not None and number < 1:
        raise SettingError(f"The number of threads must be at least 1, not {number}.")
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
