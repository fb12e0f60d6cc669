"""Where along a ray the network is asked."""

import torch
from torch import Generator, Tensor

# Keeps a density of samples from vanishing, so that empty rays are sampled evenly.
_LEAST_WEIGHT = 1e-5


def stratified(
    num_rays: int, num_samples: int, near: float, far: float, like: Tensor, draws: Generator | None
) -> Tensor:
    """Depths spread evenly from near to far, each moved at random within its own stretch.

    Args:
        num_rays: How many rays.
        num_samples: Depths on each, at least 2.
        near: The first depth.
        far: The last.
        like: Gives dtype and device.
        draws: A CPU generator, which is advanced; None leaves the depths evenly spread.

    Returns:
        Rising depths, `[R, S]`.

    Source: Mildenhall et al. (2020), equation 2. Differs from the paper, as its code does: stretches meet half way
    between evenly spread depths that begin and end at near and far.
    """
    even = torch.linspace(near, far, num_samples, dtype=like.dtype, device=like.device)
    if draws is None:
        return even.expand(num_rays, num_samples)
    middles = (even[1:] + even[:-1]) / 2
    lower, upper = torch.cat([even[:1], middles]), torch.cat([middles, even[-1:]])
    return lower + (upper - lower) * _uniform((num_rays, num_samples), like, draws)


def hierarchical(depths: Tensor, weights: Tensor, num_samples: int, draws: Generator | None) -> Tensor:
    """More depths where a first look saw something, drawn from its weights as a density constant between them.

    Args:
        depths: Of the first look, rising, `[R, S]` with S at least 3.
        weights: How much each of them counts in the colour of its ray, `[R, S]`.
        num_samples: How many more.
        draws: A CPU generator, which is advanced; None takes evenly spread quantiles.

    Returns:
        Old and new depths together, rising, `[R, S + num_samples]`, without a graph.

    Source: Mildenhall et al. (2020), section 5.2, equation 5: the density is constant between the middles of the first
    depths and takes the weights of all but the outermost, as in its code.
    """
    with torch.no_grad():
        edges = (depths[:, 1:] + depths[:, :-1]) / 2
        density = weights[:, 1:-1] + _LEAST_WEIGHT
        share = (density / density.sum(-1, keepdim=True)).cumsum(-1)
        below = torch.cat([torch.zeros_like(share[:, :1]), share], -1)
        quantiles = _quantiles(depths, num_samples, draws)
        right = torch.searchsorted(below, quantiles, right=True).clamp(1, below.shape[1] - 1)
        low, high = below.gather(1, right - 1), below.gather(1, right)
        part = ((quantiles - low) / (high - low).clamp_min(torch.finfo(depths.dtype).tiny)).clamp(0, 1)
        left_edge, right_edge = edges.gather(1, right - 1), edges.gather(1, right)
        drawn = left_edge + part * (right_edge - left_edge)
        return torch.cat([depths, drawn], -1).sort(-1).values


def _quantiles(depths: Tensor, num_samples: int, draws: Generator | None) -> Tensor:
    shape = (depths.shape[0], num_samples)
    if draws is not None:
        return _uniform(shape, depths, draws)
    even = torch.linspace(0, 1, num_samples, dtype=depths.dtype, device=depths.device)
    return even.expand(shape).contiguous()


def _uniform(shape: tuple[int, int], like: Tensor, draws: Generator) -> Tensor:
    # Drawn on the CPU whatever the device, so that a seed means the same samples everywhere.
    return torch.rand(shape, dtype=like.dtype, generator=draws).to(like.device)
