"""What a step costs under a rule: products, tensors kept until the error arrives, and data moved."""

from __future__ import annotations

from feedalign.measure.cost.movement import Movement
from feedalign.measure.cost.report import Cost, Kept, LayerCost
from feedalign.measure.cost.step import cost

__all__ = ["Cost", "Kept", "LayerCost", "Movement", "cost"]
