"""What is learned of interactions that show nothing one by one: the simulated log with signs of mean 0.

    python -m benchmarks.parity

trains `deepfm-small` under three rules at three rates each and writes docs/records/parity.json, at the rate and epoch
that are best on the validation rows. It takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from feedalign_lab.clicks.log import ClickLog
from feedalign_lab.clicks.planted import PlantedLog
from feedalign_lab.clicks.settings import run_setting
from feedalign_lab.clicks.sources import load_planted
from feedalign_lab.clicks.task import ClickTask
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import chosen_epoch
from feedalign_lab.training import Schedule, run_trial

RECORD = Path(__file__).parent.parent / "docs" / "records" / "parity.json"
_NETWORK, _EPOCHS = "deepfm-small", 6
_RULES, _RATES = ("backprop", "dfa", "shallow"), (1e-3, 3e-3, 1e-2)


def measure(log: ClickLog, rule: str, rates: tuple[float, ...], epochs: int) -> dict[str, Any]:
    """Train a rule at several rates.

    Args:
        log: The log.
        rule: Name of the rule.
        rates: Learning rates of Adam.
        epochs: Passes over the training rows.

    Returns:
        Of the rate and epoch with the best validation AUC: both, and the test AUC.
    """
    schedule = Schedule(epochs, run_setting("planted", _NETWORK).batch_size, angles_every=epochs)
    task = ClickTask(log, _NETWORK, schedule, torch.device("cpu"))
    found: list[dict[str, Any]] = []
    for rate in rates:
        spec = LearnerSpec(rule, _NETWORK, rate)
        epoch = chosen_epoch(run_trial(task.trial(spec), spec, schedule), "higher")
        if epoch is not None:
            scores = {"validation_auc": epoch.validation_score, "test_auc": epoch.test_score}
            found.append({"rate": rate, "epoch": epoch.epoch, **scores})
    return max(found, key=lambda one: float(one["validation_auc"]))


def main() -> None:
    """Measure all rules and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity")
    parser.add_argument("--record", type=Path, default=RECORD, help="file to write to (default: %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = PlantedLog(mean_of_signs=0.0)
    log = load_planted(rows)
    head = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "network": _NETWORK, "epochs": _EPOCHS}
    head |= {"rows": rows.num_rows, "rates": _RATES, "bayes_auc": log.bayes_auc}
    head |= {"torch": torch.__version__, "python": platform.python_version(), "num_threads": torch.get_num_threads()}
    rules: dict[str, Any] = {}
    for rule in _RULES:
        rules[rule] = measure(log, rule, _RATES, _EPOCHS)
        print(rule, rules[rule], flush=True)
    given.record.write_text(json.dumps(head | {"rules": rules}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
