"""What a run does that is told to end from outside."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_as_by_hand() -> Iterator[None]:
    """Take SIGTERM, which a batch system sends before it kills, for Ctrl-C: what was done is kept and written."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's business.
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
