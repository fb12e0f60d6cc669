"""Feedback alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.rules.base import LayerwiseRule


@dataclass(frozen=True)
class FA(LayerwiseRule):
    """Feedback alignment: the input gradient of each layer is made with a fixed random weight.

    `S_l = delta_{l+1} R_{l+1}` in the place of `delta_{l+1} W_{l+1}`, where `R` has the shape of `W`
    (`[out, in]`, for convolutions `[out, in / groups, k, ...]`) and `delta` is itself an FA signal.
    Each `nn.Linear`, `nn.Conv1d/2d/3d` and Transformers' `Conv1D` right above a layer that learns so has an `R`; the
    first layer and embeddings send nothing back and have none.

    Source: Lillicrap et al. 2016; Frenkel et al. 2021, Fig. 1B (R Kaiming uniform on the shape of W).
    """

    name: ClassVar[str] = "fa"
    paper: ClassVar[str] = "Lillicrap et al. 2016"
    signal: ClassVar[str] = "delta R"

    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        """Return the drawn weight, `[out, in, ...]`, as it is."""
        del weight
        assert drawn is not None
        return drawn
