"""How an error `[..., C]` meets an activation: which sizes are positions, which are features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from feedalign.errors import AmbiguousShapeError, FeedbackShapeError

Layout = Literal["full", "shared", "repeated"]
FeatureAxis = Literal["last", "second", "unknown"]


@dataclass(frozen=True)
class Signature:
    """Shape of a tensor on the example inputs and the axis that holds its features.

    Attributes:
        shape: The shape, batch first.
        axis: `"last"` after linear layers, `"second"` after convolutions, `"unknown"` otherwise.
    """

    shape: tuple[int, ...]
    axis: FeatureAxis

    def features(self) -> int:
        """Number of features at one position; 1 where samples are all there is."""
        if len(self.shape) == 1:
            return 1
        return self.shape[1] if self.axis == "second" else self.shape[-1]


@dataclass(frozen=True)
class Placement:
    """How what is broadcast becomes the teaching signal of one feedback point.

    Attributes:
        layout: `"full"`: all sizes but the first are features. `"shared"`: the error has the activation's
            positions, which one matrix serves. `"repeated"`: the error has none and is repeated over them.
        error_axis: Where the error's features are.
        axis: Where the activation's features are.
        num_kept: For `"shared"`, how many leading sizes error and activation have in common (features last).
        num_outputs: C, rows of the feedback matrix.
        num_features: D, its columns.
        feature_shape: The activation's sizes that make up D.
    """

    layout: Layout
    error_axis: FeatureAxis
    axis: FeatureAxis
    num_kept: int
    num_outputs: int
    num_features: int
    feature_shape: tuple[int, ...]

    def rows(self, vector: Tensor) -> Tensor:
        """Flatten what is broadcast, features last, to `[rows, C]`."""
        if self.layout != "full":
            return vector.flatten(0, -2)
        if vector.dim() == 2:
            return vector
        in_order = vector.movedim(-1, 1) if self.error_axis == "second" else vector
        return in_order.reshape(vector.shape[0], self.num_outputs)

    def num_rows(self, shape: tuple[int, ...]) -> int:
        """Number of rows that reach an activation of the given shape."""
        if self.layout != "shared":
            return shape[0]
        return math.prod(shape) // self.num_features

    def deliver(self, projected: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Shape `[rows, D]` into a teaching signal for an activation of the given shape."""
        if self.layout == "full":
            return projected if projected.shape == shape else projected.reshape(shape)
        positions_last = shape if self.axis != "second" else (shape[0], *shape[2:], shape[1])
        if self.layout == "repeated":
            middle = len(positions_last) - 2
            signal = projected.reshape(shape[0], *[1] * middle, self.num_features).expand(positions_last)
        else:
            signal = projected.reshape(positions_last)
        return signal.movedim(-1, 1) if self.axis == "second" else signal

    def collect(self, tensor: Tensor) -> Tensor:
        """Shape what lies at the feedback point into rows `[rows, D]`: the adjoint of `deliver`.

        Where the error is repeated over positions, these are summed up.
        """
        if self.layout == "full":
            return tensor.reshape(tensor.shape[0], self.num_features)
        positions_last = tensor.movedim(1, -1) if self.axis == "second" else tensor
        if self.layout == "repeated":
            middle = math.prod(positions_last.shape[1:-1])
            return positions_last.reshape(tensor.shape[0], middle, self.num_features).sum(1)
        return positions_last.reshape(tensor.numel() // self.num_features, self.num_features)

    def num_repeats(self, shape: tuple[int, ...]) -> int:
        """Over how many positions of an activation of the given shape the error is repeated."""
        return math.prod(shape[1:]) // self.num_features if self.layout == "repeated" else 1

    def check_output(self, output: tuple[int, ...], activation: tuple[int, ...], point: str) -> None:
        """Raise FeedbackShapeError if the output's size or positions no longer fit the feedback or the activation."""
        outputs = math.prod(output[1:]) if self.layout == "full" else Signature(output, self.error_axis).features()
        if outputs != self.num_outputs:
            raise FeedbackShapeError(
                f"The output has shape {tuple(output)}, that is {outputs} outputs, but feedback was drawn for "
                f"{self.num_outputs}. After replacing the output layer, remove the rule and attach it again."
            )
        wanted, found = output[:1], activation[:1]
        if self.layout == "shared":
            wanted = _positions(output, self.error_axis)
            found = _positions(activation, self.axis)[: self.num_kept]
        if wanted != found:
            raise FeedbackShapeError(
                f"The output has positions {wanted} and the activation at {point!r} {found}; on the example inputs "
                "they agreed, perhaps by chance, because two sizes were equal. Attach again with example inputs whose "
                "sizes all differ."
            )

    def check(self, shape: tuple[int, ...], point: str) -> None:
        """Raise FeedbackShapeError if an activation no longer fits the feedback drawn for it."""
        if self.layout == "full":
            features = math.prod(shape[1:])
        elif self.axis == "second":
            features = shape[1]
        else:
            kept = self.num_kept if self.layout == "shared" else len(shape) - 1
            features = math.prod(shape[kept:])
        if features != self.num_features:
            raise FeedbackShapeError(
                f"Feedback point {point!r} gave an activation of shape {tuple(shape)}, that is {features} features, "
                f"but its feedback was drawn for {self.num_features} (shape {self.feature_shape}). Attach again with "
                'example inputs of the new size, or use positions="shared" so that one matrix serves every position.'
            )


def features_last(tensor: Tensor, axis: FeatureAxis) -> Tensor:
    """Bring an error or output to `[..., C]`: `[N]` becomes `[N, 1]`, `[N, C, H, W]` becomes `[N, H, W, C]`.

    Args:
        tensor: The tensor.
        axis: Where its features are.

    Returns:
        A view of it.
    """
    if tensor.dim() == 1:
        return tensor.unsqueeze(-1)
    return tensor.movedim(1, -1) if axis == "second" else tensor


def error_axis_of(error: Signature) -> FeatureAxis:
    """Return where the features of an output are: behind the batch for images, else last."""
    return "second" if error.axis == "second" and len(error.shape) > 2 else "last"


def place(error: Signature, activation: Signature, positions: str, point: str) -> Placement:
    """Settle how the error is projected onto an activation.

    Args:
        error: Shape and feature axis of the output.
        activation: Shape and feature axis of the activation at the feedback point.
        positions: The rule's option: `"auto"`, `"shared"` or `"full"`.
        point: The feedback point's name, for messages.

    Returns:
        The placement.

    Raises:
        AmbiguousShapeError: The shapes do not tell, or the option asks for what they do not allow.
    """
    error_axis = error_axis_of(error)
    if positions == "full" or (positions == "auto" and _is_plainly_full(error, activation)):
        if error.shape[:1] != activation.shape[:1]:
            raise _ambiguous(error, activation, point)
        features = activation.shape[1:]
        num_outputs = math.prod(error.shape[1:])
        return Placement("full", error_axis, "last", 1, num_outputs, math.prod(features), features)
    if positions == "auto" and (error_axis == "second" or activation.axis == "unknown"):
        raise _ambiguous(error, activation, point, "it is not clear which of the sizes are positions")
    return _place_positions(Signature(error.shape, error_axis), activation, point)


def _is_plainly_full(error: Signature, activation: Signature) -> bool:
    """No positions anywhere, or only a convolution's under an error without positions."""
    if len(error.shape) > 2:
        return False
    return len(activation.shape) <= 2 or activation.axis == "second"


def _place_positions(error: Signature, activation: Signature, point: str) -> Placement:
    axis: FeatureAxis = "second" if activation.axis == "second" else "last"
    positions = _positions(activation.shape, axis)
    wanted = _positions(error.shape, error.axis)
    num_outputs = error.features()
    if len(wanted) == 1 and wanted == positions[:1]:
        features = Signature(activation.shape, axis).features()
        return Placement("repeated", error.axis, axis, 1, num_outputs, features, (features,))
    if wanted != positions[: len(wanted)] or (axis == "second" and wanted != positions):
        why = f"the error's positions {wanted} are not the activation's {positions}"
        raise _ambiguous(error, activation, point, why)
    kept = len(wanted)
    shape = (activation.shape[1],) if axis == "second" else activation.shape[kept:]
    return Placement("shared", error.axis, axis, kept, num_outputs, math.prod(shape), shape)


def _positions(shape: tuple[int, ...], axis: FeatureAxis) -> tuple[int, ...]:
    if len(shape) == 1:
        return shape
    return (shape[0], *shape[2:]) if axis == "second" else shape[:-1]


def _ambiguous(error: Signature, activation: Signature, point: str, why: str = "") -> AmbiguousShapeError:
    if error.shape[:1] != activation.shape[:1]:
        return AmbiguousShapeError(
            f"The error has shape {error.shape} and the activation at {point!r} {activation.shape}: their first sizes, "
            "the samples, differ, and nothing tells which row of one belongs to which row of the other. Let samples "
            "come first in both, choose points with points= behind a pooling over nodes or tokens, or take a rule that "
            "sends errors back layer by layer, fa.FA()."
        )
    return AmbiguousShapeError(
        f"The error has shape {error.shape} and the activation at {point!r} {activation.shape}: {why}. Say which it is "
        'with the rule\'s option positions="shared" (one feedback matrix serves every position) or positions="full" '
        "(positions count as features), or choose other points with points=."
    )
