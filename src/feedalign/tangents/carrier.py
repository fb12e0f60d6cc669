"""What carries tangents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

CallKey = tuple[str, int]
"""A module's name, and which of its calls in a forward."""


class Carrier(ABC):
    """Carries the tangents of one forward at a time, K of them folded into the batch: `[K * N, ...]`."""

    @abstractmethod
    def begin(self, directions: Mapping[str, Tensor]) -> None:
        """Start a forward.

        Args:
            directions: Perturbations of parameters by name, `[K, *shape]` or `[K, N, *shape]`; none for rules that
                perturb activations.
        """

    @abstractmethod
    def end(self) -> None:
        """End a forward, also one that failed. Twice is once."""

    @abstractmethod
    def arrive(self, call: CallKey, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what a call at a feedback point returned, and its tangent (None: zero)."""

    @abstractmethod
    def leave(self, call: CallKey, activation: Tensor, tangent: Tensor | None) -> Tensor:
        """Return what flows on from a feedback point: the activation, joined to its new tangent."""

    @abstractmethod
    def reach_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output and its tangent (None: zero)."""


class NoCarrier(Carrier):
    """Nothing travels: every perturbation goes no further than the head behind it."""

    def begin(self, directions: Mapping[str, Tensor]) -> None:
        """See `Carrier`."""

    def end(self) -> None:
        """See `Carrier`."""

    def arrive(self, call: CallKey, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Carrier`."""
        del call
        return activation, None

    def leave(self, call: CallKey, activation: Tensor, tangent: Tensor | None) -> Tensor:
        """See `Carrier`."""
        del call, tangent
        return activation

    def reach_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Carrier`."""
        return output, None
