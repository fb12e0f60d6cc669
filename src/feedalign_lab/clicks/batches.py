"""Batches of a part in random order, read from the disk a few blocks at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from feedalign_lab.clicks.store import Part

_ROWS_OF_BLOCK = 65_536
_BLOCKS_AT_ONCE = 8
ROWS_OF_MEASUREMENT = 8_192
"""Rows that a network is run on at once where nothing is learned."""


def shuffled_batches(
    part: Part, batch_size: int, order: torch.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give every row once, in random order.

    Blocks of 65,536 rows are taken in random order, and the rows of each eight are shuffled among each other: all rows,
    where there are no more than half a million. What is left of eight blocks, less than a batch, goes on with the next.
    A last batch of a single row is left out, since batch normalization has no variance to divide by there.

    Args:
        part: The rows.
        batch_size: Rows per batch; the last one may be smaller.
        order: Decides the order; it is advanced.
        device: Where the batches go.

    Yields:
        Categories [N, F], int64, and labels [N, 1], float32.
    """
    num_blocks = -(-part.num_rows // _ROWS_OF_BLOCK)
    starts = _ROWS_OF_BLOCK * torch.randperm(num_blocks, generator=order).numpy()
    kept = part.read(0, 0)
    for first in range(0, len(starts), _BLOCKS_AT_ONCE):
        blocks = [
            part.read(start, start + _ROWS_OF_BLOCK) for start in starts[first : first + _BLOCKS_AT_ONCE].tolist()
        ]
        categories = np.concatenate([kept[0], *(block[0] for block in blocks)])
        labels = np.concatenate([kept[1], *(block[1] for block in blocks)])
        del blocks
        shuffled = torch.randperm(len(labels), generator=order).numpy()
        is_last = first + _BLOCKS_AT_ONCE >= len(starts)
        stop = len(labels) if is_last else len(labels) - len(labels) % batch_size
        for start in range(0, stop, batch_size):
            rows = shuffled[start : min(start + batch_size, stop)]
            if len(rows) > 1:
                yield on_device(categories[rows], labels[rows], device)
        kept = categories[shuffled[stop:]], labels[shuffled[stop:]]


def batches_in_order(part: Part, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Give every row once, in the order of the part.

    Args:
        part: The rows.
        device: Where the batches go.

    Yields:
        Categories [N, F], int64, and labels [N, 1], float32.
    """
    for start in range(0, part.num_rows, ROWS_OF_MEASUREMENT):
        yield on_device(*part.read(start, start + ROWS_OF_MEASUREMENT), device)


def first_rows(part: Part, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the first rows of a part.

    Args:
        part: The rows.
        count: How many; fewer where there are fewer.
        device: Where they go.

    Returns:
        Categories [N, F], int64, and labels [N, 1], float32.
    """
    return on_device(*part.read(0, min(count, part.num_rows)), device)


def on_device(categories: np.ndarray, labels: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows as tensors.

    Args:
        categories: Categories [N, F].
        labels: Labels [N].
        device: Where they go.

    Returns:
        Categories [N, F], int64, and labels [N, 1], float32.
    """
    x = torch.from_numpy(categories).to(device).long()
    return x, torch.from_numpy(labels).to(device).float().unsqueeze(1)
