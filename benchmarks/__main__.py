"""`python -m benchmarks`: time the rules, interleaved in one process, and write a record."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

import feedalign as fa
from benchmarks import lockstep, nerf, overhead, recommenders, recurrent, rules, transformer
from benchmarks.contestants import (
    Case,
    ConvCase,
    Step,
    activation_memory,
    adam,
    attached,
    backprop,
    by_hand,
    downstream_products,
    step_memory,
    tangent_products,
)
from benchmarks.interleaving import interleave
from feedalign_lab.bench.tree import PASSED, clone, run_tests

CASES = (Case("784-2048x4-10, batch 256", 2048, 4, 256), Case("784-1024x16-10, batch 128", 1024, 16, 128))
CONVOLUTIONAL = ConvCase("15C5-P2-40C5-P2-128-10 on 3x32x32, batch 64", 64)
LEARNED: dict[str, fa.Rule] = {
    "dfa": fa.DFA(),
    "dkp": fa.DKP(),
    "fdfa": fa.FDFA(),
    "fdfa, rademacher": fa.FDFA(distribution="rademacher"),
    "fdfa, ema": fa.FDFA(update="ema"),
    "fg-a": fa.ActivityPerturbed(),
    "lg-fg-a": fa.LocalGreedy(),
    "fg-w": fa.WeightPerturbed(),
    "fg-w, rademacher": fa.WeightPerturbed(distribution="rademacher"),
}
RECORDS = Path(__file__).parent.parent / "docs" / "records"
MODULES = {
    "recurrent": recurrent,
    "transformer": transformer,
    "recommenders": recommenders,
    "nerf": nerf,
    "lockstep": lockstep,
    "rules": rules,
    "overhead": overhead,
}
PARTS = ("feedforward", *MODULES)


def main() -> int:
    """Run the benchmark.

    Returns:
        Exit status: 0, or 2 if the tests of this tree fail.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="steps of each contestant (default: 60)")
    parser.add_argument("--activation", choices=("tanh", "relu"), default="relu", help="(default: relu)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="time these alone (default: all)")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder to write to (default: docs/records)")
    parser.add_argument("--untested", action="store_true", help="skip the tests; the record is then not written")
    args = parser.parse_args()
    if not args.untested and run_tests(clone()) != PASSED:
        print("The tests of this tree fail: nothing is timed.", file=sys.stderr)
        return 2
    head: dict[str, Any] = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **machine()}
    head |= {"rounds": args.rounds, "dtype": "float32"}
    if "feedforward" in args.only:
        finish(head | feedforward(args.rounds, args.activation), "bench", show, args)
    for name in (part for part in args.only if part in MODULES):
        module = MODULES[name]
        finish(head | module.measure(args.rounds), f"bench-{name}", module.show, args)
    return 0


def feedforward(rounds: int, activation: str) -> dict[str, Any]:
    """Run everything that is recorded of feedforward networks."""
    kind = nn.Tanh if activation == "tanh" else nn.ReLU
    return {
        "activation": activation,
        "optimizer": "SGD",
        "step_time": [timed(case, kind, rounds) for case in CASES],
        "activation_memory": memory(),
        "learned": [learned(case, rounds) for case in (CASES[0], CONVOLUTIONAL)],
    }


def finish(
    record: dict[str, Any], name: str, show_it: Callable[[dict[str, Any]], None], args: argparse.Namespace
) -> None:
    """Print a record; write it if the tests were run."""
    show_it(record)
    if not args.untested:
        args.records.mkdir(parents=True, exist_ok=True)
        path = args.records / f"{name}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written to {path}")


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was just before."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def timed(case: Case, activation: type[nn.Module], rounds: int) -> dict[str, Any]:
    """Time all contestants of one case in turn, step by step, and put their medians over backprop's."""
    steps: dict[str, Step] = {
        "backprop": backprop(case, activation),
        "dfa": attached(case, activation, fa.DFA()),
        "dfa by hand": by_hand(case, activation),
        "drtp streaming": attached(case, activation, fa.DRTP(allow_unbounded=True), streaming=True),
        "fa": attached(case, activation, fa.FA()),
        "shallow": attached(case, activation, fa.Shallow()),
        "downstream products": downstream_products(case),
    }
    seconds = interleave(steps, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["backprop"]
    spread = {name: [q / base for q in statistics.quantiles(values, n=4)[::2]] for name, values in seconds.items()}
    return {
        "case": case.name,
        "backprop_ms": 1000 * base,
        "ratio": {name: value / base for name, value in medians.items()},
        "quartiles": spread,
        "bound": 1 - medians["downstream products"] / base,
        "dfa_over_by_hand": medians["dfa"] / medians["dfa by hand"],
    }


def learned(case: Case | ConvCase, rounds: int) -> dict[str, Any]:
    """Time rules with learned feedback and forward gradients, with fused Adam, and take their peak memory."""
    steps: dict[str, Step] = {"backprop": backprop(case, nn.ReLU, adam)}
    steps |= {name: attached(case, nn.ReLU, rule, adam) for name, rule in LEARNED.items()}
    if isinstance(case, Case):
        steps |= {"downstream products": downstream_products(case), "tangent products": tangent_products(case)}
    seconds = interleave(steps, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["backprop"]
    saved, added = medians.get("downstream products"), medians.get("tangent products")
    memory = {name: step_memory(case, rule) for name, rule in [("backprop", None), *LEARNED.items()]}
    return {
        "case": case.name,
        "backprop_ms": 1000 * base,
        "ratio": {name: medians[name] / base for name in ["backprop", *LEARNED]},
        "quartiles": {
            n: [q / base for q in statistics.quantiles(seconds[n], n=4)[::2]] for n in ["backprop", *LEARNED]
        },
        "bound": None if saved is None or added is None else 1 + (added - saved) / base,
        "memory": {name: size / memory["backprop"] for name, size in memory.items()},
    }


def memory() -> dict[str, dict[str, int]]:
    """Peak activation memory at several depths, in bytes."""
    return {
        name: {str(depth): activation_memory(depth, streaming=streaming) for depth in (4, 16, 32)}
        for name, streaming in (("backprop", False), ("drtp streaming", True))
    }


def show(record: dict[str, Any]) -> None:
    """Print the record as tables."""
    print(f"load before: {record['load_before']}, threads: {record['num_threads']}, torch {record['torch']}")
    for row in record["step_time"]:
        print(
            f"\n{row['case']}, {record['activation']}: backprop {row['backprop_ms']:.1f} ms, bound {row['bound']:.2f}"
        )
        for name, ratio in row["ratio"].items():
            low, high = row["quartiles"][name]
            print(f"  {name:20} {ratio:.3f}   quartiles {low:.3f} .. {high:.3f}")
        print(f"  dfa over dfa by hand {row['dfa_over_by_hand']:.3f}")
    for row in record["learned"]:
        bound = "" if row["bound"] is None else f", bound of fdfa and fg-a {row['bound']:.2f}"
        print(f"\n{row['case']}, relu, fused Adam: backprop {row['backprop_ms']:.1f} ms{bound}")
        for name, ratio in row["ratio"].items():
            low, high = row["quartiles"][name]
            print(
                f"  {name:20} {ratio:.3f}   quartiles {low:.3f} .. {high:.3f}   peak memory {row['memory'][name]:.2f}"
            )
    print("\npeak activation memory, MiB (width 1024, batch 1024)")
    for name, levels in record["activation_memory"].items():
        print(f"  {name:20} " + "   ".join(f"{depth} layers {size / 2**20:.1f}" for depth, size in levels.items()))


if __name__ == "__main__":
    sys.exit(main())
