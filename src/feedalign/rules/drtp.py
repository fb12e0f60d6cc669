"""Direct random target projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Self

from torch import Tensor

from feedalign.rules.base import DirectRule, Link, refuse_unknown
from feedalign.rules.targets_from_error import has_form, read_targets, wrong_form


@dataclass(frozen=True, repr=False)
class DRTP(DirectRule):
    """Direct random target projection: the one-hot target stands for the error, `S_l = -s * Y B_l`.

    It is DFA's signal with the prediction left out of `E = s * (prediction - Y)`. Two modes:

    * from the error alone: `loss.backward()` as ever. Target and scale `s` (1/N of a mean, a GradScaler's
      factor, a weight per sample) are read from the error and the output, for softmax and sigmoid outputs with
      hard targets. A sample whose error underflowed to zero sends no signal.
    * streaming: `handle.targets(y, scale=...)` before the forward. Each layer's gradient is made the moment its
      activation exists (`S_l = -s * B_l[y]`, a row of the feedback) and its graph is freed, so that activation
      memory does not grow with depth.

    Args:
        positions: See `DirectRule`.
        link: What turns the output into a prediction: `"softmax"` (cross-entropy) or `"sigmoid"` (binary
            cross-entropy). None: a final `nn.Softmax`, `nn.LogSoftmax` or `nn.Sigmoid` tells, else `"softmax"`; the
            backward checks it.
        allow_unbounded: Accept activations that do not saturate (ReLU and its kin). The signal never fades, so
            that their layers grow without bound; saturation is what stops DRTP's learning.

    Source: Frenkel et al. 2021, Algorithm 1 (its sign; the Supplementary Note's is B -> -B).

    Differs from the paper: hidden layers carry the loss's own scale (1/N of a mean, 1/C of a mean over classes),
    where the authors' code sums them over the batch.
    """

    link: Link | None = None
    allow_unbounded: bool = False

    name: ClassVar[str] = "drtp"
    paper: ClassVar[str] = "Frenkel et al. 2021"
    signal: ClassVar[str] = "-s y B"
    update_locked: ClassVar[bool] = False
    streams: ClassVar[bool] = True
    reads_output: ClassVar[bool] = True
    refused_limits: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "error": "what it sends is the target, one class out of all, which has no bits to lose",
            "delay": "its signal waits for no error, since the target is there before the forward",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.link is not None:
            refuse_unknown(type(self).__name__, "link", self.link, ("softmax", "sigmoid"))

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        """Return `-s * Y`, `[..., C]`."""
        assert output is not None
        targets, scale = read_targets(error, output, self.link or "softmax")
        return targets * -scale

    def requirement(self, error: Tensor, output: Tensor | None) -> tuple[Tensor, str] | None:
        """Return whether the error is `s * (link(output) - targets)`, and what to do if not."""
        assert output is not None
        link = self.link or "softmax"
        return has_form(error, output, link), wrong_form(link, type(self).__name__)

    def for_output(self, link: Link | None) -> Self:
        """Return the rule with its link settled: the user's word first, then the model's last module's."""
        return replace(self, link=self.link or link or "softmax")
