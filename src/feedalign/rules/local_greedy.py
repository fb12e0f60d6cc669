"""Local greedy activity-perturbed forward gradients, LG-FG-A."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self, get_args

from torch import Tensor

from feedalign.feedback import Draw, ScaledUniform
from feedalign.rules.base import Link, Positions, refuse_unknown
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.rules.targets_from_error import has_form, predict, read_targets, wrong_form


@dataclass(frozen=True)
class LocalGreedy(SlopeRule):
    """LG-FG-A: each hidden layer but the last has a linear head with the output's loss, and FG-A acts within the layer.

    At feedback points 1 ... L-2 a head `Z_l = H_l C_l^T + c_l` predicts the targets under the same loss. With
    `E^l = dJ^l/dZ_l` and `U_l` `[N, D_l]` drawn per sample and unit,

        d_n = E^l[n] . (U_l C_l^T)[n]        S_l = d_n U_l
        G_C = E^l^T H_l,  G_c = sum_n E^l[n]  (exact; the heads are parameters for the user's optimizer)

    No signal crosses layers. The last hidden layer, L-1, has FG-A's signal of the global loss through the output layer,
    which is exact. The heads need targets: they are read, with the loss's scale, from the error at the output.

    Args:
        positions: See `DirectRule`; of the heads, which have the shapes of feedback.
        link: What turns the output into a prediction: `"softmax"` (cross-entropy) or `"sigmoid"` (binary
            cross-entropy); the heads' loss is the same. None: a final `nn.Softmax`, `nn.LogSoftmax` or `nn.Sigmoid`
            tells, else `"softmax"`; the backward checks it.
        distribution: Of the perturbations, `"normal"` or `"rademacher"`.
        num_perturbations: Directions per step, averaged.

    Source: Ren et al. 2023; Bacho & Chu 2024, section 2.4.

    Differs from the paper: heads start as `U(+-1/sqrt(D))` with biases of zero.
    """

    positions: Positions = "auto"
    link: Link | None = None

    name: ClassVar[str] = "lg-fg-a"
    paper: ClassVar[str] = "Ren et al. 2023"
    signal: ClassVar[str] = "(e . JU) U, local loss"
    default_draw: ClassVar[Draw] = ScaledUniform()
    learns_feedback: ClassVar[bool] = True
    weight_transport: ClassVar[bool] = True
    reads_output: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown("LocalGreedy", "positions", self.positions, get_args(Positions))
        if self.link is not None:
            refuse_unknown("LocalGreedy", "link", self.link, ("softmax", "sigmoid"))

    def requirement(self, error: Tensor, output: Tensor | None) -> tuple[Tensor, str] | None:
        """Return whether the error is `s * (link(output) - targets)`, and what to do if not."""
        assert output is not None
        link = self.link or "softmax"
        return has_form(error, output, link), wrong_form(link, type(self).__name__)

    def for_output(self, link: Link | None) -> Self:
        """Return the rule with its link settled: the user's word first, then the model's last module's."""
        return replace(self, link=self.link or link or "softmax")

    def targets(self, error: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the targets and the loss's scale that the error at the output shows.

        Args:
            error: dL/dy, `[..., C]`.
            output: y, `[..., C]`.

        Returns:
            Y `[..., C]` and s `[..., 1]`.
        """
        return read_targets(error, output, self.link or "softmax")

    def local_error(self, targets: Tensor, scale: Tensor, local_output: Tensor) -> Tensor:
        """Return the error of a head.

        Args:
            targets: Y, `[..., C]`.
            scale: s, `[..., 1]`.
            local_output: Z, of the targets' shape.

        Returns:
            `E^l = s * (link(Z) - Y)`, of the same shape.
        """
        return scale * (predict(local_output, self.link or "softmax").to(targets.dtype) - targets)
