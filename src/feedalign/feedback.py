"""Drawing feedback matrices: pure functions of shapes and a generator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor

from feedalign.errors import AttachError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Draw(ABC):
    """How feedback is drawn.

    A draw is called with the shapes of all matrices at once: `[C, D]` (outputs by features) for direct rules, the
    weight's own shape `[out, in, ...]` for layer-wise ones. `fan` below is the product of all sizes but the first:
    D, or the layer's fan-in.
    """

    def __call__(self, shapes: Sequence[Shape], generator: Generator) -> list[Tensor]:
        """Draw one float32 tensor on the CPU for each shape.

        Args:
            shapes: The shapes to draw, in the order of the layers.
            generator: A CPU generator; it is advanced.

        Returns:
            One tensor per shape.
        """
        return [self.draw(shape, generator) for shape in shapes]

    @abstractmethod
    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""


def _uniform(shape: Shape, bound: float, generator: Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


@dataclass(frozen=True)
class KaimingUniform(Draw):
    """`U(+-sqrt(6 / fan))`: Frenkel et al. 2021, Bacho & Chu 2024."""

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        return _uniform(shape, math.sqrt(6 / math.prod(shape[1:])), generator)


@dataclass(frozen=True)
class ScaledUniform(Draw):
    """`U(+-1 / sqrt(fan))`: Nokland 2016; also torch's initial weights of linear and convolution layers."""

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        return _uniform(shape, 1 / math.sqrt(math.prod(shape[1:])), generator)


@dataclass(frozen=True)
class Normal(Draw):
    """`N(0, std^2)`.

    Args:
        std: Standard deviation; None: `1 / sqrt(fan)`.
    """

    std: float | None = None

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        std = 1 / math.sqrt(math.prod(shape[1:])) if self.std is None else self.std
        return torch.empty(shape).normal_(0.0, std, generator=generator)


@dataclass(frozen=True)
class Orthogonal(Draw):
    """A (semi-)orthogonal matrix, uniform over all of them, of the shape flattened to `[shape[0], fan]`.

    Args:
        gain: Factor on the orthonormal rows (or columns).
    """

    gain: float = 1.0

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        flat = torch.empty(shape[0], math.prod(shape[1:]))
        torch.nn.init.orthogonal_(flat, gain=self.gain, generator=generator)
        return flat.reshape(shape)


@dataclass(frozen=True)
class Zeros(Draw):
    """Zeros, the start of feedback that is learned: Bacho & Chu 2022, section IV-A."""

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Return zeros of the given shape; nothing is drawn."""
        del generator
        return torch.zeros(shape)


@dataclass(frozen=True)
class Sparse(Draw):
    """Another draw of which each entry is kept with probability `density`, scaled to keep the variance.

    Args:
        density: Expected fraction of entries that are not zero, in (0, 1].
        values: The draw of the kept entries.
    """

    density: float = 0.1
    values: Draw = field(default_factory=KaimingUniform)

    def __post_init__(self) -> None:
        _check_density(self.density)

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        kept = torch.rand(shape, generator=generator) < self.density
        return self.values.draw(shape, generator) * kept / math.sqrt(self.density)


@dataclass(frozen=True)
class Ternary(Draw):
    """Entries of -1, 0 and 1 times `1 / sqrt(density * fan)`, which makes the variance `1 / fan`.

    Args:
        density: Expected fraction of entries that are not zero, in (0, 1].
    """

    density: float = 2 / 3

    def __post_init__(self) -> None:
        _check_density(self.density)

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        uniform = torch.rand(shape, generator=generator)
        signs = (uniform < self.density / 2).float() - (uniform > 1 - self.density / 2).float()
        return signs / math.sqrt(self.density * math.prod(shape[1:]))


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise AttachError(f"density is {density}; it is the fraction of entries kept, above 0 and at most 1.")


@dataclass(frozen=True)
class SharedSlice(Draw):
    """One matrix `U(+-1)` of the largest layer's size; each layer takes its first columns.

    Layers of one size share exactly the same feedback.

    Args:
        normalisation: `"layer"` divides by the square root of each layer's own size (the paper's text), `"largest"`
            by that of the largest one, for all layers (the authors' code).

    Source: Launay et al. 2020, appendix C.
    """

    normalisation: Literal["layer", "largest"] = "layer"

    def __call__(self, shapes: Sequence[Shape], generator: Generator) -> list[Tensor]:
        """Draw one matrix and slice it for every shape; all shapes have the same number of rows.

        Args:
            shapes: The shapes to draw, in the order of the layers.
            generator: A CPU generator; it is advanced.

        Returns:
            One tensor per shape.

        Raises:
            AttachError: The shapes have different numbers of rows, as those of layer-wise rules have.
        """
        if len({shape[0] for shape in shapes}) > 1:
            raise AttachError(
                f"SharedSlice needs one number of outputs for all layers and got {sorted({s[0] for s in shapes})}; "
                "use it with direct rules (DFA, DRTP), or draw each matrix on its own, e.g. KaimingUniform()."
            )
        widths = [math.prod(shape[1:]) for shape in shapes]
        largest = max(widths, default=0)
        shared = _uniform((shapes[0][0], largest), 1.0, generator) if shapes else torch.empty(0)
        return [
            (shared[:, :width] / math.sqrt(self.size(width, largest))).reshape(shape)
            for shape, width in zip(shapes, widths, strict=True)
        ]

    def size(self, width: int, largest: int) -> int:
        """Return the number of features by whose square root a layer's columns are divided.

        Args:
            width: Features of the layer.
            largest: Features of the largest layer.
        """
        return width if self.normalisation == "layer" else largest

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """Draw one matrix of the given shape."""
        return self([shape], generator)[0]


@dataclass(frozen=True)
class Projection:
    """The user's own `error @ feedback`, made elsewhere: an optical or neuromorphic device, a simulator of one.

    Args:
        project: Called in the backward with what the rule broadcasts, `[rows, C]`, and the feedback point's name;
            returns `[rows, D]`, where D is the number of features of that point.
    """

    project: Callable[[Tensor, str], Tensor]


PRESETS: dict[str, Draw] = {
    "nokland2016": ScaledUniform(),
    "launay2020": SharedSlice(normalisation="largest"),
    "frenkel2021": KaimingUniform(),
    "bacho2024": KaimingUniform(),
}
"""Draws by the paper whose choice they are."""


_LOW32 = 0xFFFFFFFF


def counter_uniform(shape: Shape, seed: Tensor, counter: Tensor) -> Tensor:
    """Draw `U(+-1 / sqrt(fan))` as a pure function of a seed and a counter, the same bits on every device.

    Each entry's index goes twice through a 32-bit mixing function, keyed by the seed and the counter. Plain tensor
    operations on non-negative int64: it compiles, batches and touches no generator.

    Args:
        shape: The shape to draw.
        seed: int64 scalar, not negative.
        counter: int64 scalar, not negative; the number of the draw.

    Returns:
        A float32 tensor of the given shape.
    """
    key = _mix32(seed & _LOW32)
    for word in (seed >> 32, counter & _LOW32, counter >> 32):
        key = _mix32(key ^ word)
    index = torch.arange(math.prod(shape), device=seed.device, dtype=torch.int64)
    # Two keys: with one, an index of zero would cancel it.
    bits = _mix32(_mix32((index + key) & _LOW32) ^ _mix32(key ^ 0x9E3779B9))
    unit = (bits >> 8).to(torch.float32) * 2.0**-24
    # A product, not a quotient: devices differ in how they divide by a number.
    return ((2 * unit - 1) * (1 / math.sqrt(math.prod(shape[1:])))).reshape(shape)


def _mix32(bits: Tensor) -> Tensor:
    """A bijection of 32-bit words that flips half the bits for any change.

    Both multipliers are below 2^31, so that no product leaves int64: overflow of signed integers is undefined in C++,
    and compiled code gave other numbers for a 64-bit mixer.
    """
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & _LOW32
    bits = ((bits ^ (bits >> 15)) * 0x735A2D97) & _LOW32
    return bits ^ (bits >> 15)
