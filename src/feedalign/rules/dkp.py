"""Direct Kolen-Pollack: direct feedback learned from the error and the activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.rules.base import LearnedRule


@dataclass(frozen=True, repr=False)
class DKP(LearnedRule):
    """Direct Kolen-Pollack: DFA whose feedback receives the gradient that an output weight in its place would.

    `S_l = E B_l` and `G_{B_l} = E^T H_l`, with `E` `[N, C]` the error that the loss gives (its 1/N included), `H_l`
    `[N, D_l]` the activations at the feedback point and `B_l` `[C, D_l]`, a parameter that the user's optimizer trains.
    At the last hidden layer `G_B` is the output weight's own gradient, so that with equal rates and weight decay `b`
    on both `B - W` shrinks by `1 - rate * b` per step and the two become equal; below, it is a heuristic. Decay comes
    from the optimizer: `handle.parameter_groups(weight_decay=1e-6, feedback_decay=1e-6)`.

    Args:
        positions: See `DirectRule`.

    Source: Webster et al. 2021; as a baseline in Bacho & Chu 2022 and 2024, which do not print it. B starts at zero as
    there; `attach(feedback=fa.KaimingUniform())` starts it as Webster et al. do.
    """

    name: ClassVar[str] = "dkp"
    paper: ClassVar[str] = "Webster et al. 2021"
    signal: ClassVar[str] = "e B, B learned"
    reads_activations: ClassVar[bool] = True

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        """Return the error itself, `[..., C]`."""
        del output
        return error

    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        """Return `E^T H`, `[C, D]`."""
        del feedback
        return error.T @ evidence
