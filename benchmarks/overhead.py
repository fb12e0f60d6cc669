"""What an attached rule costs where the network itself costs next to nothing: 32-32-32-10, one sample, CPU.

`python -m benchmarks.overhead [--rounds 60]`: microseconds per forward and backward beyond the model alone, interleaved
in one process, and where they go. The bar: at most 60 for DFA.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa

WIDTH, NUM_CLASSES = 32, 10
BAR = 60.0
RULES: dict[str, fa.Rule | None] = {
    "model alone": None,
    "model alone, again": None,
    "backprop": fa.Backprop(),
    "shallow": fa.Shallow(),
    "dfa": fa.DFA(),
    "drtp": fa.DRTP(),
    "drtp streaming": fa.DRTP(),
    "sign-dfa": fa.SignDFA(),
    "fa": fa.FA(),
    "usf": fa.USF(),
    "dkp": fa.DKP(),
    "fdfa": fa.FDFA(),
    "fg-a": fa.ActivityPerturbed(),
}

_STEPS = 5
_TURNS = 10
_WARM_UP = 200


class Contestant:
    """A network under a rule, and its forward and backward."""

    def __init__(self, name: str, rule: fa.Rule | None) -> None:
        torch.manual_seed(0)
        first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(WIDTH, NUM_CLASSES))
        self.x, self.y = torch.randn(1, WIDTH), torch.tensor([3])
        handle = None if rule is None else fa.attach(self.model, rule, example_inputs=self.x)
        self.give = None if handle is None or "streaming" not in name else handle.targets
        self.forward: list[float] = []
        self.backward: list[float] = []

    def step(self) -> tuple[float, float]:
        """Microseconds of a forward with its loss, and of the backward."""
        began = time.perf_counter_ns()
        if self.give is not None:
            self.give(self.y)
        loss = F.cross_entropy(self.model(self.x), self.y)
        between = time.perf_counter_ns()
        loss.backward()
        return (between - began) / 1e3, (time.perf_counter_ns() - between) / 1e3

    def time(self) -> None:
        """Take a few steps, and note the quickest."""
        steps = [self.step() for _ in range(_STEPS)]
        self.forward.append(min(forward for forward, _ in steps))
        self.backward.append(min(backward for _, backward in steps))

    def num_calls(self) -> int:
        """Functions called in a step, in Python and by it: the same on every machine, however busy."""
        return _counted(self.step)


def _counted(run: Callable[[], object]) -> int:
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        del frame, argument
        calls += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def measure(rounds: int) -> dict[str, Any]:
    """Time all contestants in one thread, interleaved.

    Args:
        rounds: How often each has its turn, of a few steps; tenfold, since a step takes so little.

    Returns:
        The record: by contestant, beyond the model alone, microseconds and calls.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        contestants = {name: Contestant(name, rule) for name, rule in RULES.items()}
        for one in contestants.values():
            for _ in range(_WARM_UP):
                one.step()
        for _ in range(_TURNS * rounds):
            for one in contestants.values():
                one.time()
    finally:
        torch.set_num_threads(threads)
    alone = contestants["model alone"]
    beyond = {name: _row(one, alone) for name, one in contestants.items()}
    return {"network": f"{WIDTH}-{WIDTH}-{WIDTH}-{NUM_CLASSES}, tanh, one sample", "num_threads": 1, "beyond": beyond}


def _row(one: Contestant, alone: Contestant) -> dict[str, float]:
    ways: dict[str, Callable[[list[float]], float]] = {"least": min, "median": statistics.median}
    row: dict[str, float] = {}
    for name, way in ways.items():
        parts = {part: way(getattr(one, part)) - way(getattr(alone, part)) for part in ("forward", "backward")}
        row |= {f"{part}, {name}": round(value, 1) for part, value in parts.items()}
        row[name] = round(sum(parts.values()), 1)
    return row | {"calls": one.num_calls() - alone.num_calls()}


def show(record: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'microseconds beyond the model alone':36} least  median  forward  backward  calls")
    for name, row in record["beyond"].items():
        parts = (row["least"], row["median"], row["forward, least"], row["backward, least"], row["calls"])
        print(f"{name:36} {parts[0]:5.1f}  {parts[1]:6.1f}  {parts[2]:7.1f}  {parts[3]:8.1f}  {parts[4]:5.0f}")
    dfa = record["beyond"]["dfa"]
    print(f"DFA: {dfa['median']} by the median, {dfa['least']} by the least; the bar is {BAR:g}.")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    show(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
