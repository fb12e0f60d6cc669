"""Scenes with `transforms_*.json`: what is read, and what is refused."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_scene import ANGLE, edit, picture, pose_around, write_blender

from feedalign_lab.errors import CorruptFileError, LabError, MissingDataError, SceneError
from feedalign_lab.scenes.blender import load_blender
from feedalign_lab.scenes.lego import load_lego

COUNTS = {"train": 3, "val": 2, "test": 2}
needs_files = pytest.mark.skipif("FEEDALIGN_DATA" not in os.environ, reason="FEEDALIGN_DATA is not set")


def test_a_scene_is_read(tmp_path: Path) -> None:
    scene = load_blender("nerf:here", write_blender(tmp_path, COUNTS))
    assert (len(scene.train), len(scene.validation), len(scene.test)) == (3, 2, 2)
    assert (scene.camera.width, scene.camera.height) == (8, 8)
    assert math.isclose(scene.camera.focal_x, 4 / math.tan(ANGLE / 2))
    assert (scene.near, scene.far, scene.background) == (2.0, 6.0, 1.0)
    assert not scene.is_forward
    torch.testing.assert_close(scene.train.poses[1], pose_around(2 * math.pi * (1 + 1.5) / 3).float())
    # The square's colour, and white around it where nothing is.
    assert scene.train.pixels[1, 4, 4].tolist() == [200, 50, 90]
    assert scene.train.pixels[1, 0, 0].tolist() == [255, 255, 255]


def test_pixels_are_laid_on_white_and_then_averaged(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, COUNTS, size=(5, 4))
    values = np.zeros((4, 5, 4), dtype=np.uint8)
    values[0, 0] = (100, 0, 50, 255)
    values[0, 1] = (40, 80, 200, 51)
    Image.fromarray(values).save(folder / "train" / "r_0.png")
    scene = load_blender("nerf:here", folder, reduce=2)
    assert scene.train.pixels.shape == (3, 2, 2, 3)
    by_hand = [(first + second * 0.2 + 255 * 0.8 + 2 * 255) / 4 for first, second in ((100, 40), (0, 80), (50, 200))]
    assert scene.train.pixels[0, 0, 0].tolist() == [round(value) for value in by_hand]
    # The fifth column fills no square; what a pixel spans is twice as much.
    assert (scene.camera.width, scene.camera.height) == (2, 2)
    assert math.isclose(scene.camera.focal_x, 2.5 / math.tan(ANGLE / 2) / 2)
    assert math.isclose(scene.camera.centre_x, 1.25)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_without_transparency_nothing_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    scene = load_blender("nerf:here", write_blender(tmp_path, COUNTS, mode=mode))
    assert scene.background is None
    assert scene.train.pixels[0, 0, 0].tolist() == [0, 0, 0]


def test_a_palette_may_be_transparent(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, COUNTS)
    for path in folder.glob("*/*.png"):
        indexed = Image.new("P", (8, 8), 0)
        indexed.putpalette([0, 0, 0, 10, 20, 30])
        indexed.putpixel((4, 4), 1)
        indexed.save(path, transparency=0)
    scene = load_blender("nerf:here", folder)
    assert scene.background == 1.0
    assert scene.train.pixels[0, 0, 0].tolist() == [255, 255, 255]
    assert scene.train.pixels[0, 4, 4].tolist() == [10, 20, 30]


def test_without_a_validation_file_training_views_are_held_out(tmp_path: Path) -> None:
    scene = load_blender("nerf:here", write_blender(tmp_path, {"train": 41, "test": 1}, size=(2, 2)))
    assert scene.validation.names == ("r_10.png", "r_30.png")
    assert len(scene.train) == 39
    assert not set(scene.validation.names) & set(scene.train.names)


@pytest.mark.parametrize("kind", ["copied frame", "same place", "nearly the same place"])
def test_copies_of_a_view_stay_on_one_side(tmp_path: Path, kind: str) -> None:
    folder = write_blender(tmp_path, {"train": 42, "test": 1}, size=(4, 4))
    # Of 40 views that differ the 10th is held out, and another.
    spoil = {"copied frame": (1, 0), "same place": (0, 0), "nearly the same place": (1, 1)}[kind]

    def repeat(content: dict[str, Any]) -> None:
        for kept, copied in ((10, 11), (30, 3)):
            matrix = [list(row) for row in content["frames"][kept]["transform_matrix"]]
            if spoil[0]:
                picture(kept, (4, 4)).save(folder / "train" / f"r_{copied}.png")
            matrix[0][3] += 0.01 * spoil[1]
            content["frames"][copied]["transform_matrix"] = matrix

    edit(folder, "train", repeat)
    scene = load_blender("nerf:here", folder)
    assert len(scene.train) + len(scene.validation) == 42
    assert {"r_10.png", "r_11.png"} < set(scene.validation.names)
    for pair in ({"r_10.png", "r_11.png"}, {"r_30.png", "r_3.png"}):
        assert pair <= set(scene.train.names) or pair <= set(scene.validation.names)
    assert len(scene.validation) == 3


def test_views_that_are_all_the_same_cannot_be_parted(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, {"train": 2, "test": 1})
    edit(folder, "train", lambda content: content["frames"].__setitem__(1, content["frames"][0]))
    with pytest.raises(SceneError, match="2 views for training, all of them copies of one"):
        load_blender("nerf:here", folder)


def test_a_pose_of_three_rows_is_taken(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, COUNTS)
    whole = load_blender("nerf:here", folder).train.poses
    edit(folder, "train", lambda content: [frame["transform_matrix"].pop() for frame in content["frames"]])
    assert torch.equal(load_blender("nerf:here", folder).train.poses, whole)
    edit(folder, "train", lambda content: content["frames"][1]["transform_matrix"].pop())
    with pytest.raises(CorruptFileError, match=r"frame 1 of .*transforms_train\.json is not 4x4 or 3x4 numbers"):
        load_blender("nerf:here", folder)


def test_at_most_five_validation_views_are_taken(tmp_path: Path) -> None:
    scene = load_blender("nerf:here", write_blender(tmp_path, {"train": 1, "val": 12, "test": 1}, size=(2, 2)))
    assert scene.validation.names == ("r_1.png", "r_3.png", "r_6.png", "r_8.png", "r_10.png")


def test_a_camera_that_is_not_square_in_anything(tmp_path: Path) -> None:
    camera = {"camera_angle_x": None, "fl_x": 20.0, "fl_y": 24.0, "cx": 7.0, "cy": 5.0, "w": 16, "h": 12}
    folder = write_blender(tmp_path, COUNTS, size=(8, 6), near=1.5, far=9.0, **camera)
    scene = load_blender("nerf:here", folder)
    # The pictures are half as large as those that the file describes.
    assert scene.camera.focal_x == 10.0
    assert scene.camera.focal_y == 12.0
    assert (scene.camera.centre_x, scene.camera.centre_y) == (3.5, 2.5)
    assert (scene.near, scene.far) == (1.5, 9.0)


def test_a_picture_may_be_named_with_its_ending(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, COUNTS, mode="RGB")
    for part in COUNTS:
        (folder / part / "r_0.png").unlink()
        picture(0, (8, 8), "RGB").save(folder / part / "r_0.jpg")
        edit(folder, part, lambda content, part=part: content["frames"][0].update(file_path=f"{part}/r_0.jpg"))
    assert load_blender("nerf:here", folder).train.names[0] == "r_0.jpg"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _scale(content: dict[str, Any]) -> None:
    matrix = np.array(content["frames"][1]["transform_matrix"])
    matrix[:3, :3] *= 2
    content["frames"][1]["transform_matrix"] = matrix.tolist()


def _transpose(content: dict[str, Any]) -> None:
    content["frames"][1]["transform_matrix"] = np.array(content["frames"][1]["transform_matrix"]).T.tolist()


def _mirror(content: dict[str, Any]) -> None:
    matrix = np.array(content["frames"][1]["transform_matrix"])
    matrix[:3, 0] *= -1
    content["frames"][1]["transform_matrix"] = matrix.tolist()


FAULTS: dict[str, tuple[Callable[[Path], object], type[LabError], str]] = {
    "no file": (lambda f: (f / "transforms_test.json").unlink(), MissingDataError, "no .*transforms_test.json"),
    "not JSON": (lambda f: _cut(f / "transforms_train.json"), CorruptFileError, "transforms_train.json is not JSON"),
    "a list": (lambda f: (f / "transforms_train.json").write_text("[]"), CorruptFileError, "no JSON object"),
    "no frames": (lambda f: edit(f, "val", lambda c: c.pop("frames")), CorruptFileError, 'no list of "frames"'),
    "no views": (lambda f: edit(f, "test", lambda c: c["frames"].clear()), SceneError, "transforms_test.json has no"),
    "no path": (
        lambda f: edit(f, "train", lambda c: c["frames"][2].pop("file_path")), CorruptFileError, "frame 2 of .*train",
    ),
    "no pose": (
        lambda f: edit(f, "train", lambda c: c["frames"][1].pop("transform_matrix")),
        SceneError, "pose of ./train/r_1, is missing in frame 1 of .*transforms_train.json",
    ),
    "half a pose": (
        lambda f: edit(f, "train", lambda c: c["frames"][1].update(transform_matrix=[[1, 2, 3, 4], [1, 2, 3, 4]])),
        CorruptFileError, "frame 1 of .* is not 4x4 or 3x4 numbers",
    ),
    "a pose of words": (
        lambda f: edit(f, "train", lambda c: c["frames"][1].update(transform_matrix="here")),
        CorruptFileError, "frame 1 of .* is not 4x4 or 3x4 numbers",
    ),
    "a transposed pose": (lambda f: edit(f, "train", _transpose), SceneError, "transposed"),
    "a pose that is not finite": (
        lambda f: edit(f, "train", lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(0, math.nan)),
        CorruptFileError, "frame 1",
    ),
    "a scaled camera": (lambda f: edit(f, "train", _scale), SceneError, "lengths 2, 2, 2.*scaled"),
    "a mirrored camera": (lambda f: edit(f, "train", _mirror), SceneError, "mirrored"),
    "no angle": (
        lambda f: edit(f, "train", lambda c: c.pop("camera_angle_x")),
        SceneError, 'nothing of the camera: "camera_angle_x"',
    ),
    "an angle in degrees": (
        lambda f: edit(f, "train", lambda c: c.update(camera_angle_x=40)), SceneError, "in radians",
    ),
    "an angle in words": (
        lambda f: edit(f, "train", lambda c: c.update(camera_angle_x="wide")), CorruptFileError, "'wide': a number",
    ),
    "no focal length": (lambda f: edit(f, "train", lambda c: c.update(fl_x=0)), SceneError, '"fl_x" .* is 0'),
    "another camera": (
        lambda f: edit(f, "test", lambda c: c.update(camera_angle_x=0.5)), SceneError, "must come from one camera",
    ),
    "a lens that distorts": (lambda f: edit(f, "val", lambda c: c.update(k1=0.1)), SceneError, "undistort"),
    "other proportions": (lambda f: edit(f, "train", lambda c: c.update(w=16, h=8)), SceneError, "16x8 .* 8x8"),
    "a scene behind the end of rays": (
        lambda f: edit(f, "train", lambda c: c.update(near=0.1, far=3)), SceneError, "4 away .* 0.1 and end at 3",
    ),
    "no range": (lambda f: edit(f, "train", lambda c: c.update(near=7)), SceneError, "near must be below far"),
    "a picture is missing": (lambda f: (f / "train" / "r_1.png").unlink(), MissingDataError, "no picture .*r_1.png"),
    "a picture is cut short": (lambda f: _cut(f / "test" / "r_1.png"), CorruptFileError, "test/r_1.png cannot be read"),
    "a picture is none": (lambda f: (f / "val" / "r_0.png").write_bytes(b"<html>"), CorruptFileError, "val/r_0.png"),
    "an empty picture": (lambda f: (f / "val" / "r_0.png").write_bytes(b""), CorruptFileError, "val/r_0.png"),
    "mixed sizes": (
        lambda f: picture(0, (8, 6)).save(f / "train" / "r_2.png"), SceneError, "r_2.png is 8x6 .*r_0.png 8x8",
    ),
    "a part of another size": (
        lambda f: [picture(0, (4, 4)).save(path) for path in (f / "test").iterdir()], SceneError, "of 4x4 .*8x8",
    ),
    "mixed transparency": (
        lambda f: picture(0, (8, 8), "RGB").save(f / "train" / "r_2.png"),
        SceneError, "r_0.png has transparent.*r_2.png",
    ),
    "an opaque part": (
        lambda f: [picture(0, (8, 8), "RGB").save(path) for path in (f / "test").iterdir()],
        SceneError, "what is behind the scene",
    ),
    "sixteen bits": (
        lambda f: Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(f / "train" / "r_0.png"), SceneError, "8-bit",
    ),
    "views in two parts": (
        lambda f: edit(f, "test", lambda c: c["frames"][0].update(file_path="./train/r_1")),
        SceneError, "r_1.png is a view of both .*transforms_train.json and .*transforms_test.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, fault: str) -> None:
    spoil, error, sentence = FAULTS[fault]
    folder = write_blender(tmp_path, COUNTS)
    load_blender("nerf:here", folder)
    spoil(folder)
    files = sorted(folder.rglob("*"))
    with pytest.raises(error, match=f"(?s){sentence}") as raised:
        load_blender("nerf:here", folder)
    assert "\n" not in str(raised.value)
    assert sorted(folder.rglob("*")) == files


def test_one_training_view_cannot_be_parted(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="leaves 1 view for training"):
        load_blender("nerf:here", write_blender(tmp_path, {"train": 1, "test": 1}))


def test_pictures_too_small_to_be_averaged(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="1x1 pixels large: too small"):
        load_blender("nerf:here", write_blender(tmp_path, COUNTS, size=(1, 1)), reduce=2)


def test_lego_is_looked_for_where_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(MissingDataError, match=r"train_200 and test_200 in .*nerf/lego nor in .*cache"):
        load_lego()


def test_lego_takes_the_test_views_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_blender(tmp_path / "nerf" / "lego", {"train": 20, "val": 3, "test": 4}, size=(4, 4))
    (folder / "train").rename(folder / "train_200")
    (folder / "test").rename(folder / "test_200")
    (folder / "test_200" / "r_1.png").unlink()
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    scene = load_lego(2)
    assert scene.test.names == ("r_0.png", "r_2.png", "r_3.png")
    assert scene.validation.names == ("r_10.png",)
    assert scene.train.pixels.shape == (19, 2, 2, 3)


@needs_files
def test_the_real_lego() -> None:
    scene = load_lego(2)
    assert (len(scene.train), len(scene.validation), len(scene.test)) == (95, 5, 25)
    assert scene.train.pixels.shape[1:] == (100, 100, 3)
    assert scene.camera.focal_x == pytest.approx(138.8889, abs=1e-3)
    # All of its cameras are at one distance.
    torch.testing.assert_close(scene.train.poses[:, :, 3].norm(dim=1), torch.full((95,), 4.0311), atol=1e-3, rtol=0)
