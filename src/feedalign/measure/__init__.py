"""What a rule does, measured: alignment to backprop, variance and bias of its estimates, its feedback, its memory."""

from __future__ import annotations

from feedalign.measure.alignment import Alignment, LayerAlignment, alignment
from feedalign.measure.bias import Bias, LayerBias, bias
from feedalign.measure.feedback_distance import FeedbackDistance, feedback_distance
from feedalign.measure.memory import peak_memory
from feedalign.measure.variance import LayerVariance, Variance, variance

__all__ = [
    "Alignment",
    "Bias",
    "FeedbackDistance",
    "LayerAlignment",
    "LayerBias",
    "LayerVariance",
    "Variance",
    "alignment",
    "bias",
    "feedback_distance",
    "peak_memory",
    "variance",
]
