"""Train PyTorch networks without backpropagating through them: one line attaches a learning rule to any module."""

from __future__ import annotations

from feedalign import errors, measure, nn
from feedalign.attach import attach
from feedalign.checking.check import check
from feedalign.checking.verdict import Check, LayerCheck, Suggestion
from feedalign.describe import Description, Row
from feedalign.feedback import (
    Draw,
    KaimingUniform,
    Normal,
    Orthogonal,
    Projection,
    ScaledUniform,
    SharedSlice,
    Sparse,
    Ternary,
    Zeros,
)
from feedalign.handle import Handle, handle_of
from feedalign.limits import Limits, Quantized, Ternarized
from feedalign.points import FeedbackPoint
from feedalign.rules import (
    ALL_RULES,
    BRSF,
    DFA,
    DKP,
    DRTP,
    FA,
    FDFA,
    FRSF,
    USF,
    ActivityPerturbed,
    Backprop,
    DirectionalDFA,
    LocalGreedy,
    NoisyBackprop,
    Rule,
    Shallow,
    SignDFA,
    WeightPerturbed,
)

__version__ = "0.1.0"

__all__ = [
    "ALL_RULES",
    "BRSF",
    "DFA",
    "DKP",
    "DRTP",
    "FA",
    "FDFA",
    "FRSF",
    "USF",
    "ActivityPerturbed",
    "Backprop",
    "Check",
    "Description",
    "DirectionalDFA",
    "Draw",
    "FeedbackPoint",
    "Handle",
    "KaimingUniform",
    "LayerCheck",
    "Limits",
    "LocalGreedy",
    "NoisyBackprop",
    "Normal",
    "Orthogonal",
    "Projection",
    "Quantized",
    "Row",
    "Rule",
    "ScaledUniform",
    "Shallow",
    "SharedSlice",
    "SignDFA",
    "Sparse",
    "Suggestion",
    "Ternarized",
    "Ternary",
    "WeightPerturbed",
    "Zeros",
    "attach",
    "check",
    "errors",
    "handle_of",
    "measure",
    "nn",
]
