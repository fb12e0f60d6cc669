"""How a model is run for a while: without dropout, or with dropout from a seed of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation, and back to what it was.

    Args:
        model: The model.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class DropoutStream:
    """Where the global random state stands, while it is a trial's own.

    Args:
        device: Where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state(self) -> dict[str, torch.Tensor]:
        """What `load_state` takes."""
        states = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go to where another stream stood."""
        torch.set_rng_state(state["cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)


@contextmanager
def dropout_stream(seed: int, device: torch.device) -> Iterator[DropoutStream]:
    """Draw dropout from a seed of its own, and leave the global random state as it was.

    Args:
        seed: The seed.
        device: Where the model runs.

    Yields:
        The stream, which can be saved.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield DropoutStream(device)
