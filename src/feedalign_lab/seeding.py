"""Independent random streams from one seed: a trial's weights, feedback and data order never share draws."""

from typing import Literal

import numpy as np
import torch

Stream = Literal["weights", "feedback", "order", "dropout", "split", "alignment", "classifier", "samples"]
# A stream's place decides its seeds: new ones go to the end.
_STREAMS: tuple[Stream, ...] = (
    "weights", "feedback", "order", "dropout", "split", "alignment", "classifier", "samples",
)  # fmt: skip


def stream_seed(seed: int, trial: int, stream: Stream) -> int:
    """The seed of one stream of one trial.

    Args:
        seed: Seed of the whole run, not negative.
        trial: Number of the trial, from 0.
        stream: What the numbers are for.

    Returns:
        A seed below 2**63; any two (seed, trial, stream) give unrelated ones.
    """
    words = np.random.SeedSequence([seed, trial, _STREAMS.index(stream)]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def generator(seed: int, trial: int, stream: Stream) -> torch.Generator:
    """A CPU generator at the start of one stream: draws are then the same on every device.

    Args:
        seed: Seed of the whole run, not negative.
        trial: Number of the trial, from 0.
        stream: What the numbers are for.

    Returns:
        The seeded generator.
    """
    return torch.Generator().manual_seed(stream_seed(seed, trial, stream))
