"""Running a plan case by case, and the record of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from feedalign_lab.bench.peers import VERSION, lack_of_biotorch
from feedalign_lab.bench.plan import BenchPlan
from feedalign_lab.bench.timing import BenchResult, Tell, measure_case

RECORD_FORMAT = 1
Save = Callable[["Bench"], None]


@dataclass
class Bench:
    """A benchmark as far as it is.

    Attributes:
        plan: The cases.
        tests: How the tests of the clone ended.
        environment: Versions and the machine, with the load before the tests.
        results: Of the cases that are done.
        status: `running`, `interrupted` or `finished`.
    """

    plan: BenchPlan
    tests: str
    environment: dict[str, Any]
    results: list[BenchResult] = field(default_factory=list)
    status: str = "running"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": RECORD_FORMAT,
            "status": self.status,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "tests": self.tests,
            "environment": self.environment,
            "optimizer": "SGD",
            "dtype": "float32",
            "rounds": self.plan.rounds,
            "biotorch": lack_of_biotorch() or VERSION,
            "cases": [_plain(result) for result in self.results],
        }


def run_bench(bench: Bench, device: torch.device, tell: Tell, save: Save) -> None:
    """Time one case after the other; Ctrl-C keeps what was done.

    Args:
        bench: Filled as it goes.
        device: Where it runs.
        tell: Told what is done, and what share of it.
        save: Called after each case, and at the end if there is one.
    """
    try:
        for case in bench.plan.cases:
            result = measure_case(case, bench.plan.rounds, device, tell)
            bench.results.append(result)
            if result.is_cut:
                bench.status = "interrupted"
                break
            save(bench)
        else:
            bench.status = "finished"
    except KeyboardInterrupt:
        bench.status = "interrupted"
    # An older record is worth more than an empty one.
    if bench.results:
        save(bench)


def _plain(result: BenchResult) -> dict[str, Any]:
    case = result.case
    return {
        "architecture": case.architecture.name,
        "size": asdict(case.size),
        "what": case.architecture.describe(case.size),
        "sweep": case.sweep,
        "rounds": result.rounds,
        "is_cut": result.is_cut,
        "rows": [asdict(row) for row in result.rows],
        "left_out": dict(result.left_out),
    }
