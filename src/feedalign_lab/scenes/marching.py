"""Ray marching: from what the network says of points to the colour of a ray."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Behind the last sample there is nothing more to see: what is there counts whole.
_ENDLESS = 1e10


@dataclass(frozen=True, eq=False)
class Marched:
    """What rays saw.

    Attributes:
        colours: `[R, 3]`, from 0 to 1.
        weights: How much each sample counts, `[R, S]`.
        opacity: The sum of a ray's weights, `[R]`.
    """

    colours: Tensor
    weights: Tensor
    opacity: Tensor


def march(
    raw: Tensor, depths: Tensor, lengths: Tensor, background: float | None, noise: Tensor | None = None
) -> Marched:
    """Add up the light along rays.

    A sample of density s over a stretch of length d stops the share `1 - exp(-s d)` of the light that comes from behind
    it and adds as much of its own colour.

    Args:
        raw: What the network says of each sample: three colours before their sigmoid and the density before its
            rectifier, `[R, S, 4]`.
        depths: Rising, `[R, S]`.
        lengths: Of one unit of depth, `[R]`.
        background: Brightness behind everything; None for black.
        noise: Added to the density before its rectifier, `[R, S]`; None for none.

    Returns:
        What the rays saw.

    Source: Mildenhall et al. (2020), equation 3; the last stretch is endless, as in its code.
    """
    colours = raw[..., :3].sigmoid()
    density = (raw[..., 3] if noise is None else raw[..., 3] + noise).relu()
    ends = torch.full_like(depths[:, :1], _ENDLESS)
    stretches = torch.cat([depths[:, 1:] - depths[:, :-1], ends], -1) * lengths[:, None]
    thickness = density * stretches
    before = torch.cat([torch.zeros_like(depths[:, :1]), thickness[:, :-1].cumsum(-1)], -1)
    weights = (-before).exp() * -torch.expm1(-thickness)
    seen, opacity = (weights[..., None] * colours).sum(1), weights.sum(-1)
    if background is not None:
        seen = seen + background * (1 - opacity)[:, None]
    return Marched(seen, weights, opacity)
