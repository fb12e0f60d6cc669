"""Timing several contestants side by side in one process, as the lab does it."""

from __future__ import annotations

from itertools import islice

from benchmarks.contestants import Step
from feedalign_lab.cost import interleaved, shuffled

_NUM_WARMUP_ROUNDS = 3


def interleave(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Run every contestant once a round, shuffled each round; the first three rounds are not timed."""
    samples: dict[str, list[float]] = {}
    for taken in islice(interleaved(steps, order=shuffled), rounds + _NUM_WARMUP_ROUNDS):
        samples = taken
    return {name: values[_NUM_WARMUP_ROUNDS:] for name, values in samples.items()}
