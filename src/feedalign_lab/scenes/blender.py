"""Scenes as Blender's scripts and many converters write them: `transforms_*.json` and pictures."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feedalign_lab.errors import CorruptFileError, MissingDataError, SceneError
from feedalign_lab.scenes.copies import held_out
from feedalign_lab.scenes.pictures import Pictures, read_pictures
from feedalign_lab.scenes.poses import checked_pose, distance_to_scene
from feedalign_lab.scenes.scene import Camera, Scene, Views, spread_out
from feedalign_lab.task import Tell, silent

# NeRF-Synthetic's own: its cameras are about 4 units from the middle of the scene.
NEAR, FAR = 2.0, 6.0
_MOST_VALIDATION_VIEWS = 5
_DISTORTIONS = ("k1", "k2", "k3", "k4", "p1", "p2")
_SAME = 1e-6


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a scene are.

    Attributes:
        folders: The folder of a part's pictures, in the place of what its file says.
        is_partial: Whether views without a picture are passed over.
        has_validation: Whether the part for validation has pictures.
    """

    folders: Mapping[str, str]
    is_partial: bool = False
    has_validation: bool = True


STANDARD = Layout({})


@dataclass(frozen=True)
class Frames:
    """What one `transforms_*.json` says.

    Attributes:
        path: Of the file.
        camera: What it says of the camera.
        pictures: Files.
        poses: One for each, float32 `[3, 4]`.
    """

    path: Path
    camera: Mapping[str, float]
    pictures: tuple[Path, ...]
    poses: tuple[Tensor, ...]


def load_blender(name: str, folder: Path, reduce: int = 1, layout: Layout = STANDARD, tell: Tell = silent) -> Scene:
    """Read a scene whose cameras stand around it.

    Training views are those of `transforms_train.json`, test views those of `transforms_test.json`. Validation views
    are up to five of `transforms_val.json`, evenly spread over it; where there is no such file, one of twenty training
    views is held out.

    Beside what Blender's script writes (`camera_angle_x`), a file may say `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` of its
    camera, in pixels, which need not be square; and `near` and `far`, where rays begin and end, else 2 and 6.

    Args:
        name: What the user typed.
        folder: Where the files are.
        reduce: Side of the squares of pixels to average over.
        layout: Where the pictures are.
        tell: Told how far the reading is.

    Returns:
        The scene.

    Raises:
        MissingDataError: A file is not there.
        CorruptFileError: A file is not what it should be.
        SceneError: Views, poses or the camera do not go together.
    """
    parts = {part: read_frames(folder, part, layout) for part in ("train", "test")}
    if layout.has_validation and (folder / "transforms_val.json").exists():
        parts["val"] = _thinned(read_frames(folder, "val", layout))
    _refuse_shared_views(parts)
    pictures = {part: read_pictures(frames.pictures, reduce, tell) for part, frames in parts.items()}
    camera = _one_camera(parts, pictures).reduced(reduce)
    views = {part: _views(frames, pictures[part]) for part, frames in parts.items()}
    if "val" in views:
        train, validation = views["train"], views["val"]
    else:
        train, validation = held_out(views["train"], str(parts["train"].path))
    near, far = _range(parts["train"], train.poses)
    return Scene(
        name=name,
        camera=camera,
        train=train,
        validation=validation,
        test=views["test"],
        near=near,
        far=far,
        background=_background(pictures, parts),
    )


def read_frames(folder: Path, part: str, layout: Layout = STANDARD) -> Frames:
    """Read what one part of a scene consists of, without its pictures.

    Args:
        folder: Where the files are.
        part: "train", "val" or "test".
        layout: Where the pictures are.

    Returns:
        What the file says.

    Raises:
        MissingDataError: The file is not there.
        CorruptFileError: It is not what it should be.
        SceneError: It has no views, or what it says of the camera cannot be.
    """
    path = folder / f"transforms_{part}.json"
    content = _content(path)
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise CorruptFileError(f'{path} has no list of "frames": one entry for each view is expected.')
    pictures, poses = [], []
    for number, frame in enumerate(frames):
        where = f"frame {number} of {path}"
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise CorruptFileError(f'"file_path", the name of a picture, is missing in {where}.')
        picture = _picture(folder, frame["file_path"], layout.folders.get(part))
        if layout.is_partial and not picture.exists():
            continue
        if "transform_matrix" not in frame:
            raise SceneError(f'"transform_matrix", the pose of {frame["file_path"]}, is missing in {where}: add it.')
        pictures.append(picture)
        poses.append(checked_pose(frame["transform_matrix"], where))
    if not pictures:
        raise SceneError(f"{path} has no views: at least one is needed for each part.")
    return Frames(path, _camera_numbers(content, path), tuple(pictures), tuple(poses))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingDataError(
            f"There is no {path}: a scene consists of transforms_train.json, transforms_test.json, and pictures."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not JSON ({error}): it may be cut short.") from error
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read ({error.strerror}).") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f'{path} holds no JSON object: "frames" and "camera_angle_x" are expected in one.')
    return content


def _picture(folder: Path, file_path: str, instead: str | None) -> Path:
    path = folder / file_path if instead is None else folder / instead / Path(file_path).name
    # Blender's script leaves the ending out.
    return path if path.suffix.lower() in {".png", ".jpg", ".jpeg"} else path.with_name(f"{path.name}.png")


def _camera_numbers(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    """The numbers that are given, each checked by itself."""
    names = ("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h", "near", "far", *_DISTORTIONS)
    given: dict[str, float] = {}
    for name in names:
        if (value := content.get(name)) is None:
            continue
        if (number := _number(value)) is None:
            raise CorruptFileError(f'"{name}" in {path} is {value!r}: a number is expected.')
        given[name] = number
    bent = [name for name in _DISTORTIONS if given.get(name)]
    if bent:
        raise SceneError(
            f"{path} says that the lens distorts ({', '.join(bent)}), which is not supported: undistort the pictures "
            "first, and leave these numbers out."
        )
    for name in ("fl_x", "fl_y", "w", "h"):
        if given.get(name, 1.0) <= 0:
            raise SceneError(f'"{name}" in {path} is {given[name]:g}: it is a length in pixels, above 0.')
    for name in ("camera_angle_x", "camera_angle_y"):
        if not 0 < given.get(name, 1.0) < math.pi:
            raise SceneError(f'"{name}" in {path} is {given[name]:g}: it is an angle in radians between 0 and pi.')
    if "camera_angle_x" not in given and "fl_x" not in given:
        raise SceneError(f'{path} says nothing of the camera: "camera_angle_x", in radians, or "fl_x" is needed.')
    return given


def _number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON has whole numbers of any length
        return None


def _camera(numbers: Mapping[str, float], size: tuple[int, int], path: Path) -> Camera:
    """The camera for pictures of a size."""
    width, height = round(numbers.get("w", size[0])), round(numbers.get("h", size[1]))
    focal_x = numbers.get("fl_x") or width / (2 * math.tan(numbers["camera_angle_x"] / 2))
    across = numbers.get("camera_angle_y")
    focal_y = numbers.get("fl_y") or (focal_x if across is None else height / (2 * math.tan(across / 2)))
    centre_x, centre_y = numbers.get("cx", width / 2), numbers.get("cy", height / 2)
    return Camera(width, height, focal_x, focal_y, centre_x, centre_y).fitted(size, str(path))


def _one_camera(parts: Mapping[str, Frames], pictures: Mapping[str, Pictures]) -> Camera:
    first = _camera(parts["train"].camera, pictures["train"].full_size, parts["train"].path)
    for part, frames in parts.items():
        other = _camera(frames.camera, pictures[part].full_size, frames.path)
        if (first.width, first.height) != (other.width, other.height) or abs(first.focal_x / other.focal_x - 1) > _SAME:
            raise SceneError(
                f"{frames.path} has a camera of {other.width}x{other.height} pixels and focal length "
                f"{other.focal_x:.2f}, {parts['train'].path} one of {first.width}x{first.height} and "
                f"{first.focal_x:.2f}: all views of a scene must come from one camera."
            )
    return first


def _thinned(frames: Frames) -> Frames:
    numbers = spread_out(len(frames.pictures), _MOST_VALIDATION_VIEWS)
    pictures = tuple(frames.pictures[number] for number in numbers)
    return Frames(frames.path, frames.camera, pictures, tuple(frames.poses[number] for number in numbers))


def _refuse_shared_views(parts: Mapping[str, Frames]) -> None:
    """A view that is trained on must not be measured on."""
    seen: dict[Path, Path] = {}
    for frames in parts.values():
        for picture in dict.fromkeys(frames.pictures):
            if picture in seen:
                raise SceneError(
                    f"{picture} is a view of both {seen[picture]} and {frames.path}: the parts of a scene must not "
                    "share views, or results are measured on what was trained on."
                )
            seen[picture] = frames.path


def _views(frames: Frames, pictures: Pictures) -> Views:
    names = tuple(path.name for path in frames.pictures)
    return Views(names, torch.from_numpy(pictures.pixels), torch.stack(frames.poses))


def _range(frames: Frames, poses: Tensor) -> tuple[float, float]:
    near, far = frames.camera.get("near", NEAR), frames.camera.get("far", FAR)
    if not 0 <= near < far:
        raise SceneError(f"Rays begin at {near:g} and end at {far:g} in {frames.path}: near must be below far.")
    distance = distance_to_scene(poses)
    if distance is not None and not near < distance < far:
        raise SceneError(
            f"The cameras of {frames.path} are {distance:.3g} away from what they look at, and rays begin at {near:g} "
            f'and end at {far:g}: say in the file where they do, with "near" and "far".'
        )
    return near, far


def _background(pictures: Mapping[str, Pictures], parts: Mapping[str, Frames]) -> float | None:
    """White where pictures were laid on white, in every part."""
    transparent = [part for part, some in pictures.items() if some.are_transparent]
    if transparent and len(transparent) < len(pictures):
        other = next(part for part in pictures if part not in transparent)
        raise SceneError(
            f"The pictures of {parts[transparent[0]].path} have transparent pixels and those of {parts[other].path} "
            "have none: what is behind the scene must be the same in all parts."
        )
    return 1.0 if transparent else None
