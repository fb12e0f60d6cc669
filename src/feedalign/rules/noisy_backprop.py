"""Backprop with noise on its gradients: the control for the variance of an estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.errors import AttachError
from feedalign.rules.base import WeightRule


@dataclass(frozen=True)
class NoisyBackprop(WeightRule):
    """Exact backpropagation with Gaussian noise added to the gradient of every parameter: `G = G_BP + std * xi`.

    `xi ~ N(0, 1)`, drawn anew at every forward. The noise is added once per backward and does not scale with the loss.

    Args:
        std: Standard deviation of the noise, at least 0, in units of the gradients.

    Source: Bacho & Chu 2024, Fig. 7 (the control there).
    """

    std: float = 0.01

    name: ClassVar[str] = "noisy-backprop"
    paper: ClassVar[str] = "Bacho & Chu 2024"
    signal: ClassVar[str] = "exact gradient + std xi"
    weight_transport: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.std < float("inf"):
            raise AttachError(f"fa.NoisyBackprop(std={self.std!r}): give a finite number of at least 0.")

    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        """Return `std * xi`."""
        del slope
        return self.std * direction[0]
