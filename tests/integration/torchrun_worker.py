"""One of two processes that torchrun starts. Writes what it saw to `FOLDER/RANK.pt`, for the tests to look at.

`torchrun --standalone --nproc-per-node=2 -m integration.torchrun_worker FOLDER`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from integration import distributed_worker, sharded_models, wrapped_transformer


def main(folder: Path) -> None:
    """Run everything and write it down."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    seen = {part.__name__: part.seen_by(rank) for part in (distributed_worker, wrapped_transformer, sharded_models)}
    torch.save(seen, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
