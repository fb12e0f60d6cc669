"""How a model is run for a while: without dropout, or with dropout from a seed of its own."""

from collections.abc import Iterator
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


@contextmanager
def dropout_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw dropout from a seed of its own, and leave the global random state as it was.

    Args:
        seed: The seed.
        device: Where the model runs.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
