"""Step time and peak memory of each rule, as ratios to backprop in the same process."""

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice

import torch

import feedalign as fa

# Short samples, many of them: most then fall between the moments at which other processes run.
_SAMPLE_SECONDS = 0.003
_BUDGET_SECONDS = 6.0
_MIN_ROUNDS, _MAX_ROUNDS = 5, 101
_NUM_WARMUP_STEPS = 3
_STDERR = 2
# PyTorch's profiler says so, once, of memory that was there before it began; the level is counted from there.
_HARMLESS = b"Memory block of unknown size"

_CPU = torch.device("cpu")

Step = Callable[[], object]
Order = Callable[[Sequence[str], int], list[str]]


@dataclass(frozen=True)
class CostRecord:
    """What a step of a rule costs.

    Attributes:
        rule: Name of the rule.
        step_seconds: Median wall time of one step: forward, loss, gradients and optimizer.
        time_ratio: `step_seconds` over that of backprop.
        peak_bytes: Most memory in use during a step, above the level before it.
        memory_ratio: `peak_bytes` over that of backprop.
    """

    rule: str
    step_seconds: float
    time_ratio: float
    peak_bytes: int
    memory_ratio: float


def measure_cost(steps: Mapping[str, Step], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
    """Time steps against each other and measure their memory.

    The rules take turns, in an order that rotates, so that a change in the machine's load meets all of them;
    medians are reported. Another busy process still blurs the ratios.

    Args:
        steps: One step per rule, on a network of its own; all on the same batch.
        baseline: The entry of `steps` that the ratios are to.
        device: Where the steps run.

    Returns:
        One record per entry, in the order of `steps`.
    """
    for step in steps.values():
        for _ in range(_NUM_WARMUP_STEPS):
            step()
    seconds = _interleaved_medians(steps, baseline, device)
    with without_profiler_warning():
        peaks = {rule: fa.measure.peak_memory(step) for rule, step in steps.items()}
    return tuple(
        CostRecord(
            rule=rule,
            step_seconds=seconds[rule],
            time_ratio=seconds[rule] / seconds[baseline],
            peak_bytes=peaks[rule],
            memory_ratio=peaks[rule] / peaks[baseline],
        )
        for rule in steps
    )


@contextmanager
def without_profiler_warning() -> Iterator[None]:
    """Keep the profiler's warning about older memory from the process's stderr; all else that goes there passes.

    It is written by C++, past `sys.stderr`, so the file descriptor itself is lent out for a while.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(_STDERR)
    except OSError:  # there is no stderr to write to
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), _STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, _STDERR)
            os.close(kept)
            written.seek(0)
            rest = b"".join(line for line in written if _HARMLESS not in line)
            if rest:
                os.write(_STDERR, rest)


def _interleaved_medians(steps: Mapping[str, Step], baseline: str, device: torch.device) -> dict[str, float]:
    """Median seconds of one step for every rule."""
    once = _time(steps[baseline], 1, device)
    repeats = max(1, round(_SAMPLE_SECONDS / once))
    affordable = int(_BUDGET_SECONDS / (repeats * once * len(steps)))
    rounds = min(_MAX_ROUNDS, max(_MIN_ROUNDS, affordable))
    samples: dict[str, list[float]] = {}
    for taken in islice(interleaved(steps, device, repeats), rounds):
        samples = taken
    return {rule: statistics.median(values) for rule, values in samples.items()}


def interleaved(
    steps: Mapping[str, Step],
    device: torch.device = _CPU,
    repeats: int = 1,
    order: Order | None = None,
    before: Mapping[str, Step] | None = None,
) -> Iterator[dict[str, list[float]]]:
    """Time steps in turns for as many rounds as are asked for: a change in the machine's load meets all of them.

    Args:
        steps: What is timed, by name.
        device: Where the steps run.
        repeats: Steps in a row that make one sample.
        order: Which is timed after which, given the names and the number of the round; None: the first moves on by
            one each round.
        before: What is run right before each sample and not timed, by name.

    Yields:
        After each round all samples so far, seconds of one step: the same lists, grown.
    """
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for turn in count():
        for name in (order or _rotated)(list(steps), turn):
            if before is not None:
                before[name]()
            samples[name].append(_time(steps[name], repeats, device))
        yield samples


def shuffled(names: Sequence[str], turn: int) -> list[str]:
    """Return names in an order of their own for each round, so that none has a place or a predecessor of its own."""
    order = list(names)
    random.Random(turn).shuffle(order)
    return order


def _rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names, starting from another one each turn."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def _time(step: Step, repeats: int, device: torch.device) -> float:
    """Seconds of one step, averaged over a few in a row."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: torch.device) -> None:
    """Wait for a device to finish what it was given.

    Args:
        device: The device.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
