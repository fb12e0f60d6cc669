"""Train PyTorch networks without backpropagating through them: one line attaches a learning rule to any module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from feedalign import errors, nn
from feedalign.attach import attach
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

if TYPE_CHECKING:
    from feedalign import measure
    from feedalign.checking.check import check
    from feedalign.checking.verdict import Check, LayerCheck, Suggestion

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

# Who trains alone needs neither of these, and they are a third of what there is to read.
_LATER = {
    "check": "feedalign.checking.check",
    "Check": "feedalign.checking.verdict",
    "LayerCheck": "feedalign.checking.verdict",
    "Suggestion": "feedalign.checking.verdict",
}


def __getattr__(name: str) -> Any:
    """Read what measures and what checks a model when it is first asked for."""
    if name == "measure":
        return import_module("feedalign.measure")
    if name in _LATER:
        found = getattr(import_module(_LATER[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'feedalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
