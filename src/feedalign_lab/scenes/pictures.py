"""Pictures read from files: laid on white where they are transparent, and reduced by averaging."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from feedalign_lab.errors import CorruptFileError, MissingDataError, SceneError
from feedalign_lab.task import Tell, silent

_MODES = ("L", "LA", "P", "RGB", "RGBA")
_WITH_ALPHA = ("LA", "RGBA")
_BRIGHTEST = 255
# PNG holds no more than 8 pixels in a byte, and packs at most 1,032 equal bytes into one.
_MOST_PIXELS_PER_BYTE = 10_000


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of one size.

    Attributes:
        pixels: uint8 `[V, H, W, 3]`.
        full_size: Width and height in the files.
        are_transparent: Whether some pixels were not opaque, and all are laid on white.
    """

    pixels: NDArray[np.uint8]
    full_size: tuple[int, int]
    are_transparent: bool


def read_pictures(paths: Sequence[Path], reduce: int = 1, tell: Tell = silent) -> Pictures:
    """Read pictures that belong to one scene.

    Args:
        paths: Of the files, at least one.
        reduce: Side of the squares of pixels that are averaged into one; what does not fill a square is cut off at the
            right and lower edges. Transparent pictures are laid on white before.
        tell: Told how far the reading is.

    Returns:
        The pictures.

    Raises:
        MissingDataError: A file is not there.
        CorruptFileError: A file is no picture, or ends too early.
        SceneError: Pictures differ in size, are too small, or only some have the transparency that others use.
    """
    first, full_size, uses_alpha, lacks_alpha = None, (0, 0), None, None
    kept: NDArray[np.uint8] | None = None
    for number, path in enumerate(paths):
        picture = _open(path)
        if first is None:
            first, full_size = path, picture.size
            kept = _room(len(paths), picture.size, reduce, path)
        if picture.size != full_size:
            raise SceneError(
                f"{path} is {_size(picture.size)} pixels large and {first} {_size(full_size)}: all pictures of a scene "
                "must have one size; scale or leave out those that differ."
            )
        values, is_transparent, has_alpha = _laid_on_white(picture)
        uses_alpha = path if is_transparent and uses_alpha is None else uses_alpha
        lacks_alpha = path if not has_alpha and lacks_alpha is None else lacks_alpha
        assert kept is not None
        kept[number] = _averaged(values, reduce)
        tell("reading pictures", (number + 1) / len(paths))
    assert kept is not None
    if uses_alpha is not None and lacks_alpha is not None:
        raise SceneError(
            f"{uses_alpha} has transparent pixels and {lacks_alpha} has no transparency, so that what is behind the "
            "scene differs between them: save all pictures with an alpha channel, or all without."
        )
    return Pictures(kept, full_size, uses_alpha is not None)


def _room(count: int, size: tuple[int, int], reduce: int, path: Path) -> NDArray[np.uint8]:
    width, height = size[0] // reduce, size[1] // reduce
    if not width or not height:
        raise SceneError(f"{path} is {_size(size)} pixels large: too small to be averaged over {reduce}x{reduce}.")
    return np.empty((count, height, width, 3), dtype=np.uint8)


def _open(path: Path) -> Image.Image:
    """Read one picture whole: Pillow reads pixels late, so that a file cut short shows only then."""
    try:
        with warnings.catch_warnings():
            # A picture so large that Pillow warns would take gigabytes; damaged headers say such things.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # From memory, where nobody is given more than there is, whatever a header says.
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as picture:
                _refuse_oversized(path, picture.size, len(content))
                picture.load()
    except FileNotFoundError as error:
        raise MissingDataError(
            f"There is no picture {path}: put it there, or take its view out of the list."
        ) from error
    except CorruptFileError:
        raise
    except Exception as error:
        # Pillow's readers of damaged files raise nearly anything.
        raise CorruptFileError(
            f"{path} cannot be read as a picture ({_first_line(error)}): it may be cut short; fetch it again."
        ) from error
    if picture.mode not in _MODES:
        raise SceneError(f"{path} has pixels of mode {picture.mode}: save it as 8-bit RGB or RGBA.")
    return picture


def _refuse_oversized(path: Path, size: tuple[int, int], num_bytes: int) -> None:
    """Raise before room is made for a picture that its file cannot hold, as a damaged header announces it."""
    if size[0] * size[1] > _MOST_PIXELS_PER_BYTE * num_bytes:
        raise CorruptFileError(
            f"{path} says that it is {_size(size)} pixels large, more than its {num_bytes} bytes can hold: fetch it "
            "again."
        )


def _laid_on_white(picture: Image.Image) -> tuple[NDArray[np.float32], bool, bool]:
    """Values `[H, W, 3]` from 0 to 255; whether some were transparent, and whether any could have been."""
    has_alpha = picture.mode in _WITH_ALPHA or "transparency" in picture.info
    if not has_alpha:
        return np.asarray(picture.convert("RGB"), dtype=np.float32), False, False
    values = np.asarray(picture.convert("RGBA"), dtype=np.float32)
    alpha = values[..., 3:] / _BRIGHTEST
    laid = values[..., :3] * alpha + _BRIGHTEST * (1 - alpha)
    return laid.astype(np.float32), bool((alpha < 1).any()), True


def _averaged(values: NDArray[np.float32], factor: int) -> NDArray[np.uint8]:
    height, width = values.shape[0] // factor, values.shape[1] // factor
    squares = values[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    averaged: NDArray[np.uint8] = np.rint(squares.mean((1, 3))).astype(np.uint8)
    return averaged


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
