"""Timing one case: all contestants in turns, forward and backward apart, then their memory."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

import feedalign as fa
from feedalign.errors import FeedalignError
from feedalign_lab.bench.contestants import BASELINE, ON_GPU, Contestant, contestant
from feedalign_lab.bench.peers import PEERS
from feedalign_lab.bench.plan import BenchCase
from feedalign_lab.cost import interleaved, shuffled, without_profiler_warning

Tell = Callable[[str, float], None]
MIN_ROUNDS = 5
_NUM_WARMUP_STEPS = 2
_OTHERS = {*PEERS, *ON_GPU}
_FEWEST_FOR_QUARTILES = 2


@dataclass(frozen=True)
class Ratio:
    """A time over the median of backprop's.

    Attributes:
        median: The median.
        low: Lower quartile.
        high: Upper quartile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchRow:
    """What was measured of one contestant.

    Attributes:
        name: The contestant.
        step_ms: Median milliseconds of a whole step.
        step: Its time over backprop's.
        forward: The same of forward and loss, with what a streaming rule learns there.
        backward: The same of the backward.
        peak_bytes: Most memory that forward and backward hold above parameters and gradients.
        memory: That over backprop's.
        limit: Operations of a step over backprop's; None where nobody counted.
        macs: Multiplications with an addition each, of a step.
        feedback_macs: Those among them that make signals and learn feedback.
        feedback_bytes: Memory of feedback.
        kept_bytes: Memory of what is kept until the error arrives.
        not_counted: Operations that the counts leave out.
    """

    name: str
    step_ms: float
    step: Ratio
    forward: Ratio
    backward: Ratio
    peak_bytes: int
    memory: float
    limit: float | None
    macs: int | None
    feedback_macs: int | None
    feedback_bytes: int | None
    kept_bytes: int | None
    not_counted: tuple[str, ...]


@dataclass(frozen=True)
class BenchResult:
    """What was measured of one case.

    Attributes:
        case: The case.
        rounds: Steps of each contestant.
        rows: In the order of the case's contestants.
        left_out: Why others are not among them.
        is_cut: Whether it was interrupted before its last round.
    """

    case: BenchCase
    rounds: int
    rows: tuple[BenchRow, ...]
    left_out: Mapping[str, str]
    is_cut: bool


def measure_case(case: BenchCase, rounds: int, device: torch.device, tell: Tell) -> BenchResult:
    """Time all contestants of a case, and take their memory.

    Args:
        case: The case.
        rounds: Steps of each, at most; fewer where the case's seconds are over, but five.
        device: Where they run.
        tell: Told what is done, and what share of it.

    Returns:
        The measurements. After a Ctrl-C in the midst of timing, those of the rounds that were done, if there are some.
    """
    entered, left_out = _enter(case, device, tell)
    for one in entered.values():
        for _ in range(_NUM_WARMUP_STEPS):
            one.step()
        one.forget()
    gc.collect()
    seconds, is_cut = _timed(case, entered, rounds, device, tell)
    with without_profiler_warning():
        peaks = {name: fa.measure.peak_memory(one.pass_once) for name, one in entered.items()}
    base = _base(entered[BASELINE], seconds[BASELINE])
    rows = tuple(_row(name, one, seconds[name], base, peaks) for name, one in entered.items())
    return BenchResult(case, min(map(len, seconds.values())), rows, left_out, is_cut)


def _enter(case: BenchCase, device: torch.device, tell: Tell) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Build the contestants; those that cannot take part say why."""
    entered: dict[str, Contestant] = {}
    left_out: dict[str, str] = {}
    for number, name in enumerate(case.contestants):
        tell(f"{case.title}: {name}", number / len(case.contestants))
        try:
            one = contestant(name, case.architecture, case.size, device)
            one.step()
        except Exception as error:
            # Of our own rules only what they refuse on purpose; what others have written may fail in any way.
            if name == BASELINE or not (isinstance(error, (FeedalignError, torch.OutOfMemoryError)) or name in _OTHERS):
                raise
            left_out[name] = str(error) if isinstance(error, FeedalignError) else f"{type(error).__name__}: {error}"
        else:
            entered[name] = one
    return entered, left_out


def _timed(
    case: BenchCase, entered: Mapping[str, Contestant], rounds: int, device: torch.device, tell: Tell
) -> tuple[dict[str, list[float]], bool]:
    """Seconds of all steps, and whether somebody interrupted them."""
    steps = {name: one.step for name, one in entered.items()}
    settle = {name: one.settle for name, one in entered.items()}
    began, done = time.monotonic(), dict[str, list[float]]()
    try:
        for turn, samples in enumerate(interleaved(steps, device, order=shuffled, before=settle), start=1):
            done = samples
            tell(f"{case.title}: round {turn}", turn / rounds)
            is_late = turn >= MIN_ROUNDS and time.monotonic() - began > case.seconds
            if turn >= rounds or is_late:
                break
    except KeyboardInterrupt:
        if not done or min(map(len, done.values())) < _FEWEST_FOR_QUARTILES:
            raise
        return done, True
    return done, False


@dataclass(frozen=True)
class _Base:
    """Backprop's medians, in seconds."""

    step: float
    forward: float
    backward: float


def _base(backprop: Contestant, steps: Sequence[float]) -> _Base:
    return _Base(*(statistics.median(values) for values in (steps, backprop.forward, backprop.backward)))


def _row(name: str, one: Contestant, steps: Sequence[float], base: _Base, peaks: Mapping[str, int]) -> BenchRow:
    cost = one.cost
    return BenchRow(
        name,
        1000 * statistics.median(steps),
        _ratio(steps, base.step),
        _ratio(one.forward, base.forward),
        _ratio(one.backward, base.backward),
        peaks[name],
        peaks[name] / peaks[BASELINE],
        None if cost is None else cost.limit,
        None if cost is None else cost.macs,
        None if cost is None else cost.feedback,
        None if cost is None else cost.feedback_bytes,
        None if cost is None else cost.kept_bytes,
        () if cost is None else cost.not_counted,
    )


def _ratio(values: Sequence[float], base: float) -> Ratio:
    median = statistics.median(values)
    low, high = statistics.quantiles(values, n=4)[::2] if len(values) >= _FEWEST_FOR_QUARTILES else (median, median)
    return Ratio(median / base, low / base, high / base)
