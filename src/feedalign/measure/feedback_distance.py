"""How far the feedback of the last hidden layer is from the output weight that it stands for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from feedalign.errors import FeedbackShapeError
from feedalign.handle import Handle
from feedalign.linear_like import forward_weight
from feedalign.measure.alignment import angle
from feedalign.measure.attached import attached


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


def feedback_distance(model: nn.Module | Handle) -> FeedbackDistance:
    """Measure how far the feedback of the last hidden layer is from the output layer's weight.

    With a linear output layer `W_L` is the Jacobian that `B_{L-1}` stands for: FDFA's feedback has it as its mean, and
    DKP's and the weight move towards each other.

    Args:
        model: A model with a direct rule attached to it or to a part of it, or its handle. The output of what is
            attached is made by an `nn.Linear` (or Transformers' `Conv1D`) right above a feedback point; a flattening
            between them does not matter.

    Returns:
        Distance and angle.

    Raises:
        AttachError: No rule is attached, or it was removed.
        WrappedModelError: The model is sharded.
        FeedbackShapeError: The rule has no feedback points, or the output layer does not lie right above one that has a
            matrix of its shape.

    Source: Bacho & Chu 2024, Eq. 13; Kolen & Pollack 1994.
    """
    _, handle = attached(model)
    if not handle._circuit.sites:
        names = ", ".join(f"fa.{type(rule).__name__}" for rule in handle.rules)
        raise FeedbackShapeError(
            f"{names} has no feedback points, so there is no matrix from the output to the last hidden layer: this "
            "distance is one of direct feedback, as of fa.DKP() and fa.FDFA()."
        )
    if handle.last_pair is None:
        raise FeedbackShapeError(
            "No feedback point lies right below a linear layer that makes the output, so there is no weight for its "
            "feedback to be compared with."
        )
    point, layer = handle.last_pair
    feedback = handle.feedback_at(point)
    weight = forward_weight(handle.model.get_submodule(layer))
    if feedback is None or weight.shape != feedback.shape:
        found = "no feedback matrix" if feedback is None else f"feedback of shape {tuple(feedback.shape)}"
        raise FeedbackShapeError(
            f"The feedback point {point!r} below {layer!r} has {found}; the weight there is {tuple(weight.shape)}."
        )
    difference = float((feedback - weight).norm())
    return FeedbackDistance(point, layer, difference, difference / float(weight.norm()), angle(feedback, weight))
