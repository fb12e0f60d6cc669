"""Where cameras are: poses that are read, and those of a film."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign_lab.errors import CorruptFileError, SceneError
from feedalign_lab.scenes.scene import Scene

_ROUNDING = 1e-3
_NEARLY_ONE = 0.99
_SWAY = 0.5


def checked_pose(matrix: object, where: str) -> Tensor:
    """Read a pose.

    Args:
        matrix: 4 x 4 or 3 x 4 numbers: the directions to the right, up and backwards as columns, and the place.
        where: Where it stands, for the sentence.

    Returns:
        float32 `[3, 4]`.

    Raises:
        CorruptFileError: These are not so many numbers.
        SceneError: The directions are not at right angles and of length 1, or it stands on its side.
    """
    try:
        values = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape not in {(4, 4), (3, 4)} or not np.isfinite(values).all():
        raise CorruptFileError(f'"transform_matrix" of {where} is not 4x4 or 3x4 numbers.')
    if values.shape == (4, 4) and not np.allclose(values[3], (0, 0, 0, 1)):
        raise SceneError(
            f"The last row of the pose of {where} is {values[3].tolist()} and not 0, 0, 0, 1: it may be transposed; "
            "the place of the camera is the last column."
        )
    turn = values[:3, :3]
    # Numbers near the largest that there are become infinite on the way, and are none of a rotation.
    with np.errstate(over="ignore", invalid="ignore"):
        is_rotation = np.allclose(turn.T @ turn, np.eye(3), atol=_ROUNDING) and np.linalg.det(turn) >= 0
        lengths = ", ".join(f"{length:.3g}" for length in np.linalg.norm(turn, axis=0))
    if not is_rotation:
        raise SceneError(
            f"The pose of {where} is no plain rotation: its directions have lengths {lengths}, or are not at right "
            "angles, or mirrored. Cameras that are scaled, skewed or mirrored are not supported; save poses without."
        )
    return torch.from_numpy(values[:3]).float()


def turn_around(scene: Scene, num_frames: int) -> Tensor:
    """Poses of a film: once around the scene or, where all cameras look the same way, a sway in front of it.

    Args:
        scene: The scene.
        num_frames: How many.

    Returns:
        `[num_frames, 3, 4]`.
    """
    poses = scene.train.poses.double().cpu()
    angles = torch.arange(num_frames, dtype=torch.float64) * (2 * math.pi / num_frames)
    places, target, up = _sway(poses, angles, scene.focus) if scene.is_forward else _circle(poses, angles)
    return torch.stack([looking_at(place, target, up) for place in places]).float()


def looking_at(place: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """The pose of a camera.

    Args:
        place: Where it is, `[3]`.
        target: What it looks at, `[3]`.
        up: Roughly where up is, `[3]`.

    Returns:
        `[3, 4]`.
    """
    backwards = F.normalize(place - target, dim=0)
    right = F.normalize(torch.linalg.cross(up, backwards), dim=0)
    return torch.stack([right, torch.linalg.cross(backwards, right), backwards, place], 1)


def _circle(poses: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At the cameras' mean height and distance around the point that they all look at."""
    places, backwards = poses[:, :, 3], poses[:, :, 2]
    target = nearest_point(places, backwards)
    up = F.normalize(poses[:, :, 1].mean(0), dim=0)
    offsets = places - target
    height = (offsets @ up).mean()
    radius = (offsets.norm(dim=1).mean() ** 2 - height**2).clamp_min(0).sqrt()
    # Any direction at right angles to up will do; the one least along it is the most exact.
    axis = torch.eye(3, dtype=poses.dtype)[int(up.abs().argmin())]
    one = F.normalize(torch.linalg.cross(up, axis), dim=0)
    other = torch.linalg.cross(up, one)
    around = angles.cos()[:, None] * one + angles.sin()[:, None] * other
    return target + height * up + radius * around, target, up


def _sway(poses: Tensor, angles: Tensor, focus: float) -> tuple[Tensor, Tensor, Tensor]:
    """An ellipse half as wide as the cameras stand apart, all frames looking at the same point."""
    middle = poses.mean(0)
    right, up, backwards = (F.normalize(middle[:, column], dim=0) for column in range(3))
    offsets = poses[:, :, 3] - middle[:, 3]
    wide, high = _SWAY * (offsets @ right).abs().max(), _SWAY * (offsets @ up).abs().max()
    around = wide * angles.cos()[:, None] * right + high * angles.sin()[:, None] * up
    return middle[:, 3] + around, middle[:, 3] - focus * backwards, up


def distance_to_scene(poses: Tensor) -> float | None:
    """How far cameras are, on average, from the point that they all look at.

    Args:
        poses: `[V, 3, 4]`.

    Returns:
        The distance; None where they look in nearly the same direction, so that there is no such point.
    """
    places, backwards = poses[:, :, 3].double().cpu(), poses[:, :, 2].double().cpu()
    # Squared parts of the directions along three axes, which add up to one: a single large one means nearly one line.
    if float(torch.linalg.eigvalsh(backwards.T @ backwards / len(backwards))[-1]) > _NEARLY_ONE:
        return None
    return float((places - nearest_point(places, backwards)).norm(dim=1).mean())


def nearest_point(places: Tensor, directions: Tensor) -> Tensor:
    """The point nearest to lines, in the least squares.

    Args:
        places: A point on each, `[V, 3]`.
        directions: Where each goes, of length 1, `[V, 3]`.

    Returns:
        `[3]`; where lines are parallel, the nearest of all such points to the origin.
    """
    across = torch.eye(3, dtype=places.dtype) - directions[:, :, None] * directions[:, None, :]
    nearest: Tensor = torch.linalg.pinv(across.sum(0), rtol=1e-6) @ (across @ places[:, :, None]).sum(0)[:, 0]
    return nearest
