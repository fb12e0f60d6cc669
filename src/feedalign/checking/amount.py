"""How much feedback a rule would hold, told before any of it is drawn."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch

from feedalign.blueprint import Blueprint
from feedalign.linear_like import forward_weight
from feedalign.placement import Placement
from feedalign.report import is_drawn

_LARGE = 10**8
_STEP = 1000


@dataclass(frozen=True)
class Amount:
    """Numbers in all feedback matrices together, heads and feedback weights of layers among them.

    Attributes:
        numbers: How many.
        bytes: What they take up in the model's own dtype.
    """

    numbers: int = 0
    bytes: int = 0

    @property
    def is_large(self) -> bool:
        """Whether it is worth a word: 100 MB or more."""
        return self.bytes >= _LARGE

    def __str__(self) -> str:
        return f"{self.numbers:,} numbers, {_in_units(self.bytes)}"


def amount_of(plan: Blueprint, placements: Collection[Placement]) -> Amount:
    """Count what would be drawn.

    Args:
        plan: The model read, its rules assigned.
        placements: How the error meets each activation that has a matrix.

    Returns:
        The amount.
    """
    numbers = sum(placement.num_outputs * placement.num_features for placement in placements)
    weights = [
        forward_weight(plan.model.get_submodule(name)) for name, gate in plan.gated.items() if is_drawn(gate.rule)
    ]
    numbers += sum(math.prod(weight.shape) for weight in weights)
    own = (parameter.dtype for parameter in plan.model.parameters() if parameter.is_floating_point())
    return Amount(numbers, numbers * next(own, torch.get_default_dtype()).itemsize)


def _in_units(num_bytes: int) -> str:
    """Return a size with three digits: `"25.8 GB"`."""
    size, units = float(num_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= _STEP and len(units) > 1:
        size, units = size / _STEP, units[1:]
    return f"{size:.3g} {units[0]}"
