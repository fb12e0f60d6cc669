"""The Transformer of the language-modelling experiment: DFA with points after blocks, and within them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from benchmarks.contestants import Step, adam
from benchmarks.interleaving import interleave
from feedalign_lab.language.transformer import ErrorAt, Placement, Transformer, TransformerSize, points_of

MIB = 2**20


@dataclass(frozen=True)
class TextCase:
    """A Transformer, its vocabulary and a batch of text."""

    name: str
    size: TransformerSize
    vocab_size: int
    num_chunks: int

    def model(self) -> Transformer:
        """Return a fresh model, the same at every call."""
        torch.manual_seed(0)
        return Transformer(self.size, self.vocab_size)

    def data(self) -> tuple[Tensor, Tensor]:
        """Return tokens and the tokens behind them."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.num_chunks, self.size.context)
        return (
            torch.randint(self.vocab_size, shape, generator=generator),
            torch.randint(self.vocab_size, shape, generator=generator),
        )


CASES = (
    TextCase(
        "4 layers, width 128, 2,048 tokens, 16 chunks of 128",
        TransformerSize(num_layers=4, num_heads=4, width=128, inner_width=512, dropout=0.0),
        2048,
        16,
    ),
    TextCase("6 layers, width 512, 8,192 tokens, 4 chunks of 128", TransformerSize(dropout=0.0), 8192, 4),
)
"""The small Transformer that pages train, and the paper's blocks with a smaller vocabulary and batch."""


@dataclass(frozen=True)
class Contestant:
    """A rule and where it acts; the feedback is the paper's, one matrix for all points, unless it says otherwise."""

    rule: fa.Rule
    placement: Placement
    error_at: ErrorAt = "hidden"
    feedback: str | None = "launay2020"


CONTESTANTS: dict[str, Contestant] = {
    "dfa-macro": Contestant(fa.DFA(), "macro"),
    "dfa-micro": Contestant(fa.DFA(), "micro"),
    "dfa-macro, error at the logits": Contestant(fa.DFA(), "macro", "logits"),
    "dfa-micro, error at the logits": Contestant(fa.DFA(), "micro", "logits"),
    "dfa-macro, a matrix for each point": Contestant(fa.DFA(), "macro", feedback=None),
    "dfa-micro, a matrix for each point": Contestant(fa.DFA(), "micro", feedback=None),
    "shallow": Contestant(fa.Shallow(), "macro", feedback=None),
}


def measure(rounds: int) -> dict[str, Any]:
    """Run everything that is recorded of Transformers.

    Args:
        rounds: Steps of each contestant.
    """
    return {"optimizer": "fused Adam", "cases": [timed(case, rounds) for case in CASES]}


def timed(case: TextCase, rounds: int) -> dict[str, Any]:
    """Time all contestants of one case in turn, step by step, and put their medians over backprop's."""
    steps = {"backprop": step_of(case, case.model())}
    for name, one in CONTESTANTS.items():
        model = case.model()
        points = points_of(one.placement, case.size.num_layers)
        fa.attach(
            model, one.rule, example_inputs=case.data()[0], points=points, output=one.error_at, feedback=one.feedback
        )
        steps[name] = step_of(case, model)
    seconds = interleave(steps, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["backprop"]
    memory = {name: peak_of(step) for name, step in steps.items()}
    return {
        "case": case.name,
        "backprop_ms": 1000 * base,
        "backprop_mib": memory["backprop"] / MIB,
        "ratio": {name: value / base for name, value in medians.items()},
        "quartiles": {n: [q / base for q in statistics.quantiles(v, n=4)[::2]] for n, v in seconds.items()},
        "memory": {name: size / memory["backprop"] for name, size in memory.items()},
    }


def step_of(case: TextCase, model: nn.Module) -> Step:
    """Return a whole training step; dropout is left out, whose random numbers cost the same under every rule."""
    x, y = case.data()
    optimizer = adam(model)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()

    return step


def peak_of(step: Step) -> int:
    """Peak bytes that a step holds above parameters, gradients and the optimizer's state."""
    step()
    return fa.measure.peak_memory(step)


def show(record: dict[str, Any]) -> None:
    """Print the record as tables."""
    print(f"load before: {record['load_before']}, threads: {record['num_threads']}, torch {record['torch']}")
    for row in record["cases"]:
        print(f"\n{row['case']}: backprop {row['backprop_ms']:.1f} ms, {row['backprop_mib']:.1f} MiB")
        for name, ratio in row["ratio"].items():
            low, high = row["quartiles"][name]
            print(f"  {name:34} {ratio:.3f}   quartiles {low:.3f} .. {high:.3f}   memory {row['memory'][name]:.2f}")
