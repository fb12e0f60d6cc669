"""Direct feedback alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.rules.base import DirectRule


@dataclass(frozen=True, repr=False)
class DFA(DirectRule):
    """Direct feedback alignment: the output error, projected by a fixed random matrix, teaches each layer.

    `S_l = E B_l`, with `E` `[N, C]` the error that the loss gives (its 1/N included) and `B_l` `[C, D_l]`.

    Source: Nokland 2016; Frenkel et al. 2021, Fig. 1C; Launay et al. 2020, Eq. 3; Bacho & Chu 2024, Eq. 6.
    """

    name: ClassVar[str] = "dfa"
    paper: ClassVar[str] = "Nokland 2016"
    signal: ClassVar[str] = "e B"

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        """Return the error itself, `[..., C]`."""
        del output
        return error
