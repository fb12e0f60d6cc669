"""How signals reach the steps of a recurrent layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from feedalign.arrival import Arrival, Tap
from feedalign.errors import AmbiguousShapeError
from feedalign.feedback import Projection
from feedalign.placement import Placement, Signature, error_axis_of, place
from feedalign.receivers import DirectReceiver, Tensors
from feedalign.recurrent.point import LayerSteps
from feedalign.recurrent.scan import later_sum
from feedalign.rules.base import DirectRule


@dataclass(frozen=True)
class StepReceiver(DirectReceiver):
    """The steps of a recurrent layer under a direct rule.

    An error of the whole sequence, `[N, C]`, is every step's. Errors of single steps, `[N, T, C]`, reach each step
    as the discounted sum of its own and all later ones (for a direction that runs backwards: all earlier ones), since
    the state of a step has a part in them all.

    Attributes:
        time_first: The output is `[T, N, C]`.
        num_directions: 1 or 2.
        hidden_size: H; a step's features are `[teaching signals, directions, H]`.
    """

    time_first: bool
    num_directions: int
    hidden_size: int

    @property
    def sums_steps(self) -> bool:
        """Whether the output has an error at every step."""
        return self.placement.layout == "shared"

    def as_output(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a shape `[N, T, ...]` with the positions in the order of the output; the inverse too."""
        return (shape[1], shape[0], *shape[2:]) if self.time_first else shape

    def check_output(self, output: tuple[int, ...], activation: tuple[int, ...]) -> None:
        """See `Receiver`."""
        super().check_output(self.as_output(output), activation)

    def aligned(self, vector: Tensor) -> Tensor:
        """See `DirectReceiver`."""
        return vector.transpose(0, 1) if self.time_first else vector

    def gather(self, perturbation: Tensor, tangent: Tensor | None, valid: Tensor | None) -> Tensor:
        """Return the estimate of the Jacobian, `[C, D]`, its mean over those steps that count."""
        if valid is not None:
            share = valid.sum().to(perturbation.dtype) / valid.numel()
            perturbation = perturbation * (valid.unsqueeze(-1) / share)
        return super().gather(perturbation, tangent, None)

    def projected(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return the projected sums, `[N, T, D]`."""
        vector, feedback = self.aligned(self.vector(arrival, tap)), tap.held[0] if tap.held else None
        if not self.sums_steps:
            return self.signal(vector, feedback, tap.shape, tap.dtype)
        return self.project(self.sums(vector, tap.valid), feedback, tap.shape, tap.dtype)

    def sums(self, vector: Tensor, valid: Tensor | None) -> tuple[Tensor, ...]:
        """Return for each direction what reaches its steps, `[N, T, C]`.

        Args:
            vector: What is broadcast, `[N, T, C]`.
            valid: Which steps count, `[N, T]`; None: all.
        """
        if valid is not None:
            vector = vector * valid.unsqueeze(-1)
        return tuple(later_sum(vector, self.rule.gamma, reverse=number == 1) for number in range(self.num_directions))

    def project(
        self, sums: tuple[Tensor, ...], feedback: Tensor | None, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        """Return the teaching signal `[N, T, D]` made of each direction's sums; see `signal`."""
        signals = [self.signal(summed, feedback, shape, dtype) for summed in sums]
        if len(signals) == 1:
            return signals[0]
        apart = [signal.unflatten(-1, (-1, self.num_directions, self.hidden_size)) for signal in signals]
        return torch.stack([signal[..., number, :] for number, signal in enumerate(apart)], -2).flatten(-3)

    def feedback_gradients(self, arrival: Arrival, tap: Tap) -> Tensors:
        """Return the gradient of the matrix, if the rule learns it, from the error of each step alone."""
        if tap.valid is not None and tap.activation is not None:
            tap = Tap(tap.held, tap.kept, None, tap.activation * tap.valid.unsqueeze(-1), tap.shape, tap.dtype)
        return super().feedback_gradients(arrival, tap)


def step_receiver(
    error: Signature,
    activation: Signature,
    rule: DirectRule,
    point: LayerSteps,
    name: str,
    projection: Projection | None,
) -> StepReceiver:
    """Settle how the error reaches the steps of a recurrent layer.

    Args:
        error: Shape and feature axis of the output.
        activation: Shape of the layer's states, `[N, T, D]`.
        rule: The rule that teaches there.
        point: The layer's feedback point.
        name: Its name.
        projection: The user's device, in the place of a matrix.

    Returns:
        The receiver.

    Raises:
        AmbiguousShapeError: The shapes do not tell what is a step and what a sample.
    """
    placement, time_first = place_steps(error, activation, rule.positions, point, name)
    return StepReceiver(name, rule, placement, projection, time_first, point.num_directions, point.hidden_size)


def place_steps(
    error: Signature, activation: Signature, positions: str, point: LayerSteps, name: str
) -> tuple[Placement, bool]:
    """Return how the error is projected onto a layer's states, and whether the output has its steps first.

    Args:
        error: Shape and feature axis of the output.
        activation: Shape of the layer's states, `[N, T, D]`.
        positions: The rule's option.
        point: The layer's feedback point.
        name: Its name.

    Returns:
        The placement, and whether the output is `[T, N, C]`.

    Raises:
        AmbiguousShapeError: The shapes do not tell what is a step and what a sample.
    """
    num_samples, num_steps = activation.shape[:2]
    if len(error.shape) == 2 and num_steps > 1 and error.shape == (num_samples, num_steps):
        raise AmbiguousShapeError(
            f"The output has shape {error.shape}, and the sequences at {name!r} have {num_steps} steps: is this one "
            "number for each step or one for each class? Return [N, T, 1] for numbers of steps; for classes attach "
            "with example inputs of another length."
        )
    if len(error.shape) != 3 or error_axis_of(error) == "second":
        _refuse_unmatched(error.shape[:1], (num_samples,), error, activation, name)
        return place(error, activation, positions, name), False
    if num_samples == num_steps and error.shape[0] == num_samples and not point.batch_first:
        raise AmbiguousShapeError(
            f"The output has shape {error.shape}, and the example inputs are {num_samples} sequences of {num_steps} "
            "steps, so that samples and steps cannot be told apart. Attach with example inputs whose sizes differ."
        )
    time_first = error.shape[:2] == (num_steps, num_samples) and num_steps != num_samples
    laid = Signature((error.shape[1], error.shape[0], error.shape[2]), error.axis) if time_first else error
    if positions != "full":
        _refuse_unmatched(laid.shape[:2], (num_samples, num_steps), error, activation, name)
    return place(laid, activation, positions, name), time_first


def _refuse_unmatched(
    found: tuple[int, ...], wanted: tuple[int, ...], error: Signature, activation: Signature, name: str
) -> None:
    if found != wanted:
        raise AmbiguousShapeError(
            f"The output has shape {error.shape}, and the states at {name!r} are {activation.shape}, samples first: "
            "they do not match. Return [N, C], one error for each sequence, or one for each of its steps, [N, T, C] or "
            "[T, N, C]; unpack packed sequences to their own longest length (no total_length=), and give a single "
            "sequence a size for samples."
        )


def refuse_time_first(error: Signature, activation: Signature, point: LayerSteps, name: str, rule: str) -> None:
    """Raise AmbiguousShapeError where a rule that matches samples with slopes meets an output with its steps first."""
    if place_steps(error, activation, "auto", point, name)[1]:
        raise AmbiguousShapeError(
            f"The output has shape {error.shape}, steps first, and fa.{rule} matches each sample at {name!r} with the "
            "slope of its own loss. Return [N, T, C], samples first."
        )
