"""Small scenes as files, in the formats of the real ones, and as they are once read."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from feedalign_lab.scenes.poses import looking_at
from feedalign_lab.scenes.scene import Camera, Scene, Views

ANGLE = 0.7


def pose_around(angle: float, distance: float = 4.0, height: float = 1.5) -> torch.Tensor:
    """A camera that looks at the origin, `[3, 4]`."""
    flat = math.sqrt(distance**2 - height**2)
    place = torch.tensor([flat * math.cos(angle), flat * math.sin(angle), height], dtype=torch.float64)
    return looking_at(place, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def picture(number: int, size: tuple[int, int], mode: str = "RGBA") -> Image.Image:
    """A coloured square on nothing."""
    width, height = size
    values = np.zeros((height, width, 4), dtype=np.uint8)
    values[height // 4 : -height // 4, width // 4 : -width // 4] = (200, 40 + 10 * (number % 8), 90, 255)
    return Image.fromarray(values).convert(mode)


def write_blender(
    folder: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8), mode: str = "RGBA", **camera: Any
) -> Path:
    """A scene with so many views in each part; returns its folder."""
    for part, count in counts.items():
        (folder / part).mkdir(parents=True)
        frames = []
        for number in range(count):
            picture(number, size, mode).save(folder / part / f"r_{number}.png")
            turn = 2 * math.pi * (number + 0.3 * len(part)) / max(count, 1)
            matrix = [*pose_around(turn).tolist(), [0.0, 0.0, 0.0, 1.0]]
            frames.append({"file_path": f"./{part}/r_{number}", "transform_matrix": matrix})
        content = {"camera_angle_x": ANGLE, **camera, "frames": frames}
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / f"transforms_{part}.json").write_text(json.dumps(kept))
    return folder


def edit(folder: Path, part: str, change: Any) -> None:
    """Change what a part's file says."""
    path = folder / f"transforms_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def forward_table(count: int, size: tuple[int, int] = (32, 24), focal: float = 30.0) -> NDArray[np.float64]:
    """Rows of `poses_bounds.npy`: cameras side by side that look along negative z."""
    rows = []
    for number in range(count):
        place = np.array([0.1 * number, 0.05 * (number % 3), 0.02 * number])
        # Down, right, backwards.
        pose = np.stack([[0, -1, 0], [1, 0, 0], [0, 0, 1], place, [size[1], size[0], focal]], 1)
        rows.append([*pose.ravel(), 2.0 + 0.1 * number, 9.0])
    return np.array(rows, dtype=np.float64)


def write_llff(folder: Path, count: int, size: tuple[int, int] = (32, 24), reduced: str | None = "images_4") -> Path:
    """A scene of so many views; returns its folder."""
    factor = {"images_4": 4, "images_8": 8}.get(reduced or "", 1)
    pictures = folder / (reduced or "images")
    pictures.mkdir(parents=True)
    for number in range(count):
        small = (size[0] // factor, size[1] // factor)
        picture(number, small, "RGB").save(pictures / f"IMG_{number:03d}.png")
    np.save(folder / "poses_bounds.npy", forward_table(count, size))
    return folder


def small_scene(num_views: int = 4, size: tuple[int, int] = (8, 6), *, is_forward: bool = False) -> Scene:
    """A scene whose pictures are a bright square on white."""
    camera = Camera.with_angle(*size, ANGLE)
    pixels = torch.full((num_views, size[1], size[0], 3), 255, dtype=torch.uint8)
    pixels[:, 1:-1, 2:-2] = torch.tensor([30, 120, 60], dtype=torch.uint8)
    poses = torch.stack([pose_around(2 * math.pi * number / num_views) for number in range(num_views)]).float()
    if is_forward:
        poses = torch.eye(4)[:3].repeat(num_views, 1, 1)
        poses[:, 0, 3] = torch.linspace(-0.1, 0.1, num_views)
    views = Views(tuple(f"r_{number}.png" for number in range(num_views)), pixels, poses)
    near, far = (0.0, 1.0) if is_forward else (2.0, 6.0)
    background = None if is_forward else 1.0
    held_out = views.chosen([0, 1])
    return Scene("made", camera, views, held_out, held_out, near, far, background, is_forward, focus=3.0)
