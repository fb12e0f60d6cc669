"""Scenes that all cameras face, as the tools of LLFF write them: `poses_bounds.npy` and pictures."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feedalign_lab.errors import CorruptFileError, MissingDataError, SceneError
from feedalign_lab.scenes.copies import held_out
from feedalign_lab.scenes.pictures import read_pictures
from feedalign_lab.scenes.poses import checked_pose, looking_at
from feedalign_lab.scenes.scene import Camera, Scene, Views
from feedalign_lab.task import Tell, silent

_NAME = "poses_bounds.npy"
_COLUMNS = 17
_ENDINGS = {".png", ".jpg", ".jpeg"}
# Reduced by the tools themselves, or else here.
_FOLDERS = (("images_4", 1), ("images_8", 1), ("images", 4))
_TEST_EVERY = 8
# The code of Mildenhall et al. (2020): the nearest point is put this much behind the plane where bent rays begin.
_NEAREST = 1 / 0.75
_CLOSE, _FAR, _SHARE_OF_FAR = 0.9, 5.0, 0.75


def load_llff(name: str, folder: Path, reduce: int = 1, tell: Tell = silent) -> Scene:
    """Read a scene that was photographed from one side.

    Pictures are those in `images_4`, else `images_8`, else those in `images` averaged over 4 x 4 pixels; there is one
    for each row of `poses_bounds.npy`, in the order of their names. Every eighth view, from the first, is for testing;
    one of twenty others for validation. Poses are centred and scaled as in the code of Mildenhall et al. (2020), and
    rays are bent so that infinity is at their end.

    Args:
        name: What the user typed.
        folder: Where the files are.
        reduce: Side of the squares of pixels to average over, besides.
        tell: Told how far the reading is.

    Returns:
        The scene.

    Raises:
        MissingDataError: A file or folder is not there.
        CorruptFileError: A file is not what it should be.
        SceneError: Views, poses or the camera do not go together.
    """
    path = folder / _NAME
    table = _table(path)
    pictures_folder, own_reduce = _pictures_folder(folder)
    paths = sorted(file for file in pictures_folder.iterdir() if file.suffix.lower() in _ENDINGS)
    if len(paths) != len(table):
        raise SceneError(
            f"{path} has {len(table)} poses and {pictures_folder} {len(paths)} pictures: one pose is needed for each "
            "picture, in the order of their names."
        )
    camera = _camera(table, path)
    factor = own_reduce * reduce
    pictures = read_pictures(paths, factor, tell)
    camera = camera.fitted(pictures.full_size, str(path)).reduced(factor)
    poses, bounds = _poses(table, path)
    views = Views(tuple(file.name for file in paths), torch.from_numpy(pictures.pixels), poses)
    is_test = [number % _TEST_EVERY == 0 for number in range(len(paths))]
    rest = views.chosen([number for number, is_one in enumerate(is_test) if not is_one])
    train, validation = held_out(rest, str(path))
    return Scene(
        name=name,
        camera=camera,
        train=train,
        validation=validation,
        test=views.chosen([number for number, is_one in enumerate(is_test) if is_one]),
        near=0.0,
        far=1.0,
        background=1.0 if pictures.are_transparent else None,
        is_forward=True,
        focus=_focus(bounds),
    )


def _table(path: Path) -> NDArray[np.float64]:
    """Rows of 3 x 5 numbers of the pose and camera, and the nearest and farthest depth."""
    try:
        # Mapped, so that no room is made for more than there is; what is used of it is copied below.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingDataError(f"There is no {path}: it holds the poses, and images beside it the pictures.") from error
    except Exception as error:
        # The header is a line of Python, which numpy hands to Python's own parsers: they raise nearly anything.
        raise CorruptFileError(f"{path} cannot be read as an array ({error}): it may be cut short.") from error
    is_numeric = isinstance(table, np.ndarray) and table.dtype.kind in "fiu"
    if not is_numeric or table.ndim != 2 or table.shape[1] != _COLUMNS:
        found = f"{table.dtype} {list(table.shape)}" if isinstance(table, np.ndarray) else "several arrays"
        raise CorruptFileError(f"{path} holds {found}: one row of {_COLUMNS} numbers for each picture is expected.")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(1))[0])
        raise CorruptFileError(f"Row {row} of {path} holds numbers that are not finite: its pose is missing.")
    rows: NDArray[np.float64] = table.astype(np.float64)
    return rows


def _pictures_folder(folder: Path) -> tuple[Path, int]:
    for name, reduce in _FOLDERS:
        if (folder / name).is_dir():
            return folder / name, reduce
    raise MissingDataError(f"{folder} has none of the folders {', '.join(name for name, _ in _FOLDERS)}.")


def _camera(table: NDArray[np.float64], path: Path) -> Camera:
    sizes = table[:, :15].reshape(-1, 3, 5)[:, :, 4]
    if len(sizes) and not np.allclose(sizes, sizes[0]):
        row = int(np.flatnonzero(~np.isclose(sizes, sizes[0]).all(1))[0])
        raise SceneError(
            f"Row {row} of {path} is of another camera than row 0 (height, width, focal length "
            f"{', '.join(f'{value:g}' for value in sizes[row])}, not {', '.join(f'{value:g}' for value in sizes[0])}): "
            "all views of a scene must come from one camera."
        )
    if not len(sizes) or (sizes[0] <= 0).any():
        raise SceneError(f"{path} has no views, or a camera whose height, width or focal length is not above 0.")
    height, width, focal = (float(value) for value in sizes[0])
    return Camera(round(width), round(height), focal, focal, width / 2, height / 2)


def _poses(table: NDArray[np.float64], path: Path) -> tuple[Tensor, NDArray[np.float64]]:
    """Poses around the origin that look along negative z, and bounds in the same units."""
    bounds = table[:, 15:]
    if (bounds[:, 0] <= 0).any() or (bounds[:, 0] >= bounds[:, 1]).any():
        row = int(np.flatnonzero((bounds[:, 0] <= 0) | (bounds[:, 0] >= bounds[:, 1]))[0])
        raise SceneError(
            f"Row {row} of {path} has depths from {bounds[row, 0]:g} to {bounds[row, 1]:g}: the nearest must be above "
            "0 and below the farthest."
        )
    scale = _NEAREST / float(bounds.min())
    stored = table[:, :15].reshape(-1, 3, 5)[:, :, :4]
    # Stored are the directions down, right and backwards.
    turned = np.stack([stored[..., 1], -stored[..., 0], stored[..., 2], stored[..., 3] * scale], -1)
    poses = torch.stack([checked_pose(pose, f"row {row} of {path}") for row, pose in enumerate(turned)]).double()
    place, backwards, up = poses[:, :, 3].mean(0), poses[:, :, 2].sum(0), poses[:, :, 1].sum(0)
    middle = looking_at(place, place - backwards, up)
    back = middle[:, :3].T
    centred = torch.cat([back @ poses[:, :, :3], back @ (poses[:, :, 3:] - middle[:, 3:])], -1)
    return centred.float(), bounds * scale


def _focus(bounds: NDArray[np.float64]) -> float:
    """How far away the scene is about: between the nearest and the farthest, nearer the former in depth."""
    nearest, farthest = _CLOSE * float(bounds.min()), _FAR * float(bounds.max())
    return 1 / ((1 - _SHARE_OF_FAR) / nearest + _SHARE_OF_FAR / farthest)
