"""Rays against the geometry written out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scene_by_hand import encode_by_hand
from small_scene import pose_around

from feedalign_lab.scenes.encoding import encode, encoded_width
from feedalign_lab.scenes.poses import looking_at, nearest_point, turn_around
from feedalign_lab.scenes.rays import bent, rays_of_view, rays_through
from feedalign_lab.scenes.scene import Camera, Scene


def test_a_ray_goes_through_the_middle_of_its_pixel() -> None:
    # Twice as wide as high, pixels that are not square, an axis that is not in the middle.
    camera = Camera(8, 4, focal_x=10.0, focal_y=5.0, centre_x=3.0, centre_y=2.5)
    pose = pose_around(0.4)
    columns, rows = torch.tensor([0, 7, 3]), torch.tensor([0, 3, 1])
    rays = rays_through(camera, pose, columns, rows, is_forward=False)
    for ray, (column, row) in enumerate(zip(columns.tolist(), rows.tolist(), strict=True)):
        right, up, backwards = pose[:, 0].numpy(), pose[:, 1].numpy(), pose[:, 2].numpy()
        by_hand = (column + 0.5 - 3.0) / 10.0 * right - (row + 0.5 - 2.5) / 5.0 * up - backwards
        np.testing.assert_allclose(rays.directions[ray], by_hand, atol=1e-12)
        np.testing.assert_allclose(rays.looks[ray], by_hand / np.linalg.norm(by_hand), atol=1e-12)
        np.testing.assert_allclose(rays.origins[ray], pose[:, 3], atol=1e-12)


def test_the_rays_of_a_view_come_row_by_row() -> None:
    camera, pose = Camera.with_angle(5, 3, 0.7), pose_around(1.0)
    whole = rays_of_view(camera, pose, is_forward=False)
    assert len(whole) == 15
    one = rays_through(camera, pose, torch.tensor([1]), torch.tensor([2]), is_forward=False)
    torch.testing.assert_close(whole.directions[2 * 5 + 1], one.directions[0])


def test_the_angle_of_a_camera_spans_its_width() -> None:
    camera = Camera.with_angle(200, 100, 0.8)
    assert math.isclose(2 * math.atan(100 / camera.focal_x), 0.8)
    assert camera.focal_x == camera.focal_y


def test_a_reduced_camera_sees_the_same() -> None:
    camera = Camera(9, 6, 12.0, 11.0, 4.0, 3.5)
    small = camera.reduced(2)
    assert (small.width, small.height) == (4, 3)
    # The corner between the four pixels that are averaged is the middle of the new pixel.
    left = (2 * 1 + 1 - camera.centre_x) / camera.focal_x
    assert math.isclose((1 + 0.5 - small.centre_x) / small.focal_x, left)


def _perspective(camera: Camera, points: torch.Tensor) -> torch.Tensor:
    """Normalized device coordinates of points for a near plane at 1 and a far one at infinity."""
    x, y, z = points.unbind(-1)
    scale_x, scale_y = 2 * camera.focal_x / camera.width, 2 * camera.focal_y / camera.height
    return torch.stack([-scale_x * x / z, -scale_y * y / z, 1 + 2 / z], -1)


def test_a_bent_ray_holds_the_points_of_the_straight_one() -> None:
    camera = Camera(20, 10, 15.0, 12.0, 10.0, 5.0)
    draws = torch.Generator().manual_seed(0)
    origins = 0.2 * torch.randn(6, 3, dtype=torch.float64, generator=draws)
    directions = torch.randn(6, 3, dtype=torch.float64, generator=draws)
    directions[:, 2] = -1 - directions[:, 2].abs()
    new_origins, new_directions = bent(camera, origins, directions)
    start = origins + (-(1 + origins[:, 2:]) / directions[:, 2:]) * directions
    torch.testing.assert_close(new_origins, _perspective(camera, start))
    for further in (0.5, 3.0, 50.0):
        point = start + further * directions
        depth = 1 - start[:, 2:] / point[:, 2:]
        torch.testing.assert_close(new_origins + depth * new_directions, _perspective(camera, point))
    torch.testing.assert_close((new_origins + new_directions)[:, 2], torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("num_frequencies", [0, 1, 4])
def test_the_encoding_by_hand(num_frequencies: int) -> None:
    values = torch.linspace(-2, 3, 12, dtype=torch.float64).view(4, 3)
    made = encode(values, num_frequencies)
    np.testing.assert_allclose(made, encode_by_hand(values.numpy(), num_frequencies), atol=1e-12)
    assert made.shape[1] == encoded_width(3, num_frequencies)


def test_the_point_that_all_cameras_look_at() -> None:
    target = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    places = torch.tensor([[4.0, 0, 1], [0, 3, 2], [-2, 1, 3]], dtype=torch.float64)
    poses = torch.stack([looking_at(place, target, up) for place in places])
    torch.testing.assert_close(nearest_point(poses[:, :, 3], poses[:, :, 2]), target)


def test_a_film_goes_around_at_the_distance_of_the_cameras(made_scene: Any) -> None:
    scene: Scene = made_scene()
    poses = turn_around(scene, 8).double()
    places = poses[:, :, 3]
    torch.testing.assert_close(places.norm(dim=1), torch.full((8,), 4.0, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(places[:, 2], torch.full((8,), 1.5, dtype=torch.float64), atol=1e-4, rtol=0)
    # Opposite frames are on opposite sides, and every frame looks at the middle.
    torch.testing.assert_close(places[0, :2], -places[4, :2], atol=1e-4, rtol=0)
    towards = -places / places.norm(dim=1, keepdim=True)
    torch.testing.assert_close(-poses[:, :, 2], towards, atol=1e-4, rtol=0)


def test_a_film_of_a_forward_scene_sways_and_looks_forward(made_scene: Any) -> None:
    poses = turn_around(made_scene(is_forward=True), 8)
    assert float(poses[:, 0, 3].abs().max()) == pytest.approx(0.05, abs=1e-6)
    assert bool((poses[:, 2, 2] > 0.99).all())
