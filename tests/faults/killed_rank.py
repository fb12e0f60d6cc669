"""One of two processes of a training under DistributedDataParallel; the second kills itself in the middle of a step.

`python -m faults.killed_rank FOLDER RANK KILLED_AT`
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa

SECONDS, STEPS, BATCH = 20, 8, 16
RULE = fa.FDFA()


def made() -> tuple[nn.Module, fa.Handle]:
    """The attached model, the same everywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    return model, fa.attach(model, RULE, example_inputs=batch(0)[0])


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The whole batch of a step."""
    draws = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 6, generator=draws, dtype=torch.float64), torch.arange(BATCH) % 3


def optimizer_of(handle: fa.Handle) -> torch.optim.Optimizer:
    """Of the weights and the learned feedback."""
    return torch.optim.Adam(handle.parameter_groups(lr=1e-2, feedback_lr=1e-2))


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint in one piece."""
    new = path.with_suffix(".new")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, new)
    os.replace(new, path)


def main(folder: Path, rank: int, killed_at: int) -> None:
    """Train; a checkpoint after every step."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=SECONDS),
    )
    model, handle = made()
    wrapped, optimizer = DistributedDataParallel(model), optimizer_of(handle)
    for step in range(1, STEPS + 1):
        x, y = (part.chunk(2)[rank] for part in batch(step))
        optimizer.zero_grad()
        output = wrapped(x)
        if rank == 1 and step == killed_at:
            # The error has come, and nothing has gone out to the other process.
            output.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        F.cross_entropy(output, y).backward()
        optimizer.step()
        if rank == 0:
            save(folder / "checkpoint.pt", model, optimizer, step)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
