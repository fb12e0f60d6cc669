"""Views that are there more than once: who trains on one of them has seen the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from feedalign_lab.errors import SceneError
from feedalign_lab.scenes.scene import Views, spread_out

# Of poses, with directions of length 1 and places in units of how far the cameras stand from their middle.
_SAME_PLACE = 1e-5
_NEARLY_SAME_PLACE = 0.05
_MOST_NAMED = 3
_VALIDATION_EVERY = 20


def are_copies(some: Views, others: Views) -> Tensor:
    """Which views show the same: those from the same place, and equal pictures from nearly the same place.

    Args:
        some: A views.
        others: B views.

    Returns:
        bool `[A, B]`, on the CPU.
    """
    poses = [views.poses.double().cpu() for views in (some, others)]
    places = torch.cat(poses)[:, :, 3]
    extent = float((places - places.mean(0)).norm(dim=1).max()) or 1.0
    for pose in poses:
        pose[:, :, 3] /= extent
    apart = (poses[0][:, None] - poses[1][None]).abs().flatten(2).amax(2)
    same: Tensor = apart <= _SAME_PLACE
    for one, other in (~same & (apart <= _NEARLY_SAME_PLACE)).nonzero().tolist():
        same[one, other] = torch.equal(some.pixels[one], others.pixels[other])
    return same


def groups_of_copies(views: Views) -> list[list[int]]:
    """Put copies together.

    Args:
        views: V views.

    Returns:
        Numbers of views, each once, in the order of the first of each group; a view without copies is a group.
    """
    same = are_copies(views, views)
    groups: list[list[int]] = []
    for number in range(len(views)):
        friends = [group for group in groups if bool(same[number, group].any())]
        merged = sorted({number, *(member for group in friends for member in group)})
        groups = sorted([*(group for group in groups if group not in friends), merged])
    return groups


def held_out(views: Views, where: str) -> tuple[Views, Views]:
    """Part training views: one of twenty, evenly spread and at least one, is for validation.

    Copies of a view go where it goes, or what is validated on would have been trained on.

    Args:
        views: All of them.
        where: Where they stand, for the sentence.

    Returns:
        Those to train on and those to validate on.

    Raises:
        SceneError: There are fewer than two that differ.
    """
    groups = groups_of_copies(views)
    count = len(groups)
    if count <= 1:
        copies = ", all of them copies of one" if len(views) > 1 else ""
        raise SceneError(
            f"{where} leaves {len(views)} {'view' if len(views) == 1 else 'views'} for training{copies}, and one is "
            "held out for validation: two or more are needed."
        )
    chosen = spread_out(count, max(1, count // _VALIDATION_EVERY))
    parts = [
        [number for place in range(count) if (place in chosen) is is_one for number in groups[place]]
        for is_one in (False, True)
    ]
    return views.chosen(sorted(parts[0])), views.chosen(sorted(parts[1]))


def remarks_on_copies(train: Views, held_out: Views, part: str) -> Sequence[str]:
    """Say which held-out views are trained on.

    Args:
        train: The training views.
        held_out: Others.
        part: What these are, in words.

    Returns:
        A sentence; nothing where there are none.
    """
    copied = are_copies(held_out, train).any(1).nonzero().flatten().tolist()
    if not copied:
        return ()
    named = ", ".join(held_out.names[number] for number in copied[:_MOST_NAMED])
    more = ", ..." if len(copied) > _MOST_NAMED else ""
    return (
        f"{len(copied)} of {len(held_out)} {part} views are copies of training views ({named}{more}): their score "
        "tells little",
    )
