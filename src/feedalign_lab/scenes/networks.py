"""The networks that a user can name, and how each is sampled."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.scenes.fields import FieldShape
from feedalign_lab.scenes.names import NETWORK_NAMES

_FULL = FieldShape()
_TINY = FieldShape(width=128, num_layers=2, skips=(), sees_directions=False)


@dataclass(frozen=True)
class Network:
    """What is asked of which network along a ray.

    Attributes:
        fine: Shape of the network whose picture is shown.
        num_even: Samples that are spread evenly.
        coarse: Shape of the network that looks first; None for none, the fine one then has the even samples.
        num_drawn: Samples that the fine one has besides, where the coarse one saw something.
        is_dual: Whether a picture is the average of both networks', each asked at the fine one's samples. Training is
            as without.
        reduce: Side of the squares of pixels that pictures are averaged over before anything else.
        num_iterations: Steps that are called an epoch.
        scored_pixels: Pixels of each held-out view, drawn once, on which results are measured while training; all of
            them where a view has no more.
    """

    fine: FieldShape = _FULL
    num_even: int = 64
    coarse: FieldShape | None = _FULL
    num_drawn: int = 128
    is_dual: bool = False
    reduce: int = 1
    num_iterations: int = 500
    scored_pixels: int = 2048


_NETWORKS: Mapping[str, Network] = {
    "nerf": Network(),
    "nerf-tiny": Network(
        fine=_TINY, num_even=32, coarse=None, num_drawn=0, reduce=2, num_iterations=1000, scored_pixels=10_000
    ),
    "nerf-dual": Network(is_dual=True),
    "nerf-xl": Network(fine=replace(_FULL, width=512)),
}


def network_of(name: str) -> Network:
    """The network of a name.

    Args:
        name: A name out of `names.NETWORK_NAMES`.

    Returns:
        What it consists of.

    Raises:
        UnknownNameError: There is none of that name for scenes.

    Source: Launay et al. (2020): section 3.1.1 (`nerf`; numbers of samples from its public code), appendix B
    (`nerf-tiny`: three layers of half the width, no directions, no coarse network, half the resolution; 32 samples from
    its public code), appendix E (`nerf-dual` and `nerf-xl`).
    """
    if name not in _NETWORKS:
        raise UnknownNameError("network for scenes", name, NETWORK_NAMES)
    return _NETWORKS[name]
