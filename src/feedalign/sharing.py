"""One matrix for several feedback points, each of which takes its first columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from feedalign.arrival import Arrival, Tap
from feedalign.feedback import SharedSlice
from feedalign.placement import Placement
from feedalign.receivers import DirectReceiver


@dataclass(frozen=True)
class Share:
    """A point's part in a matrix that is held once.

    Attributes:
        holder: Name of the point whose own matrix holds all others: the widest.
        gain: What the point's columns of it are multiplied with.
    """

    holder: str
    gain: float


def shares_of(placements: Mapping[str, Placement], draw: SharedSlice) -> dict[str, Share]:
    """Settle who takes whose columns.

    Args:
        placements: How the error meets the activation at each point of one rule.
        draw: How their feedback is drawn.

    Returns:
        By name, the shares of those points that have company.
    """
    # All have the same number of outputs, or nothing was drawn; so they have the same rows of the error, too.
    widths = {name: placement.num_features for name, placement in placements.items()}
    if len(widths) < 2:
        return {}
    holder = max(widths, key=lambda name: widths[name])
    largest = widths[holder]
    return {name: Share(holder, math.sqrt(largest / draw.size(width, largest))) for name, width in widths.items()}


@dataclass(frozen=True)
class SharingReceiver(DirectReceiver):
    """A feedback point whose matrix is the first columns of one that several points have.

    The error meets that matrix once, and each point takes its columns of the product: one product in the place of
    one per point, and one tensor in the place of all signals.

    Attributes:
        share: The point's part in the matrix.
    """

    share: Share

    def projected(self, arrival: Arrival, tap: Tap) -> Tensor:
        """See `DirectReceiver`."""
        matrix = tap.held[0]

        def multiply() -> Tensor:
            return self.placement.rows(self.vector(arrival, tap)).to(tap.dtype) @ self.used(matrix).to(tap.dtype)

        # Under autocast, points differ in their precision.
        product = arrival.once((self.rule, self.share.holder, tap.dtype), multiply)
        return self.placement.deliver(self.own(product), tap.shape)

    def own(self, held: Tensor) -> Tensor:
        """Return the point's columns of what all share: a view of it where there is nothing to scale."""
        columns = held[:, : self.placement.num_features]
        return columns if self.share.gain == 1 else columns * self.share.gain
