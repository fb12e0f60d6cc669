"""Direct feedback alignment with the sign of the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Self, get_args

from torch import Tensor

from feedalign.rules.base import DirectRule, Link, refuse_unknown
from feedalign.rules.targets_from_error import has_form, read_targets, wrong_form


@dataclass(frozen=True, repr=False)
class SignDFA(DirectRule):
    """sDFA: the sign of the error vector is projected, `S_l = s * sign(E) B_l`.

    The sign forgets the loss's scale `s` (1/N of a mean, a GradScaler's factor, a weight per sample), so it is
    read back per sample, `s = |E|_1 / |prediction - target|_1`; the output layer and the hidden ones then stay
    on one scale. A sample whose error underflowed to zero sends no signal.

    Args:
        positions: See `DirectRule`.
        link: What turns the output into a prediction: `"softmax"` (cross-entropy) or `"sigmoid"` (binary
            cross-entropy). None: a final `nn.Softmax`, `nn.LogSoftmax` or `nn.Sigmoid` tells, else `"softmax"`; the
            backward checks it, or `"other"` for any other bounded output, e.g. tanh with squared
            error: there `s` cannot be read and is 1/N, which is right for a mean loss without a GradScaler.

    Source: Frenkel et al. 2021, section 2.1.

    Differs from the paper: the authors' code sums hidden gradients over the batch and averages the output's.
    """

    link: Link | None = None

    name: ClassVar[str] = "sign-dfa"
    paper: ClassVar[str] = "Frenkel et al. 2021"
    signal: ClassVar[str] = "s sign(e) B"
    reads_output: ClassVar[bool] = True
    refused_limits: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"error": "what it sends is signs, of one bit each, which no converter changes"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.link is not None:
            refuse_unknown(type(self).__name__, "link", self.link, get_args(Link))

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        """Return `s * sign(error)`, `[..., C]`."""
        if self.link == "other":
            num_rows = error.numel() // error.shape[-1]
            return error.sign() / max(num_rows, 1)
        assert output is not None
        _, scale = read_targets(error, output, self.link or "softmax")
        return scale * error.sign()

    def requirement(self, error: Tensor, output: Tensor | None) -> tuple[Tensor, str] | None:
        """Return whether the error is `s * (link(output) - targets)`, and what to do if not."""
        if self.link == "other":
            return None
        assert output is not None
        link = self.link or "softmax"
        return has_form(error, output, link), wrong_form(link, type(self).__name__)

    def for_output(self, link: Link | None) -> Self:
        """Return the rule with its link settled: the user's word first, then the model's last module's."""
        return replace(self, link=self.link or link or "softmax")
