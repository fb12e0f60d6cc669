"""The networks that say what is where: points and directions to colour and density."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign_lab.scenes.encoding import encode, encoded_width

_COLOURS, _DENSITY = 3, 1
# Where no density is above zero at the start, none ever will be: no gradient goes through its rectifier. With PyTorch's
# own draw that happened to 32% of the large networks and 3% of the small ones.
_FOG = 0.1


@dataclass(frozen=True)
class FieldShape:
    """How a network is built.

    Attributes:
        width: Units of a layer.
        num_layers: Layers before density and colour part.
        skips: Layers, from 0, that see the encoded point again beside what the layer before made.
        sees_directions: Whether the colour depends on the direction, through a layer of half the width.
        point_frequencies: Of the encoding of points.
        direction_frequencies: Of the encoding of directions.
    """

    width: int = 256
    num_layers: int = 8
    skips: tuple[int, ...] = (5,)
    sees_directions: bool = True
    point_frequencies: int = 10
    direction_frequencies: int = 4

    @property
    def point_width(self) -> int:
        """Numbers of an encoded point."""
        return encoded_width(3, self.point_frequencies)

    @property
    def direction_width(self) -> int:
        """Numbers of an encoded direction."""
        return encoded_width(3, self.direction_frequencies)


class Field(nn.Module):
    """Encoded points, and directions where they are seen, to three colours and a density, all before non-linearities.

    Every layer has a feedback point of its own: the rectifiers, and one placed by hand behind the layer `feature`,
    which has no non-linearity. Points are rows, so that one feedback matrix serves them all.

    Args:
        shape: How it is built.

    Source: Mildenhall et al. (2020), Fig. 7, as its code has it: one layer, not four, behind the directions.

    Differs from the paper: the bias of the density starts at 0.1, a thin fog everywhere.
    """

    def __init__(self, shape: FieldShape) -> None:
        super().__init__()
        self.shape = shape
        seen = [shape.point_width, *[shape.width] * (shape.num_layers - 1)]
        for number in shape.skips:
            seen[number] += shape.point_width
        self.layers = nn.ModuleList(nn.Linear(num_inputs, shape.width) for num_inputs in seen)
        self.activations = nn.ModuleList(nn.ReLU() for _ in seen)
        if not shape.sees_directions:
            self.output = nn.Linear(shape.width, _COLOURS + _DENSITY)
            nn.init.constant_(self.output.bias[_COLOURS:], _FOG)
            return
        self.density = nn.Linear(shape.width, _DENSITY)
        nn.init.constant_(self.density.bias, _FOG)
        self.feature = nn.Linear(shape.width, shape.width)
        self.feature_point = fa.FeedbackPoint()
        self.view = nn.Linear(shape.width + shape.direction_width, shape.width // 2)
        self.view_activation = nn.ReLU()
        self.colour = nn.Linear(shape.width // 2, _COLOURS)

    def forward(self, points: Tensor, directions: Tensor | None = None) -> Tensor:
        """Return colours and density, `[P, 4]`.

        Args:
            points: Encoded, `[P, point_width]`.
            directions: Encoded, `[P, direction_width]`; None where directions are not seen.
        """
        h = points
        for number, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            h = activation(layer(torch.cat([points, h], -1) if number in self.shape.skips else h))
        if directions is None:
            made: Tensor = self.output(h)
            return made
        feature = self.feature_point(self.feature(h))
        seen = self.view_activation(self.view(torch.cat([feature, directions], -1)))
        return torch.cat([self.colour(seen), self.density(h)], -1)

    def inputs(self, points: Tensor, looks: Tensor) -> tuple[Tensor, ...]:
        """Return what `forward` takes.

        Args:
            points: Places in the scene, `[R, S, 3]`.
            looks: The direction of each ray, of length 1, `[R, 3]`.

        Returns:
            Encoded points, `[R * S, ...]`, and directions likewise where they are seen.
        """
        encoded = encode(points.flatten(0, 1), self.shape.point_frequencies)
        if not self.shape.sees_directions:
            return (encoded,)
        directions = encode(looks, self.shape.direction_frequencies)
        return encoded, directions.repeat_interleave(points.shape[1], 0)


class Radiance(nn.Module):
    """One network for a first look, if there is one, and one for what is shown; a rule is attached to each.

    Args:
        coarse: Shape of the first; None for none.
        fine: Shape of the second.
    """

    def __init__(self, coarse: FieldShape | None, fine: FieldShape) -> None:
        super().__init__()
        self.coarse = None if coarse is None else Field(coarse)
        self.fine = Field(fine)

    def fields(self) -> dict[str, Field]:
        """Return the networks by name, in the order in which they run."""
        return {"fine": self.fine} if self.coarse is None else {"coarse": self.coarse, "fine": self.fine}
