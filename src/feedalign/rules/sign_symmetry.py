"""Sign-symmetric feedback: the feedback weights share the signs of the forward ones, not their magnitudes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.feedback import Draw, ScaledUniform
from feedalign.rules.base import LayerwiseRule
from feedalign.transforms import is_plain


@dataclass(frozen=True)
class USF(LayerwiseRule):
    """Uniform sign-concordant feedback: `B = scale * sign(W)`.

    Args:
        scale: The one magnitude of all feedback weights; None: `1 / sqrt(3 * fan_in)`, the root mean square of
            torch's own initial weights, so that signals start on backprop's scale.

    Source: Liao, Leibo & Poggio 2016.

    Differs from the paper: it uses a magnitude of 1 and relies on batch normalization or sign-only updates to
    absorb it; `scale=1.0` is that.
    """

    scale: float | None = None

    name: ClassVar[str] = "usf"
    paper: ClassVar[str] = "Liao, Leibo & Poggio 2016"
    signal: ClassVar[str] = "delta s sign(W)"
    weight_transport: ClassVar[bool] = True
    draws_feedback: ClassVar[bool] = False

    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        """Return `scale * sign(weight)`, of the weight's shape `[out, in, ...]`."""
        del drawn
        fan_in = math.prod(weight.shape[1:])
        # In place here and below: another matrix beside the first costs more than the arithmetic.
        return weight.sign().mul_(self.scale if self.scale is not None else 1.0 / math.sqrt(3 * fan_in))


@dataclass(frozen=True)
class FRSF(LayerwiseRule):
    """Fixed random-magnitude sign-concordant feedback: `B = |M| * sign(W)`, M drawn once.

    Source: Liao, Leibo & Poggio 2016.

    Differs from the paper: M is uniform in `+-1/sqrt(fan_in)` rather than of unit size, for the reason given at
    `USF`.
    """

    name: ClassVar[str] = "frsf"
    paper: ClassVar[str] = "Liao, Leibo & Poggio 2016"
    signal: ClassVar[str] = "delta |M| sign(W)"
    weight_transport: ClassVar[bool] = True
    default_draw: ClassVar[Draw] = ScaledUniform()

    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        """Return `|drawn| * sign(weight)`, of the weight's shape `[out, in, ...]`."""
        assert drawn is not None
        return _with_signs(drawn, weight)


@dataclass(frozen=True)
class BRSF(LayerwiseRule):
    """Batch-wise random-magnitude sign-concordant feedback: `B = |M| * sign(W)`, M drawn anew at every forward.

    M is a pure function of a seed and a count of forwards, both buffers: a resumed run and every rank of a distributed
    run draw the same numbers, and no global random state is touched. On the CPU M is on 2^16 levels; other devices draw
    other numbers.

    Source: Liao, Leibo & Poggio 2016.

    Differs from the paper: M is uniform in `+-1/sqrt(fan_in)` rather than of unit size, for the reason given at
    `USF`.
    """

    name: ClassVar[str] = "brsf"
    paper: ClassVar[str] = "Liao, Leibo & Poggio 2016"
    signal: ClassVar[str] = "delta |M_t| sign(W)"
    weight_transport: ClassVar[bool] = True
    default_draw: ClassVar[Draw] = ScaledUniform()
    redraws: ClassVar[bool] = True

    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        """Return `|drawn| * sign(weight)`, of the weight's shape `[out, in, ...]`."""
        assert drawn is not None
        return _with_signs(drawn, weight)


def _with_signs(drawn: Tensor, weight: Tensor) -> Tensor:
    """Return `|drawn| * sign(weight)`, zero where the weight is."""
    signs = weight.sign()
    # Under vmap what was drawn may stand for several models, and the weight for one.
    product = signs.mul_(drawn) if is_plain() else signs * drawn
    return product.copysign_(weight)
