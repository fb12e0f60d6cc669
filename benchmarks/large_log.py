"""A simulated log of five million rows in Criteo's format, written, read and trained through: time and peak memory.

    python -m benchmarks.large_log --rule dfa --rows 5000000

takes a quarter of an hour on one core, and some 2.2 GB of disk in a folder that is taken away at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from feedalign_lab.clicks.planted import write_planted
from feedalign_lab.clicks.settings import rule_setting
from feedalign_lab.clicks.task import load
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.training import Schedule

_NETWORK, _BATCH_SIZE = "deepfm", 2048


def measure(num_rows: int, rule: str, rate: float) -> dict[str, Any]:
    """Write a log, and train one epoch on it.

    Args:
        num_rows: Rows of the log.
        rule: Name of the rule.
        rate: Learning rate of Adam.

    Returns:
        Sizes, seconds, the peak of the process's memory in MiB after each part, and the AUC beside the best possible.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The encoded log goes where it is taken away, too.
        os.environ["XDG_CACHE_HOME"] = folder
        path = Path(folder) / "log.txt"
        best = write_planted(path, num_rows)
        facts: dict[str, Any] = {"rows": num_rows, "bytes": path.stat().st_size, "network": _NETWORK, "rule": rule}
        facts |= {"rate": rate, "batch": _BATCH_SIZE, "bayes_auc": best, "peak_mib_after_writing": _peak_mib()}
        start = time.perf_counter()
        task = load(f"criteo:{path}", _NETWORK, schedule=Schedule(1, _BATCH_SIZE), device=torch.device("cpu"))
        facts |= {"seconds_to_encode": time.perf_counter() - start, "peak_mib_after_encoding": _peak_mib()}
        trial = task.trial(LearnerSpec(rule, _NETWORK, rate))
        start = time.perf_counter()
        facts["train_loss"] = trial.train_epoch(1)
        facts["seconds_to_train"] = time.perf_counter() - start
        scores = trial.scores()
        return facts | {"test_auc": scores.test, **scores.others, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Peak of the resident memory of this process so far; the unit of ru_maxrss is that of Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure as the command line says, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_log")
    parser.add_argument("--rows", type=int, default=5_000_000, help="(default: %(default)s)")
    parser.add_argument("--rule", default="dfa", help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, help="learning rate (default: that of planted)")
    given = parser.parse_args()
    rate = rule_setting("planted", _NETWORK, given.rule).learning_rate if given.rate is None else given.rate
    print(json.dumps(measure(given.rows, given.rule, rate), indent=1))


if __name__ == "__main__":
    main()
