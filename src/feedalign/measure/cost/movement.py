"""A small model of what a step moves: every operand of every product is read once, every result written once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Kind = Literal["weights", "activations", "errors", "feedback"]
KINDS: tuple[Kind, ...] = ("weights", "activations", "errors", "feedback")


@dataclass(frozen=True)
class Movement:
    """Bytes that pass between the memory and the units that multiply, in one step.

    Attributes:
        weights_read: Weights, their gradients when they are applied, and directions that weights are perturbed by.
        weights_written: Gradients of weights, and the weights after the update.
        activations_read: Activations and their tangents.
        activations_written: The same.
        errors_read: The error, deltas and teaching signals.
        errors_written: The same.
        feedback_read: Feedback, and its gradients when they are applied.
        feedback_written: Gradients of learned feedback, and the feedback after the update.
    """

    weights_read: int = 0
    weights_written: int = 0
    activations_read: int = 0
    activations_written: int = 0
    errors_read: int = 0
    errors_written: int = 0
    feedback_read: int = 0
    feedback_written: int = 0

    def __add__(self, other: Movement) -> Movement:
        return Movement(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def total(self) -> int:
        """All bytes, read and written."""
        return sum(getattr(self, one.name) for one in fields(self))

    def read(self, kind: Kind) -> int:
        """Return what is read of a kind, in bytes."""
        found: int = getattr(self, f"{kind}_read")
        return found

    def written(self, kind: Kind) -> int:
        """Return what is written of a kind, in bytes."""
        found: int = getattr(self, f"{kind}_written")
        return found


def reading(kind: Kind, num_bytes: int) -> Movement:
    """Movement of a tensor that is read."""
    return Movement(**{f"{kind}_read": num_bytes})


def writing(kind: Kind, num_bytes: int) -> Movement:
    """Movement of a tensor that is written."""
    return Movement(**{f"{kind}_written": num_bytes})
