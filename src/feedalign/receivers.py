"""Who receives from the broadcast node, and what: each kind of rule has its receiver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feedalign.arrival import Arrival, Tap
from feedalign.errors import FeedbackShapeError
from feedalign.feedback import Projection
from feedalign.perturbation import perturbation
from feedalign.placement import Placement, features_last
from feedalign.rules.base import DirectRule, EstimatingRule, LearnedRule, Rule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule, slope_per_sample
from feedalign.rules.local_greedy import LocalGreedy

Tensors = tuple[Tensor | None, ...]
OF_ERRORS = 1024
"""Place at which an error is rounded at random; those of noise at points follow. Other perturbations have others."""


@dataclass(frozen=True)
class Receiver(ABC):
    """Something that a teaching signal is made for.

    Attributes:
        point: Name of the feedback point or parameter.
        rule: The rule that teaches there.
    """

    point: str
    rule: Rule

    @property
    def reads_activation(self) -> bool:
        """Whether the backward needs the activation's values."""
        return False

    def check(self, activation: tuple[int, ...]) -> None:
        """Raise FeedbackShapeError if an activation does not fit what was drawn for it."""
        del activation

    def check_output(self, output: tuple[int, ...], activation: tuple[int, ...]) -> None:
        """Raise FeedbackShapeError if the output does not fit what was drawn, or the activation."""
        if output[:1] != activation[:1]:
            raise FeedbackShapeError(
                f"The activation at {self.point!r} has shape {tuple(activation)} and the output {tuple(output)}; a "
                "perturbation is matched with the output of its own sample, so their first sizes, the batch, must be "
                "equal. Choose other points with points=."
            )

    def gather(self, perturbation: Tensor, tangent: Tensor | None, valid: Tensor | None) -> Tensor:
        """Return what must be kept of the forward for the backward.

        Args:
            perturbation: What was added to the activation's tangent here, `[K * N, ...]`.
            tangent: Tangent of the output, `[K * N, ...]`; None where all perturbations are local.
            valid: Which steps of a sequence count, `[N, T]`; None: all.

        Returns:
            The perturbation itself, unless less will do.
        """
        del tangent, valid
        return perturbation

    @abstractmethod
    def teach(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return the teaching signal, of the tap's shape and dtype."""

    def feedback_gradients(self, arrival: Arrival, tap: Tap) -> Tensors:
        """Return the gradient of each held tensor; None for those that are not learned."""
        del arrival
        return (None,) * len(tap.held)


@dataclass(frozen=True)
class DirectReceiver(Receiver):
    """A feedback point that a direct rule projects onto.

    Attributes:
        placement: How the error meets the activation.
        projection: The user's device, in the place of the matrix.
        place: Number under which noise is drawn for the point.
    """

    rule: DirectRule
    placement: Placement
    projection: Projection | None
    place: int = field(default=0, kw_only=True)

    @property
    def reads_activation(self) -> bool:
        """Whether the rule learns its feedback from activations."""
        return isinstance(self.rule, LearnedRule) and self.rule.reads_activations

    def check(self, activation: tuple[int, ...]) -> None:
        """See `Receiver`."""
        self.placement.check(activation, self.point)

    def check_output(self, output: tuple[int, ...], activation: tuple[int, ...]) -> None:
        """See `Receiver`."""
        self.placement.check_output(output, activation, self.point)

    def gather(self, perturbation: Tensor, tangent: Tensor | None, valid: Tensor | None) -> Tensor:
        """Return the estimate of the Jacobian, `[C, D]`, which is much smaller than what it is made of."""
        assert isinstance(self.rule, EstimatingRule)
        assert tangent is not None
        del valid
        rows = self.placement.rows(self.aligned(features_last(tangent, self.placement.error_axis)))
        num_terms = rows.shape[0] * self.placement.num_repeats(tuple(perturbation.shape))
        drawn = self.placement.collect(perturbation)
        # Mixed precision may end inside the model: what returns in full precision was perturbed in half.
        common = torch.promote_types(rows.dtype, drawn.dtype)
        return self.rule.estimate(rows.to(common), drawn.to(common), num_terms)

    def teach(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return what is received of the projected vector."""
        signal = self.projected(arrival, tap)
        return self.received(signal, _clock(self.rule, tap)) if self.rule.limits.noise else signal

    def projected(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return the projected vector, of the tap's shape and dtype."""
        vector = self.aligned(self.vector(arrival, tap))
        return self.signal(vector, tap.held[0] if tap.held else None, tap.shape, tap.dtype)

    def feedback_gradients(self, arrival: Arrival, tap: Tap) -> Tensors:
        """Return the gradient of the matrix, if the rule learns it."""
        if not tap.held or not isinstance(self.rule, LearnedRule):
            return (None,) * len(tap.held)
        feedback = tap.held[0]
        evidence = tap.kept[0] if tap.activation is None else self.placement.collect(tap.activation)
        rows = self.placement.rows(self.aligned(self.vector(arrival, tap)))
        return (self.rule.feedback_gradient(feedback, rows.to(feedback.dtype), evidence.to(feedback.dtype)),)

    def own(self, held: Tensor) -> Tensor:
        """Return the point's matrix, `[C, D]`, of what is held for it."""
        return held

    def aligned(self, vector: Tensor) -> Tensor:
        """Return what has the output's positions, features last, with those of the activation."""
        return vector

    def vector(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return what is sent of what the rule broadcasts, `[..., C]`, made once for all its points."""
        # By the object: hashing all options of a rule takes longer than a look at the error.
        made = arrival.made.get(id(self.rule))
        if made is None:
            made = arrival.made[id(self.rule)] = self._sent(arrival, tap)
        return made

    def _sent(self, arrival: Arrival, tap: Tap) -> Tensor:
        vector, limits = self.rule.broadcast(arrival.features(), arrival.seen()), self.rule.limits
        if limits.error is None or not limits.error.draws:
            return limits.sent(vector, None)
        clock = _clock(self.rule, tap)
        assert clock is not None
        return limits.sent(vector, _uniform(perturbation(vector, 1, clock, OF_ERRORS, "normal")[0]))

    def used(self, held: Tensor) -> Tensor:
        """Return the matrix that is projected with, of what is held."""
        return self.rule.limits.used(held)

    def received(self, signal: Tensor, clock: Tensor | None) -> Tensor:
        """Return what the point receives.

        Args:
            signal: The projected vector, of the activation's shape.
            clock: Seed and count of the forward, for rules whose limits draw.
        """
        if not self.rule.limits.noise:
            return signal
        assert clock is not None
        return self.rule.limits.received(signal, perturbation(signal, 1, clock, OF_ERRORS + self.place, "normal")[0])

    def signal(self, vector: Tensor, feedback: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the teaching signal, of the activation's shape and dtype.

        Args:
            vector: What the rule broadcasts, `[..., C]`.
            feedback: What is held for the point; None where a projection stands for it.
            shape: The activation's shape.
            dtype: The activation's dtype, in which the product is computed.

        Returns:
            The teaching signal.

        Raises:
            FeedbackShapeError: The user's projection returned another shape than `[rows, D]`.
        """
        rows = self.placement.rows(vector)
        if self.projection is None:
            assert feedback is not None
            matrix = self.own(self.used(feedback))
            # Asked for: a conversion that changes nothing takes as long as a small product.
            if rows.dtype != dtype or matrix.dtype != dtype:
                rows, matrix = rows.to(dtype), matrix.to(dtype)
            return self.placement.deliver(rows @ matrix, shape)
        projected = self.projection.project(rows, self.point)
        wanted = (rows.shape[0], self.placement.num_features)
        if tuple(projected.shape) != wanted:
            raise FeedbackShapeError(
                f"The projection returned shape {tuple(projected.shape)} for feedback point {self.point!r}; it takes "
                f"{tuple(rows.shape)} there and returns [rows, features] = {wanted}."
            )
        return self.placement.deliver(projected.to(dtype), shape)


def _clock(rule: DirectRule, tap: Tap) -> Tensor | None:
    """Seed and count of the forward, kept last where the rule's limits draw."""
    return tap.kept[-1] if rule.limits.draws else None


def _uniform(normal: Tensor) -> Tensor:
    """Numbers from 0 to 1 of normal ones."""
    return (1 + torch.erf(normal * 0.5**0.5)) / 2


@dataclass(frozen=True)
class SlopeReceiver(Receiver):
    """A feedback point, or the output, that has the slope of the global loss times its own perturbation."""

    rule: SlopeRule

    def teach(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return the slope times the perturbation."""
        signal = self.rule.teach(arrival.slopes(), tap.kept[0])
        return signal.to(tap.dtype).reshape(tap.shape)


@dataclass(frozen=True)
class HeadReceiver(Receiver):
    """A feedback point with a linear head and the output's loss on it.

    Attributes:
        placement: How the head, of the shape of a feedback matrix, meets the activation.
    """

    rule: LocalGreedy
    placement: Placement

    def check(self, activation: tuple[int, ...]) -> None:
        """See `Receiver`."""
        self.placement.check(activation, self.point)

    def check_output(self, output: tuple[int, ...], activation: tuple[int, ...]) -> None:
        """See `Receiver`."""
        self.placement.check_output(output, activation, self.point)

    @property
    def reads_activation(self) -> bool:
        """The head is applied in the backward."""
        return True

    def teach(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return the slope of the local loss times the perturbation."""
        weight, perturbation = tap.held[0], tap.kept[0]
        error = self._error(arrival, tap)
        tangent = self._rows(perturbation.to(weight.dtype)) @ weight.T
        # One row per sample: a head at every position has one error for each.
        of_samples = error.reshape(tap.shape[0], error.numel() // max(tap.shape[0], 1))
        slopes = slope_per_sample(of_samples, tangent, arrival.num_perturbations)
        return self.rule.teach(slopes, perturbation).to(tap.dtype).reshape(tap.shape)

    def feedback_gradients(self, arrival: Arrival, tap: Tap) -> Tensors:
        """Return the exact gradients of the head's weight and bias."""
        assert tap.activation is not None
        error = self._error(arrival, tap)
        return error.T @ self._rows(tap.activation.to(error.dtype)), error.sum(0)

    def _error(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Error of the head, `[rows, C]`."""
        weight, bias = tap.held
        activation = tap.activation
        assert activation is not None

        def make() -> Tensor:
            local = torch.addmm(bias, self._rows(activation.to(weight.dtype)), weight.T)
            return self.rule.local_error(*self._targets(arrival), local).to(weight.dtype)

        return arrival.once(id(self), make)

    def _targets(self, arrival: Arrival) -> tuple[Tensor, Tensor]:
        """Targets `[rows, C]` and scale `[rows, 1]`, read once for all heads that have the error's positions alike."""
        output, place = arrival.seen(), self.placement
        assert output is not None
        read = arrival.once(
            (id(self.rule), place.layout),
            lambda: torch.cat(self.rule.targets(place.rows(arrival.features()), place.rows(output)), -1),
        )
        return read[:, :-1], read[:, -1:]

    def _rows(self, tensor: Tensor) -> Tensor:
        """Rows `[rows, D]`; a head of an output without positions sees their mean."""
        rows, num_repeats = self.placement.collect(tensor), self.placement.num_repeats(tuple(tensor.shape))
        return rows if num_repeats == 1 else rows / num_repeats


@dataclass(frozen=True)
class WeightReceiver(Receiver):
    """A parameter."""

    rule: WeightRule

    def check_output(self, output: tuple[int, ...], activation: tuple[int, ...]) -> None:
        """Nothing to check: a parameter has no samples."""

    def teach(self, arrival: Arrival, tap: Tap) -> Tensor:
        """Return what the rule adds to the parameter's gradient."""
        slopes = None if arrival.tangent is None else arrival.slopes()
        return self.rule.update(slopes, tap.kept[0]).to(tap.dtype)
