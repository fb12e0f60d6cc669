"""What a checkpoint costs: bytes, milliseconds to write and to read, and the share of a training that saving takes.

    python -m benchmarks.checkpoint_cost

Run it on an idle machine. The files are written where temporary files go; on a slower disk the milliseconds are more,
and the share is not, since the next save waits for longer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from feedalign_lab.checkpoints.file import read_checkpoint, write_checkpoint
from feedalign_lab.checkpoints.keeper import MOST_SHARE, Checkpoints
from feedalign_lab.data import load
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.tensors import TensorTask
from feedalign_lab.training import Schedule, run_trial

NETWORKS = ("fc1-100", "fc1-500", "fc2-1000")
ROUNDS = 9
DIGITS_EPOCHS = 60


def cost_of(network: str, folder: Path) -> tuple[int, float, float]:
    """Bytes of a checkpoint of a network on the digits, and median milliseconds to write and to read it."""
    schedule, spec = Schedule(2, 60), LearnerSpec("dfa", network, 1e-3)
    trial = TensorTask(load("digits"), network, schedule).trial(spec)
    trial.train_epoch(1)
    path = folder / f"{network}.feedalign-checkpoint"
    writes, reads = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        write_checkpoint(path, {}, {"trial": trial.state()}, keeps_older=True)
        writes.append(time.perf_counter() - start)
        start = time.perf_counter()
        read_checkpoint(path)
        reads.append(time.perf_counter() - start)
    return path.stat().st_size, 1e3 * statistics.median(writes), 1e3 * statistics.median(reads)


def share_of(network: str, folder: Path) -> tuple[float, float, int]:
    """Seconds of a training, seconds of it that went into saving, and how often it was saved."""
    spent: list[float] = []

    class Timed(Checkpoints):
        def save(self, what: str, content: object) -> None:
            start = time.perf_counter()
            super().save(what, content)  # type: ignore[arg-type]
            spent.append(time.perf_counter() - start)

    schedule, spec = Schedule(DIGITS_EPOCHS, 60), LearnerSpec("dfa", network, 1e-3)
    trial = TensorTask(load("digits"), network, schedule).trial(spec)
    checkpoints = Timed(folder / f"timed-{network}.feedalign-checkpoint", {}, print)
    start = time.perf_counter()
    run_trial(trial, spec, schedule, None, checkpoints)
    return time.perf_counter() - start, sum(spent), len(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"network       MiB  write ms  read ms   training s  saving s  saves  share (at most {MOST_SHARE:.0%})")
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            size, write, read = cost_of(network, Path(folder))
            total, saving, count = share_of(network, Path(folder))
            print(
                f"{network:10s} {size / 2**20:6.2f} {write:9.2f} {read:8.2f} {total:12.2f} {saving:9.3f} {count:6d}  "
                f"{saving / total:.2%}"
            )


if __name__ == "__main__":
    main()
