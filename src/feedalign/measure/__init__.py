"""What a rule does, measured: alignment to backprop, variance and bias of its estimates, its feedback, its memory."""

from __future__ import annotations

from feedalign.measure.alignment import Alignment, LayerAlignment, alignment
from feedalign.measure.bias import Bias, LayerBias, bias
from feedalign.measure.cost import Cost, Kept, LayerCost, Movement, cost
from feedalign.measure.feedback_distance import FeedbackDistance, feedback_distance
from feedalign.measure.memory import peak_memory
from feedalign.measure.monitor import Monitor
from feedalign.measure.monitor_records import MonitorFeedback, MonitorLayer, MonitorRecord, read_records
from feedalign.measure.variance import LayerVariance, Variance, variance

__all__ = [
    "Alignment",
    "Bias",
    "Cost",
    "FeedbackDistance",
    "Kept",
    "LayerAlignment",
    "LayerBias",
    "LayerCost",
    "LayerVariance",
    "Monitor",
    "MonitorFeedback",
    "MonitorLayer",
    "MonitorRecord",
    "Movement",
    "Variance",
    "alignment",
    "bias",
    "cost",
    "feedback_distance",
    "peak_memory",
    "read_records",
    "variance",
]
