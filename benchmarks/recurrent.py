"""Recurrent networks: DFA, whose backward is one computation over all steps, against torch's backprop through time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from benchmarks.contestants import Step, adam
from benchmarks.interleaving import interleave

CELLS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class Shape:
    """A batch of sequences and the width of the layer that reads them."""

    num_steps: int
    num_samples: int
    hidden: int
    inputs: int

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"T={self.num_steps}, N={self.num_samples}, H={self.hidden}"


SHAPES = (Shape(28, 100, 512, 28), Shape(90, 10, 512, 2), Shape(235, 10, 50, 1), Shape(235, 100, 128, 1))
"""Row-MNIST, Libras and Strawberry as in the paper on recurrent networks, and a wide batch of long sequences."""

LENGTHS = (25, 50, 100, 200, 400, 800)
_LONG = Shape(0, 10, 128, 8)
_STREAMED = Shape(0, 100, 512, 28)


class Classifier(nn.Module):
    """One recurrent layer, its last state read by a linear layer."""

    def __init__(self, cell: type[nn.RNNBase], shape: Shape, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.readout = cell(shape.inputs, shape.hidden, **options), nn.Linear(shape.hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, 10]` for sequences `[T, N, I]`."""
        return self.readout(self.rnn(x)[0][-1])


def data(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return one batch."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape.num_steps, shape.num_samples, shape.inputs, generator=generator)
    return x, torch.randint(10, (shape.num_samples,), generator=generator)


def step_of(model: nn.Module, shape: Shape, rule: fa.Rule | None, *, streaming: bool = False) -> Step:
    """Return a whole training step with fused Adam; no rule is torch's own backprop through time."""
    x, y = data(shape)
    handle = None if rule is None else fa.attach(model, rule, example_inputs=x)
    optimizer = adam(model)

    def step() -> None:
        optimizer.zero_grad()
        if handle is not None and streaming:
            handle.targets(y)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def forward_alone(model: nn.Module, shape: Shape) -> Step:
    """Return torch's forward without a graph: what any rule has to pay beside its backward."""
    x, _ = data(shape)

    def step() -> None:
        with torch.no_grad():
            model(x)

    return step


def timed(cell: str, shape: Shape, rounds: int) -> dict[str, Any]:
    """Time one cell at one shape, all contestants in turn."""
    kind = CELLS[cell]
    steps = {
        "bptt": step_of(Classifier(kind, shape), shape, None),
        "dfa": step_of(Classifier(kind, shape), shape, fa.DFA()),
        "drtp streaming": step_of(Classifier(kind, shape), shape, fa.DRTP(), streaming=True),
    }
    # What no rule can save: torch's own forward, without a graph.
    steps["forward alone"] = forward_alone(Classifier(kind, shape), shape)
    if cell == "gru":
        before = Classifier(fa.nn.GRU, shape, reset="before")
        steps["dfa, reset before"] = step_of(before, shape, fa.DFA())
    seconds = interleave(steps, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["bptt"]
    return {
        "cell": cell,
        "shape": shape.name,
        "bptt_ms": 1000 * base,
        "ratio": {name: value / base for name, value in medians.items()},
        "quartiles": {n: [q / base for q in statistics.quantiles(v, n=4)[::2]] for n, v in seconds.items()},
        "memory": {name: peak_of(step) for name, step in steps.items()},
    }


def peak_of(step: Step) -> int:
    """Peak bytes that a step holds above parameters, gradients and the optimizer's state."""
    step()
    return fa.measure.peak_memory(step)


def backward_times(cell: str, rounds: int) -> dict[str, Any]:
    """Time the backward alone at growing lengths, in milliseconds."""
    kind = CELLS[cell]
    found: dict[str, list[float]] = {"bptt": [], "dfa": []}
    for num_steps in LENGTHS:
        shape = replace(_LONG, num_steps=num_steps)
        timers = {"bptt": _Backward(Classifier(kind, shape), shape, None)}
        timers["dfa"] = _Backward(Classifier(kind, shape), shape, fa.DFA())
        interleave({name: timer.step for name, timer in timers.items()}, rounds)
        for name, timer in timers.items():
            found[name].append(1000 * statistics.median(timer.seconds[3:]))
    return {"cell": cell, "shape": f"N={_LONG.num_samples}, H={_LONG.hidden}", "lengths": list(LENGTHS), "ms": found}


class _Backward:
    """A step whose backward is timed alone."""

    def __init__(self, model: nn.Module, shape: Shape, rule: fa.Rule | None) -> None:
        self.model, self.seconds = model, list[float]()
        self.x, self.y = data(shape)
        if rule is not None:
            fa.attach(model, rule, example_inputs=self.x)

    def step(self) -> None:
        """Run forward and backward; note what the backward took."""
        self.model.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        began = time.perf_counter()
        loss.backward()
        self.seconds.append(time.perf_counter() - began)


def streaming_memory(cell: str) -> dict[str, Any]:
    """Peak bytes of a step at two lengths, for BPTT, DFA and streaming DRTP."""
    makers: dict[str, Callable[[Classifier, Shape], Step]] = {
        "bptt": lambda model, shape: step_of(model, shape, None),
        "dfa": lambda model, shape: step_of(model, shape, fa.DFA()),
        "drtp streaming": lambda model, shape: step_of(model, shape, fa.DRTP(), streaming=True),
    }
    found: dict[str, dict[str, int]] = {}
    for name, maker in makers.items():
        shapes = [replace(_STREAMED, num_steps=num_steps) for num_steps in (100, 1000)]
        found[name] = {str(s.num_steps): peak_of(maker(Classifier(CELLS[cell], s), s)) for s in shapes}
    return {"cell": cell, "shape": f"N={_STREAMED.num_samples}, H={_STREAMED.hidden}", "bytes": found}


def measure(rounds: int) -> dict[str, Any]:
    """Run everything that is recorded of recurrent networks."""
    return {
        "step_time": [timed(cell, shape, rounds) for cell in CELLS for shape in SHAPES],
        "backward_time": [backward_times(cell, max(5, rounds // 3)) for cell in CELLS],
        "streaming_memory": [streaming_memory(cell) for cell in CELLS],
    }


def show(record: dict[str, Any]) -> None:
    """Print the record as tables."""
    print("\nrecurrent layers, fused Adam: step over torch's backprop through time, and peak memory (MiB)")
    for row in record["step_time"]:
        print(f"{row['cell']:5} {row['shape']}: BPTT {row['bptt_ms']:.1f} ms")
        for name, ratio in row["ratio"].items():
            low, high = row["quartiles"][name]
            memory = row["memory"][name] / 2**20
            print(f"  {name:20} {ratio:.3f}   quartiles {low:.3f} .. {high:.3f}   memory {memory:.1f}")
    for row in record["backward_time"]:
        print(f"\nbackward alone, {row['cell']}, {row['shape']}, ms at T = {row['lengths']}")
        for name, times in row["ms"].items():
            print(f"  {name:20} " + "   ".join(f"{value:.2f}" for value in times))
    for row in record["streaming_memory"]:
        print(f"\npeak memory of a step, {row['cell']}, {row['shape']}, MiB at T = 100 and 1000")
        for name, sizes in row["bytes"].items():
            print(f"  {name:20} " + "   ".join(f"{size / 2**20:.1f}" for size in sizes.values()))
