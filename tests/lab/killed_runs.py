"""Processes that train, and are killed with SIGKILL at moments that do not depend on how fast the machine is.

A child may take as many steps as it was given; at the next one it waits. So it cannot be done before the kill, which
comes a random while after its last step: in a step, in a measurement, in the writing of a checkpoint, or as it waits.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable

_LONGEST_WHILE = 0.03


class Pace:
    """What a child tells of its steps, and what it waits for."""

    def __init__(self, num_steps: int) -> None:
        self._reports, self._report = os.pipe()
        self._tokens, token = os.pipe()
        self._token = token
        os.write(token, b"." * num_steps)
        self._num_steps = num_steps

    def step(self, *_: object) -> None:
        """Called by the child in every step."""
        os.write(self._report, b".")
        os.read(self._tokens, 1)

    def wait(self) -> bool:
        """Wait until the child has taken its last step; False if it ended before."""
        os.close(self._report)
        return all(os.read(self._reports, 1) for _ in range(self._num_steps))

    def close(self) -> None:
        """Give the pipes back."""
        for end in (self._reports, self._tokens, self._token):
            os.close(end)


def killed(train: Callable[[Callable[..., None]], object], num_steps: int, moments: random.Random) -> bool:
    """Run a training in a process of its own and kill it.

    Args:
        train: Given what it has to call in every step.
        num_steps: After how many steps the kill comes.
        moments: Draws how long after that.

    Returns:
        Whether the kill found it alive.
    """
    pace = Pace(num_steps)
    process = multiprocessing.get_context("fork").Process(target=train, args=(pace.step,))
    process.start()
    try:
        assert pace.wait(), "the child ended before its last step"
        time.sleep(moments.uniform(0, _LONGEST_WHILE))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    finally:
        pace.close()
    return process.exitcode == -signal.SIGKILL
