"""Activity-perturbed forward gradients, FG-A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from feedalign.rules.base import refuse_unknown
from feedalign.rules.forward_gradient import SlopeRule

OutputLayer = Literal["exact", "perturbed"]


@dataclass(frozen=True)
class ActivityPerturbed(SlopeRule):
    """FG-A: every activation is perturbed, and each sample's slope of the loss along it multiplies the perturbation.

    `U_l` `[N, D_l]` is drawn per sample and unit at every feedback point, all in one pass; `D_L` is the tangent at the
    output, `d_n = E[n] . D_L[n]`, and `S_l = d_n U_l`. A sample's slope sees its own output only: where samples meet,
    as in batch normalization, what one does to the others is left out.

    Args:
        output: The output layer's gradient is `"exact"`, or `"perturbed"` too: `U_L` is added to the output's tangent
            and `S_L = d_n U_L`.
        distribution: Of the perturbations, `"normal"` or `"rademacher"`.
        num_perturbations: Directions per step, averaged.

    Source: Ren et al. 2023; Bacho & Chu 2024, Eqs. 4 and 5, Algorithm 3.

    Differs from the paper: Algorithm 3 updates the output layer with a perturbation that was never injected, which has
    mean zero; here it is injected, or the layer is exact.
    """

    output: OutputLayer = "exact"

    name: ClassVar[str] = "fg-a"
    paper: ClassVar[str] = "Ren et al. 2023"
    signal: ClassVar[str] = "(e . JU) U"
    weight_transport: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown("ActivityPerturbed", "output", self.output, get_args(OutputLayer))
