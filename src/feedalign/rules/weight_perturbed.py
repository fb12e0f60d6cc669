"""Weight-perturbed forward gradients, FG-W."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from feedalign.rules.base import Perturbing, WeightRule, refuse_unknown
from feedalign.rules.forward_gradient import along

Per = Literal["batch", "sample"]


@dataclass(frozen=True)
class WeightPerturbed(Perturbing, WeightRule):
    """FG-W: every weight is perturbed, and the slope of the loss along the perturbation multiplies it.

    `V` of the shape of each trainable parameter, the output layer's included; the tangent `D_L` of the output along all
    of them at once gives the slope `d_n = E[n] . D_L[n]`, and

        G = (sum_n d_n) V          (per="batch": one direction for all samples, as the authors' code)
        G = sum_n d_n V[n]         (per="sample", as in the paper)

    with the loss's 1/N in `E`. Nothing runs backward through the network: no graph is kept.

    Args:
        per: One direction per `"batch"`, or one per `"sample"`, which draws N times as many numbers and takes N times
            the memory of the parameters.
        distribution: Of the perturbations, `"normal"` or `"rademacher"`.
        num_perturbations: Directions per step, averaged.

    Source: Baydin et al. 2022; Bacho & Chu 2024, Eqs. 2 and 3, Algorithm 2.
    """

    per: Per = "batch"

    name: ClassVar[str] = "fg-w"
    paper: ClassVar[str] = "Baydin et al. 2022"
    signal: ClassVar[str] = "(e . JV) V"
    weight_transport: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown("WeightPerturbed", "per", self.per, get_args(Per))

    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        """Return the slope times the direction, averaged over perturbations and summed over samples."""
        assert slope is not None
        if self.per == "sample":
            return along(slope, direction).sum(0)
        return along(slope.sum(-1), direction)
