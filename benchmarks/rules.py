"""Every rule on every architecture, and sweeps of their sizes: what `feedalign bench --sweep all` times."""

from __future__ import annotations

from typing import Any

import torch

from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.bench.plan import plan_of
from feedalign_lab.bench.report import case_table, left_out_lines
from feedalign_lab.bench.running import Bench, run_bench
from feedalign_lab.bench.tree import PASSED
from feedalign_lab.cli_output import print_table
from feedalign_lab.environment import describe_environment
from feedalign_lab.task import silent

_CPU = torch.device("cpu")
_MOST_ROUNDS = 25
_SECONDS = 20.0


def measure(rounds: int) -> dict[str, Any]:
    """Time all cases, and show each as it is done.

    Args:
        rounds: Steps of each contestant, at most.

    Returns:
        The record.

    Raises:
        KeyboardInterrupt: It was interrupted; `feedalign bench` keeps what was done, a record of all parts does not.
    """
    options = BenchOptions(sweep="all", rounds=min(rounds, _MOST_ROUNDS), seconds=_SECONDS)
    # A record is written by the benchmarks only where the tests passed.
    bench = Bench(plan_of(options, on_gpu=False), PASSED, describe_environment(_CPU))
    run_bench(bench, _CPU, silent, _show_last)
    if bench.status == "interrupted":
        raise KeyboardInterrupt
    return bench.to_dict()


def _show_last(bench: Bench) -> None:
    if bench.status == "running":
        result = bench.results[-1]
        print_table(case_table(result))
        print(*left_out_lines(result), sep="\n")


def show(record: dict[str, Any]) -> None:
    """Say how many cases a record has; each was shown as it was done."""
    print(f"{len(record['cases'])} cases, {record['status']}")
