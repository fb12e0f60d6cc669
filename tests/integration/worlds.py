"""Two processes of one training, started by torchrun as anyone would, and what one process alone would compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from feedalign import perturbation
from integration.gradients import Gradients, gradients

NUM_RANKS = 2
SECONDS = 110


def torchrun(folder: Path) -> None:
    """Run the worker in two processes to its end; the port is one that is free."""
    tests = Path(__file__).parents[1]
    search_path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_RANKS}"]
    done = subprocess.run(
        [*launcher, "-m", "integration.torchrun_worker", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def seen_by_ranks(part: str, factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank saw in one part of the run, which all tests share: whichever process asks first starts it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            folder.mkdir()
            torchrun(folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True)[part] for rank in range(NUM_RANKS)]


def shard(tensor: Tensor, rank: int) -> Tensor:
    """This rank's part of a batch."""
    return tensor.chunk(NUM_RANKS)[rank]


def averaged_over_ranks(
    make: Callable[[], nn.Module], batch: tuple[Tensor, Tensor], run: Callable[[nn.Module, Tensor, Tensor], Any]
) -> Gradients:
    """Mean of what each rank would compute on its part alone, with its own draws."""
    parts = []
    for rank in range(NUM_RANKS):
        model = make()
        with mock.patch.object(perturbation, "_rank", lambda rank=rank: rank):
            run(model, *(shard(part, rank) for part in batch))
        parts.append(gradients(model))
    return {
        name: None if grad is None else torch.stack([part[name] for part in parts]).mean(0)
        for name, grad in parts[0].items()
    }


def refusal_of(action: Callable[[], Any]) -> str:
    """Name and sentence of the error that an action raises."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"
