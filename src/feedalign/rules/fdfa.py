"""Directional DFA: direct feedback learned from directional derivatives of the forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from feedalign.errors import AttachError
from feedalign.rules.base import EstimatingRule, refuse_unknown

Update = Literal["adam", "ema"]
Projects = Literal["old", "new"]

DEFAULT_RATE = 0.01


@dataclass(frozen=True, repr=False)
class FDFA(EstimatingRule):
    """Forward direct feedback alignment, first named Directional DFA: each B_l learns the Jacobian of the output.

    One tangent travels with the forward. Each activation at a feedback point is perturbed by `V_l` `[N, D_l]`, drawn
    per sample and unit, all points in one pass; `D_L` `[N, C]` is the tangent that arrives at the output, which is not
    perturbed itself. Then

        T_l = (1/N) D_L^T V_l        (its mean is the Jacobian dy_L/dy_l, averaged over the batch)
        G_{B_l} = B_l - T_l          (update="adam": B_l is a parameter, trained by the user's optimizer)
        B_l <- (1 - a) B_l + a T_l   (update="ema": done in the forward, in training mode)
        S_l = E B_l

    Weights above a layer reach its update through B alone, so with the old B not those of the same step.

    `G_B` does not depend on the loss: a factor on the loss, such as a GradScaler's, leaves it as it is, so that
    unscaling makes it small. Adam does not mind while it stays above its eps; with a GradScaler prefer `"ema"`.

    Args:
        positions: See `DirectRule`.
        update: `"adam"`: B is a parameter for the user's optimizer (both papers use Adam at 1e-4 on it), or `"ema"`:
            an exponential average, kept as a buffer.
        rate: a of `"ema"`, in (0, 1]; None: 0.01. Under `"adam"` the rate is the optimizer's.
        projects: Which B makes the signals of this step: `"old"`, that of before the update, as the authors' code, or
            `"new"`, as Algorithm 1 of the 2024 paper; the latter with `"ema"` only, since an optimizer steps later.
        distribution: Of the perturbations, `"normal"` or `"rademacher"`.
        num_perturbations: Directions per step, averaged.

    Source: Bacho & Chu 2022, where it is Directional DFA, and 2024, where it is FDFA: there Eqs. 7, 8 and 11 and
    Algorithm 1.

    Differs from the paper: the sign in Algorithm 1, line 22, is mended; the printed mean squared error would give twice
    `G_B`, which its rate absorbs.
    """

    update: Update = "adam"
    rate: float | None = None
    projects: Projects = "old"

    name: ClassVar[str] = "fdfa"
    paper: ClassVar[str] = "Bacho & Chu 2024"
    signal: ClassVar[str] = "e B, B learned"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown("FDFA", "update", self.update, get_args(Update))
        refuse_unknown("FDFA", "projects", self.projects, get_args(Projects))
        if self.rate is not None and not 0 < self.rate <= 1:
            raise AttachError(
                f"fa.FDFA(rate={self.rate!r}): the rate of the exponential average lies above 0 and is at most 1."
            )
        if self.rate is not None and self.update == "adam":
            raise AttachError(
                f'fa.FDFA(rate={self.rate!r}) is a rate of update="ema"; with update="adam" the feedback has the '
                "optimizer's: handle.parameter_groups(feedback_lr=...)."
            )
        if self.projects == "new" and self.update == "adam":
            raise AttachError(
                'fa.FDFA(projects="new") needs update="ema": with update="adam" the feedback changes when the '
                "optimizer steps, after the signals were made."
            )

        if self.limits.delay and self.update == "ema":
            raise AttachError(
                f'fa.FDFA(update="ema", limits={self.limits!r}): the average moves in the forward, which waits for no '
                'error, while its signals would be late; give update="adam", whose gradients wait, or no delay.'
            )

    @property
    def keeps_average(self) -> bool:
        """Whether `update` is `"ema"`."""
        return self.update == "ema"

    @property
    def projects_average(self) -> bool:
        """Whether `projects` is `"new"`."""
        return self.projects == "new"

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        """Return the error itself, `[..., C]`."""
        del output
        return error

    def estimate(self, tangent: Tensor, perturbation: Tensor, num_terms: int) -> Tensor:
        """Return `T`, the estimate of the Jacobian: one product.

        Args:
            tangent: `[R, C]`.
            perturbation: `[R, D]`.
            num_terms: Over how many products of the two the mean goes.

        Returns:
            `[C, D]`.
        """
        return (tangent / num_terms).T @ perturbation

    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        """Return `B - T`, `[C, D]`."""
        del error
        return feedback - evidence

    def averaged(self, feedback: Tensor, estimate: Tensor) -> Tensor:
        """Return `(1 - rate) B + rate T`, `[C, D]`."""
        return feedback.lerp(estimate, DEFAULT_RATE if self.rate is None else self.rate)


DirectionalDFA = FDFA
"""The rule's first name (Bacho & Chu 2022)."""
