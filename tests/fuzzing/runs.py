"""Many inputs, in processes of their own: what ends or hangs one is noticed, named and survived."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fuzzing.trials import Outcome, Reader, outcome_of, put

SECONDS_PER_INPUT = 10.0
MEMORY = 2**30
"""Bytes that a process may take beyond what it has when it begins."""

_BATCH = 500


@dataclass
class Tally:
    """What became of a reader's inputs so far.

    Attributes:
        done: How many; inputs are numbered from 0.
        outcomes: How many were read, refused or faults.
        errors: How many were refused with each error.
        faults: What was wrong, by the number of the input.
    """

    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, outcome: Outcome) -> None:
        """Count one more."""
        self.done = number + 1
        self.outcomes[outcome.kind] += 1
        if outcome.kind == "refused":
            self.errors[outcome.detail] += 1
        if outcome.kind == "fault":
            self.faults[str(number)] = outcome.detail


class Campaign:
    """A run over readers that can be broken off and taken up again.

    Args:
        folder: Where counts are kept, and the files of faults.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "tally.json"
        folder.mkdir(parents=True, exist_ok=True)
        kept = json.loads(self._path.read_text()) if self._path.exists() else {}
        self.tallies = {
            name: Tally(one["done"], Counter(one["outcomes"]), Counter(one["errors"]), one["faults"])
            for name, one in kept.items()
        }

    def run(self, reader: Reader, count: int) -> Tally:
        """Let a reader have so many inputs in all; those that it had before count.

        Args:
            reader: The reader.
            count: How many.
        """
        tally = self.tallies.setdefault(reader.name, Tally())
        while tally.done < count:
            numbers = range(tally.done, min(count, tally.done + _BATCH))
            for number, outcome in outcomes_of(reader, numbers):
                tally.add(number, outcome)
                if outcome.kind == "fault":
                    put(reader.files(number), self.folder / "faults" / reader.name / str(number))
            self._keep()
        return tally

    def _keep(self) -> None:
        path = self._path.with_suffix(".new")
        path.write_text(json.dumps({name: vars(tally) for name, tally in self.tallies.items()}))
        path.replace(self._path)


def outcomes_of(reader: Reader, numbers: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """What becomes of inputs, in a process that is replaced when one ends it.

    Args:
        reader: The reader.
        numbers: Which inputs.

    Yields:
        The number of each input, and its outcome.
    """
    left = list(numbers)
    while left:
        for number, outcome in _in_a_process(reader, left):
            left.remove(number)
            yield number, outcome


def _in_a_process(reader: Reader, numbers: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """Outcomes up to the first input that ends the process or takes too long, this one included."""
    assert reader.whole  # made once, not in each process
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(reader, numbers, writing)
    os.close(writing)
    waiting = list(numbers)
    verdict = ""
    with os.fdopen(reading, "rb", buffering=0) as stream:
        while waiting:
            line = _line(stream, SECONDS_PER_INPUT)
            if line is None:
                os.kill(child, signal.SIGKILL)
                verdict = f"no answer in {SECONDS_PER_INPUT:g} seconds"
                break
            if not line:
                break
            number, kind, detail = json.loads(line)
            waiting.remove(number)
            yield number, Outcome(kind, detail)
    _, status = os.waitpid(child, 0)
    if waiting:
        ended = f"the process ended with {os.waitstatus_to_exitcode(status)}"
        yield waiting[0], Outcome("fault", verdict or ended)


def _line(stream: BinaryIO, seconds: float) -> bytes | None:
    """The next line; empty where the process is gone, None where it takes too long."""
    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else None


def _work(reader: Reader, numbers: Sequence[int], writing: int) -> None:
    """Read one input after the other, and say what became of it; never returns."""
    code = 1
    try:
        limit = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=shared) as name:
            for number in numbers:
                outcome = outcome_of(reader, number, Path(name))
                os.write(writing, json.dumps([number, outcome.kind, outcome.detail]).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def _address_space() -> int:
    """Bytes that this process has asked for."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
