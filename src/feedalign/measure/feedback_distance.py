"""How far the feedback of the last hidden layer is from the output weight that it stands for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from feedalign.errors import FeedbackShapeError
from feedalign.handle import handle_of
from feedalign.linear_like import forward_weight
from feedalign.measure.alignment import angle


@dataclass(frozen=True)
class FeedbackDistance:
    """`B_{L-1}` beside `W_L`.

    Attributes:
        point: The last feedback point.
        layer: The output layer.
        distance: Frobenius norm of `B - W`.
        relative: The distance over the norm of `W`.
        angle: Between the two, flattened, in degrees; nan where one is zero.
    """

    point: str
    layer: str
    distance: float
    relative: float
    angle: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"|B - W| = {self.distance:.4g} ({self.relative:.3g} of |W|), angle {self.angle:.1f} degrees "
            f"(B at {self.point}, W of {self.layer})"
        )


def feedback_distance(model: nn.Module) -> FeedbackDistance:
    """Measure how far the feedback of the last hidden layer is from the output layer's weight.

    With a linear output layer `W_L` is the Jacobian that `B_{L-1}` stands for: FDFA's feedback has it as its mean, and
    DKP's and the weight move towards each other.

    Args:
        model: A model with a direct rule attached whose output is made by an `nn.Linear` (or Transformers' `Conv1D`)
            right above a feedback point; a flattening between them does not matter.

    Returns:
        Distance and angle.

    Raises:
        AttachError: No rule is attached.
        FeedbackShapeError: The last feedback and the output layer's weight have other shapes, or there is none.

    Source: Bacho & Chu 2024, Eq. 13; Kolen & Pollack 1994.
    """
    handle = handle_of(model)
    point, feedback = handle.last_feedback()
    layer = handle.output_layer
    if feedback is None or layer is None:
        missing = "no feedback matrix" if feedback is None else "no linear layer that makes the output"
        raise FeedbackShapeError(f"This model has {missing}, so there is nothing to compare.")
    weight = forward_weight(model.get_submodule(layer))
    if weight.shape != feedback.shape:
        raise FeedbackShapeError(
            f"The feedback at {point!r} has shape {tuple(feedback.shape)} and the weight of {layer!r} "
            f"{tuple(weight.shape)}: something other than a flattening lies between them."
        )
    difference = float((feedback - weight).norm())
    return FeedbackDistance(point, layer, difference, difference / float(weight.norm()), angle(feedback, weight))
