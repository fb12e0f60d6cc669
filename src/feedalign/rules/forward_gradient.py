"""What forward gradients share: the slope of the loss along a perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from feedalign.rules.base import Perturbing, PointRule


def slope_per_sample(error: Tensor, tangent: Tensor, num_perturbations: int) -> Tensor:
    """Return the directional derivative of each sample's share of the loss, `d_n = sum_o E[n, o] D_L[n, o]`.

    Args:
        error: dL/dy, `[N, ...]`.
        tangent: Tangent of the output, `[K * N, ...]`, the K perturbations one after the other.
        num_perturbations: K.

    Returns:
        `[K, N]`.
    """
    shape = (error.shape[0], math.prod(error.shape[1:]))
    return (tangent.reshape(num_perturbations, *shape) * error.reshape(1, *shape)).sum(-1)


def along(slope: Tensor, direction: Tensor) -> Tensor:
    """Return `slope * direction`, averaged over the K perturbations.

    Args:
        slope: `[K]` or `[K, N]`.
        direction: `[K, ...]` or `[K, N, ...]`.

    Returns:
        The mean over K.
    """
    shape = (*slope.shape, *[1] * (direction.dim() - slope.dim()))
    if slope.shape[0] == 1:
        return direction[0] * slope.reshape(shape)[0]
    return (direction * slope.reshape(shape)).mean(0)


@dataclass(frozen=True)
class SlopeRule(Perturbing, PointRule):
    """A rule whose teaching signal is the perturbation of an activation times the slope of a loss along it."""

    def teach(self, slope: Tensor, perturbation: Tensor) -> Tensor:
        """Return the teaching signal of one feedback point, `S_l = d_n U_l[n]`, averaged over perturbations.

        Args:
            slope: d, `[K, N]`.
            perturbation: What the activation was perturbed by, `[K * N, ...]`.

        Returns:
            `[N, ...]`, of the activation's shape.
        """
        return along(slope, perturbation.unflatten(0, slope.shape))
