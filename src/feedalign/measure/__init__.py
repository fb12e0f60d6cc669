"""What a rule does, measured: alignment to backprop, and the memory of a step."""

from __future__ import annotations

from feedalign.measure.alignment import Alignment, LayerAlignment, alignment
from feedalign.measure.memory import peak_memory

__all__ = ["Alignment", "LayerAlignment", "alignment", "peak_memory"]
