"""Timing several contestants side by side in one process."""

from __future__ import annotations

import random
import time

from benchmarks.contestants import Step


def interleave(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Run every contestant once a round, shuffled each round, so that none has a place or a predecessor of its own."""
    names = list(steps)
    shuffle = random.Random(0).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 3):
        shuffle(names)
        for name in names:
            began = time.perf_counter()
            steps[name]()
            if number >= 3:
                seconds[name].append(time.perf_counter() - began)
    return seconds
