"""Many steps under a rule, and what memory they hold: `PYTHONPATH=src:tests python -m faults.soak [--record FILE]`."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa

EARLY, STEPS = 2_000, 10_000
_BATCH, _TIME, _WIDTH, _CLASSES = 16, 6, 24, 5


class LastStep(nn.Module):
    """A recurrent layer and a readout of its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(_WIDTH, _WIDTH, batch_first=True), nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def _rows() -> nn.Module:
    return nn.Sequential(
        nn.Linear(_WIDTH, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, _CLASSES)
    )


CASES: dict[str, tuple[Callable[[], nn.Module], fa.Rule]] = {
    "dfa": (_rows, fa.DFA()),
    "fa": (_rows, fa.FA()),
    "fdfa": (_rows, fa.FDFA()),
    "fg-a": (_rows, fa.ActivityPerturbed()),
    "drtp streaming": (_rows, fa.DRTP()),
    "gru, dfa": (LastStep, fa.DFA()),
    "gru, drtp streaming": (LastStep, fa.DRTP()),
}


def soak(case: str, early: int = EARLY, steps: int = STEPS) -> dict[str, Any]:
    """Train, with an evaluation and a forward without a backward now and then.

    Args:
        case: One of `CASES`.
        early: After how many steps to look first.
        steps: How many in all.

    Returns:
        Live tensors and KiB of resident memory at both moments, and the largest resident memory of the process.
    """
    make, rule = CASES[case]
    torch.manual_seed(0)
    model = make()
    shape = (_BATCH, _TIME, _WIDTH) if isinstance(model, LastStep) else (_BATCH, _WIDTH)
    x, y = torch.randn(shape), torch.arange(_BATCH) % _CLASSES
    handle = fa.attach(model, rule, example_inputs=x)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    found: dict[str, Any] = {}
    began = time.monotonic()
    for number in range(1, steps + 1):
        optimizer.zero_grad()
        if "streaming" in case:
            handle.targets(y)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if number % 50 == 0:
            _beside_training(model, handle, x, y, number)
        if number in {early, steps}:
            found[f"tensors at {number}"], found[f"KiB at {number}"] = live_tensors(), resident()
    found["largest KiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["seconds"] = round(time.monotonic() - began, 1)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    return found


def _beside_training(model: nn.Module, handle: fa.Handle, x: Tensor, y: Tensor, number: int) -> None:
    """What a loop does between its steps."""
    with torch.no_grad():
        model(x)
    handle.describe()
    model.state_dict()
    if number % 100 == 0 and not handle.is_streaming:
        model(x)  # never answered
        with handle.suspended():
            F.cross_entropy(model(x), y).backward()
        model.zero_grad()


def live_tensors() -> int:
    """Tensors that Python knows of."""
    gc.collect()
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


def resident() -> int:
    """KiB of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def main() -> None:
    """Soak all rules, and put the figures of each on file."""
    parser = argparse.ArgumentParser(prog="python -m faults.soak", description=__doc__)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for case in CASES:
        rows[case] = soak(case)
        print(case, rows[case], flush=True)
        if given.record is not None:
            kept = json.loads(given.record.read_text(encoding="utf-8")) if given.record.exists() else {}
            kept["soak"] = {"steps": STEPS, "early": EARLY, "rules": rows}
            given.record.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
