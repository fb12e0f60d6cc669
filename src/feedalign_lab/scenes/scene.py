"""What a scene consists of: a camera, and pictures with the places they were taken from."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from feedalign_lab.errors import SceneError


@dataclass(frozen=True)
class Camera:
    """A camera without distortion; lengths are in pixels.

    Attributes:
        width: Of its pictures.
        height: Of its pictures.
        focal_x: Focal length in widths of a pixel.
        focal_y: Focal length in heights of a pixel.
        centre_x: Where the optical axis meets the picture, from its left edge.
        centre_y: The same from its upper edge.
    """

    width: int
    height: int
    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float

    @classmethod
    def with_angle(cls, width: int, height: int, angle: float) -> "Camera":
        """A camera with square pixels that looks through the middle of its pictures.

        Args:
            width: Pixels.
            height: Pixels.
            angle: What a picture spans from left to right, in radians.
        """
        focal = width / (2 * math.tan(angle / 2))
        return cls(width, height, focal, focal, width / 2, height / 2)

    def scaled(self, width: int, height: int) -> "Camera":
        """The same camera, for pictures that were stretched to another size.

        Args:
            width: Pixels.
            height: Pixels.
        """
        x, y = width / self.width, height / self.height
        return Camera(width, height, self.focal_x * x, self.focal_y * y, self.centre_x * x, self.centre_y * y)

    def fitted(self, size: tuple[int, int], where: str) -> "Camera":
        """The same camera, for pictures found in another size of the same proportions.

        Args:
            size: Width and height of the pictures.
            where: What describes the camera, for the sentence.

        Raises:
            SceneError: The proportions differ.
        """
        if abs(self.width * size[1] - self.height * size[0]) > max(self.width, self.height):
            raise SceneError(
                f"{where} describes pictures of {self.width}x{self.height} pixels and those found are "
                f"{size[0]}x{size[1]}: pictures may be scaled, but must keep the proportions."
            )
        return self.scaled(*size)

    def reduced(self, factor: int) -> "Camera":
        """The same camera, for pictures averaged over squares of pixels; what does not fill a square is cut off.

        Args:
            factor: Pixels along the side of a square.
        """
        return Camera(
            self.width // factor,
            self.height // factor,
            self.focal_x / factor,
            self.focal_y / factor,
            self.centre_x / factor,
            self.centre_y / factor,
        )


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures, and where they were taken from.

    Attributes:
        names: Of the pictures' files.
        pixels: uint8 `[V, H, W, 3]`.
        poses: float32 `[V, 3, 4]`: the directions to the right, up and backwards of each camera, and its place.
    """

    names: tuple[str, ...]
    pixels: Tensor
    poses: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, numbers: list[int]) -> "Views":
        """Some of the views.

        Args:
            numbers: Which, from 0.
        """
        return Views(tuple(self.names[number] for number in numbers), self.pixels[numbers], self.poses[numbers])

    def to(self, device: torch.device) -> "Views":
        """The same views on a device.

        Args:
            device: The device.
        """
        return replace(self, pixels=self.pixels.to(device), poses=self.poses.to(device))


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene, ready to train on.

    Attributes:
        name: What the user typed.
        camera: Of all pictures.
        train: What is trained on.
        validation: What choices are made on.
        test: What results are measured on.
        near: Where rays begin, in units of the scene; 0 where `is_forward`.
        far: Where rays end; 1 where `is_forward`.
        background: Brightness behind everything: 1 where transparent pictures were laid on white. None: black, which
            adds nothing.
        is_forward: Whether all cameras look the same way, so that rays are bent to reach infinity at their end.
        focus: How far in front of the cameras the scene is about.
    """

    name: str
    camera: Camera
    train: Views
    validation: Views
    test: Views
    near: float
    far: float
    background: float | None
    is_forward: bool = False
    focus: float = 1.0

    def to(self, device: torch.device) -> "Scene":
        """The same scene with its views on a device.

        Args:
            device: The device.
        """
        parts = [views.to(device) for views in (self.train, self.validation, self.test)]
        return replace(self, train=parts[0], validation=parts[1], test=parts[2])


def spread_out(count: int, wanted: int) -> list[int]:
    """Numbers spread evenly over a range.

    Args:
        count: Length of the range, which begins at 0.
        wanted: How many; never more than there are.
    """
    wanted = min(count, wanted)
    return [int((place + 0.5) * count / wanted) for place in range(wanted)]
