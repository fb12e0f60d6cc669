"""Scenes with `poses_bounds.npy`: what is read, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scene import forward_table, picture, write_llff

from feedalign_lab.errors import CorruptFileError, LabError, MissingDataError, SceneError
from feedalign_lab.scenes.llff import load_llff


def test_a_scene_is_read(tmp_path: Path) -> None:
    scene = load_llff("llff:here", write_llff(tmp_path, 10))
    assert scene.test.names == ("IMG_000.png", "IMG_008.png")
    assert scene.validation.names == ("IMG_005.png",)
    assert len(scene.train) == 7
    assert (scene.camera.width, scene.camera.height) == (8, 6)
    # A quarter of what the file says of the large pictures.
    assert scene.camera.focal_x == scene.camera.focal_y == 7.5
    assert (scene.near, scene.far, scene.is_forward, scene.background) == (0.0, 1.0, True, None)


def test_poses_are_centred_scaled_and_turned(tmp_path: Path) -> None:
    scene = load_llff("llff:here", write_llff(tmp_path, 10))
    table = forward_table(10)
    places = table[:, :15].reshape(-1, 3, 5)[:, :, 3] / (0.75 * table[:, 15:].min())
    # All cameras look along negative z already, so that centring moves and does not turn.
    by_hand = torch.from_numpy(places - places.mean(0)).float()
    found = {name: pose for part in (scene.train, scene.validation, scene.test)
             for name, pose in zip(part.names, part.poses, strict=True)}  # fmt: skip
    for number in range(10):
        pose = found[f"IMG_{number:03d}.png"]
        torch.testing.assert_close(pose[:, :3], torch.eye(3), atol=1e-6, rtol=0)
        torch.testing.assert_close(pose[:, 3], by_hand[number], atol=1e-6, rtol=0)


def test_cameras_that_are_turned_look_forward_on_average(tmp_path: Path) -> None:
    folder = write_llff(tmp_path, 10)
    table = forward_table(10)
    turn = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=float)
    poses = table[:, :15].reshape(-1, 3, 5)
    poses[:, :, :4] = turn @ poses[:, :, :4]
    np.save(folder / "poses_bounds.npy", np.concatenate([poses.reshape(10, 15), table[:, 15:]], 1))
    turned, plain = load_llff("llff:here", folder), load_llff("llff:here", write_llff(tmp_path / "plain", 10))
    torch.testing.assert_close(turned.train.poses, plain.train.poses, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("folder", "size"), [("images_8", (4, 3)), (None, (8, 6))])
def test_pictures_in_other_folders(tmp_path: Path, folder: str | None, size: tuple[int, int]) -> None:
    scene = load_llff("llff:here", write_llff(tmp_path, 5, reduced=folder))
    assert (scene.camera.width, scene.camera.height) == size
    assert scene.camera.focal_x == pytest.approx(30 * size[0] / 32)


def _with_table(change: Callable[[np.ndarray], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        table = forward_table(10)
        change(table)
        np.save(folder / "poses_bounds.npy", table)

    return spoil


FAULTS: dict[str, tuple[Callable[[Path], object], type[LabError], str]] = {
    "no poses": (lambda f: (f / "poses_bounds.npy").unlink(), MissingDataError, "no .*poses_bounds.npy"),
    "no array": (lambda f: (f / "poses_bounds.npy").write_bytes(b"none"), CorruptFileError, "read as an array"),
    "cut short": (
        lambda f: (f / "poses_bounds.npy").write_bytes((f / "poses_bounds.npy").read_bytes()[:-50]),
        CorruptFileError, "cannot be read as an array",
    ),
    "other columns": (
        lambda f: np.save(f / "poses_bounds.npy", np.zeros((10, 16))), CorruptFileError, "row of 17 numbers",
    ),
    "a missing pose": (_with_table(lambda t: t.__setitem__((3, 2), np.nan)), CorruptFileError, "Row 3 .*missing"),
    "fewer poses": (
        lambda f: np.save(f / "poses_bounds.npy", forward_table(9)), SceneError, "9 poses and .* 10 pictures",
    ),
    "a missing picture": (
        lambda f: (f / "images_4" / "IMG_004.png").unlink(), SceneError, "10 poses and .* 9 pictures",
    ),
    "no pictures": (lambda f: (f / "images_4").rename(f / "photos"), MissingDataError, "none of the folders images_4"),
    "another size": (lambda f: picture(0, (6, 8), "RGB").save(f / "images_4" / "IMG_001.png"), SceneError, "6x8 .*8x6"),
    "other proportions": (
        lambda f: [picture(0, (8, 8), "RGB").save(p) for p in (f / "images_4").iterdir()], SceneError, "proportions",
    ),
    "another camera": (_with_table(lambda t: t.__setitem__((2, 14), 99.0)), SceneError, "Row 2 .* another camera"),
    "no focal length": (_with_table(lambda t: t.__setitem__((slice(None), 14), 0.0)), SceneError, "not above 0"),
    "a scaled camera": (
        _with_table(lambda t: t.__setitem__((4, slice(0, 15)), np.where(np.arange(15) % 5 < 3, 2, 1) * t[4, :15])),
        SceneError, "row 4 .*scaled",
    ),
    "depths the wrong way round": (_with_table(lambda t: t.__setitem__((1, 16), 0.5)), SceneError, "Row 1 .* depths"),
    "a picture cut short": (
        lambda f: (f / "images_4" / "IMG_001.png").write_bytes((f / "images_4" / "IMG_001.png").read_bytes()[:-30]),
        CorruptFileError, "IMG_001.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, fault: str) -> None:
    spoil, error, sentence = FAULTS[fault]
    folder = write_llff(tmp_path, 10)
    spoil(folder)
    with pytest.raises(error, match=f"(?s){sentence}") as raised:
        load_llff("llff:here", folder)
    assert "\n" not in str(raised.value)


def test_too_few_views(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="leaves 1 view for training"):
        load_llff("llff:here", write_llff(tmp_path, 2))
    folder = write_llff(tmp_path / "none", 0)
    np.save(folder / "poses_bounds.npy", np.zeros((0, 17)))
    with pytest.raises(SceneError, match="no views"):
        load_llff("llff:here", folder)
