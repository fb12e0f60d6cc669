"""Perturbs the forward of a rule that needs directional derivatives, and gathers what its backward needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from feedalign.errors import FeedbackShapeError, TangentLostError, UntaughtLayerError
from feedalign.perturbation import perturbations
from feedalign.store import FeedbackStore
from feedalign.tangents import CallKey, Carrier

# Parameters are numbered from here on; points come before.
_FIRST_PARAMETER = 2048


class Perturber:
    """Draws perturbations, hands them to the carrier and collects them.

    Args:
        model: The model.
        store: Holds the clock that perturbations are drawn by.
        carrier: Carries tangents; None for rules that draw and need no tangent.
        num_perturbations: K.
        points: For each perturbed feedback point the distribution of what it is perturbed by.
        local: Points among them whose perturbation goes no further than a head.
        parameters: Names of perturbed parameters.
        distribution: What parameters, and the output, are perturbed by.
        perturbs_output: The output is perturbed too.
        per_sample: Parameters are perturbed apart for each sample.
    """

    def __init__(
        self,
        model: nn.Module,
        store: FeedbackStore,
        carrier: Carrier | None,
        num_perturbations: int,
        *,
        points: Mapping[CallKey, str],
        local: Sequence[CallKey] = (),
        parameters: Sequence[str] = (),
        distribution: str = "normal",
        perturbs_output: bool = False,
        per_sample: bool = False,
    ) -> None:
        self.model, self.store, self.carrier, self.num_perturbations = model, store, carrier, num_perturbations
        self.points, self.local, self.parameters = dict(points), frozenset(local), tuple(parameters)
        self.streams = {call: number for number, call in enumerate(points, start=1)}
        self.distribution, self.perturbs_output, self.per_sample = distribution, perturbs_output, per_sample
        self.travels = bool(parameters) or perturbs_output or any(call not in local for call in points)
        self._forget()

    def _forget(self) -> None:
        self.clock: Tensor | None = None
        self.drawn: dict[CallKey, Tensor] = {}
        self.directions: dict[str, Tensor] = {}
        self.at_output: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no tensors of a running forward."""
        return {**self.__dict__, "clock": None, "drawn": {}, "directions": {}, "at_output": None}

    def begin(self, args: tuple[Any, ...]) -> None:
        """Start a forward: draw for the parameters and start the carrier."""
        self._forget()
        self.clock = self.store.clock()
        owned = dict(self.model.named_parameters()) if self.parameters else {}
        num_samples = _num_samples(args) if self.per_sample else None
        likes = [_found(owned, name).detach() for name in self.parameters]
        if num_samples is not None:
            likes = [like.expand(num_samples, *like.shape) for like in likes]
        if likes:
            # All at once: together they are worth a thread for each core.
            drawn = self._draw(likes, _FIRST_PARAMETER, self.distribution)
            self.directions = dict(zip(self.parameters, drawn, strict=True))
        if self.carrier is not None:
            self.carrier.begin(self.directions)

    def end(self) -> None:
        """End a forward, also one that failed."""
        if self.carrier is not None:
            self.carrier.end()
        self._forget()

    def pass_point(self, call: CallKey, activation: Tensor) -> tuple[Tensor, Tensor]:
        """Perturb the activation at a feedback point, or let a tangent pass one that is not perturbed.

        Args:
            call: The call.
            activation: What it returned.

        Returns:
            The activation with its graph, and what flows on: the activation, cut off from it, with the new tangent.
        """
        if self.carrier is None:
            return activation, activation.detach()
        activation, tangent = self.carrier.arrive(call, activation)
        # What was drawn ahead is in the tangent already.
        if call in self.points and call not in self.drawn:
            drawn = self._draw([activation], self.streams[call], self.points[call])[0].flatten(0, 1)
            self.drawn[call] = drawn
            if call not in self.local:
                tangent = drawn if tangent is None else tangent + drawn
        return activation, self.carrier.leave(call, activation.detach(), tangent)

    def draw_ahead(self, call: CallKey, activation: Tensor) -> Tensor | None:
        """Draw for a point whose perturbation enters before the point is reached, at every state of a recurrent layer.

        Args:
            call: The call of the point that comes next.
            activation: What it will return, `[N, T, D]`.

        Returns:
            The perturbation, of the activation's shape; None where the point has none, or one for a head alone.
        """
        if call not in self.points or call in self.local:
            return None
        drawn = self._draw([activation], self.streams[call], self.points[call])[0][0]
        self.drawn[call] = drawn
        return drawn

    def reach_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output without its tangent, and the tangent.

        Args:
            output: The output.

        Returns:
            The output, with its graph unless only parameters are perturbed, and its tangent `[K * N, ...]`.

        Raises:
            FeedbackShapeError: The output is a number, without samples.
            TangentLostError: No tangent arrived.
        """
        if self.carrier is None:
            return output, None
        if output.dim() == 0:
            raise FeedbackShapeError(
                "The output is a single number, and the rule needs one row for each sample: if a batch of one was "
                "squeezed, let the model squeeze the last size alone, y.squeeze(-1)."
            )
        output, tangent = self.carrier.reach_output(output)
        # Here, so that perturbed parameters are themselves again before anything is sent to them.
        self.carrier.end()
        if not self.travels:
            return output, None
        if tangent is None:
            raise TangentLostError(
                "No tangent arrived at the output, so nothing can be learned from this forward: a part of the model "
                "ran without forward-mode derivatives, e.g. compiled on its own, or under detach() or no_grad()."
            )
        if self.perturbs_output:
            self.at_output = self._draw([output], 0, self.distribution)[0].flatten(0, 1)
            tangent = tangent + self.at_output
        return (output.detach() if self.parameters else output), tangent

    def _draw(self, likes: Sequence[Tensor], first_stream: int, distribution: str) -> list[Tensor]:
        """For each `[K, *like.shape]`."""
        assert self.clock is not None
        return perturbations(likes, self.num_perturbations, self.clock, first_stream, distribution)


def _found(owned: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in owned:
        raise UntaughtLayerError(
            f"{name} is no parameter of the model any more, so the rule cannot teach it; remove the rule and attach it "
            "again."
        )
    return owned[name]


def _num_samples(args: tuple[Any, ...]) -> int:
    tensors = [arg for arg in args if isinstance(arg, Tensor) and arg.dim() > 0]
    if not tensors:
        raise FeedbackShapeError(
            'fa.WeightPerturbed(per="sample") takes the number of samples from the first tensor that the model is '
            "called with, and there is none among its positional arguments."
        )
    return int(tensors[0].shape[0])
