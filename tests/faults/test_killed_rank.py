"""A process of a distributed training is killed in the middle of a step: the other says so, and training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faults import killed_rank
from faults.killed_rank import STEPS, batch, made, optimizer_of

KILLED_AT = 4


def start(folder: Path, rank: int) -> subprocess.Popen[str]:
    search_path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "faults.killed_rank", str(folder), str(rank), str(KILLED_AT)],
        env={**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps of one process on whole batches, which are what two make of their halves."""
    for step in range(first, last + 1):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_killed_process_is_an_error_in_the_other_and_the_checkpoint_goes_on(tmp_path: Path) -> None:
    ranks = [start(tmp_path, rank) for rank in range(2)]
    try:
        began = time.monotonic()
        _, told = ranks[0].communicate(timeout=120)
        ranks[1].communicate(timeout=30)
        assert ranks[1].returncode == -signal.SIGKILL
        assert time.monotonic() - began < 120
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[0].returncode not in {0, -signal.SIGKILL}, "the one that is left goes on as if nothing had happened"
    assert "Error" in told
    assert any(word in told for word in ("Connection closed by peer", "Connection reset", "Timed out", "timed out")), (
        told
    )

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == KILLED_AT - 1
    model, handle = made()
    optimizer = optimizer_of(handle)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained(model, optimizer, KILLED_AT, STEPS)
    assert int(handle.store.counter) == STEPS
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items() if "seed" not in name)


def test_the_trained_model_is_the_same_from_a_checkpoint_as_without_one(tmp_path: Path) -> None:
    whole, handle = made()
    trained(whole, optimizer_of(handle), 1, STEPS)
    first, handle = made()
    optimizer = optimizer_of(handle)
    trained(first, optimizer, 1, KILLED_AT - 1)
    killed_rank.save(tmp_path / "checkpoint.pt", first, optimizer, KILLED_AT - 1)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second, handle = made()
    optimizer = optimizer_of(handle)
    second.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    trained(second, optimizer, KILLED_AT, STEPS)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())
