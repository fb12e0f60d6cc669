"""What one backward brings to the broadcast node, and what each receiver finds there of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.placement import FeatureAxis, features_last
from feedalign.rules.forward_gradient import slope_per_sample


@dataclass
class Arrival:
    """What one backward brings to the node, and what several receivers make of it, made once.

    Attributes:
        error: dL/dy, of the output's shape.
        output: y; None where no rule reads it.
        tangent: Tangent of y, `[K * N, ...]`; None without perturbations.
        num_perturbations: K.
        error_axis: Where the features of all three are.
    """

    error: Tensor
    output: Tensor | None
    tangent: Tensor | None
    num_perturbations: int
    error_axis: FeatureAxis
    made: dict[object, Tensor] = field(default_factory=dict)

    def features(self) -> Tensor:
        """The error, `[..., C]`."""
        return features_last(self.error, self.error_axis)

    def seen(self) -> Tensor | None:
        """The output, `[..., C]`."""
        return None if self.output is None else features_last(self.output, self.error_axis)

    def once(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        """Return what was made under a key, made now if it was not."""
        made = self.made.get(key)
        if made is None:
            made = self.made[key] = make()
        return made

    def slopes(self) -> Tensor:
        """Directional derivative of the loss for each perturbation and sample, `[K, N]`."""
        assert self.tangent is not None
        tangent = self.tangent
        return self.once("slopes", lambda: slope_per_sample(self.error, tangent, self.num_perturbations))


class Tap(NamedTuple):
    """One receiver's tensors in a backward.

    Attributes:
        held: Its feedback: a matrix, a head.
        kept: What it gathered in the forward.
        valid: Which steps of a sequence count, `[N, T]`; None: all.
        activation: At the feedback point; None unless the receiver reads it.
        shape: Of what the signal is for.
        dtype: Of what the signal is for, in which products are computed.
    """

    held: Sequence[Tensor]
    kept: Sequence[Tensor]
    valid: Tensor | None
    activation: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
