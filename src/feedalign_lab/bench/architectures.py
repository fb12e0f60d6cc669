"""The networks that are timed, each with a batch, a loss and the sizes that can be varied."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from feedalign_lab.language.transformer import Transformer, TransformerSize, points_of

Dimension = Literal["width", "depth", "batch", "steps"]
DIMENSIONS: tuple[Dimension, ...] = ("width", "depth", "batch", "steps")

_PIXELS, _CLASSES, _IMAGE, _ROW = 784, 10, 32, 28
_FIELDS, _EMBEDDING = 39, 10
_VOCABULARY = 256
# Two poolings by two leave 8 x 8 of 32 x 32; more layers of the CNN do not pool.
_MOST_POOLINGS = 3


@dataclass(frozen=True)
class Size:
    """How large a network and its batch are.

    Attributes:
        width: Units of hidden layers; channels of a CNN's first layer.
        depth: Hidden layers; convolutions of a CNN, blocks of a Transformer.
        batch: Samples of a step.
        steps: Of a sequence; 1 where there is none.
    """

    width: int
    depth: int
    batch: int
    steps: int = 1

    def with_(self, dimension: Dimension, value: int) -> "Size":
        """Return the size with another value of one dimension."""
        return replace(self, **{dimension: value})


@dataclass(frozen=True)
class Problem:
    """A network that starts the same at every call, and one batch.

    Attributes:
        model: The network.
        inputs: What it is called with.
        targets: What the loss compares its output with.
        loss: Of output and targets, a mean.
        points: Names of feedback points; None: all non-linearities.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    points: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        name: On the command line and in tables.
        size: At which it is timed.
        small: At which it is tried.
        varies: Dimensions that it has.
        build: Makes it.
        is_binary: Whether its output is one number, for a sigmoid.
    """

    name: str
    size: Size
    small: Size
    varies: tuple[Dimension, ...]
    build: Callable[[Size], Problem]
    is_binary: bool = False

    def describe(self, size: Size) -> str:
        """Return a size in words."""
        parts = {"width": "width", "depth": "depth", "batch": "batch", "steps": "T ="}
        return ", ".join(f"{parts[one]} {getattr(size, one)}" for one in self.varies)


def _draws() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _labels(size: Size) -> Tensor:
    return torch.randint(_CLASSES, (size.batch,), generator=_draws())


def perceptron(inputs: int, size: Size, outputs: int) -> nn.Sequential:
    """Return fully connected layers with ReLU.

    Args:
        inputs: Numbers per sample.
        size: Width and depth.
        outputs: Of the last layer.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(size.depth):
        layers += [nn.Linear(size.width if number else inputs, size.width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(size.width, outputs))


def _mlp(size: Size) -> Problem:
    x = torch.randn(size.batch, _PIXELS, generator=_draws())
    return Problem(perceptron(_PIXELS, size, _CLASSES), x, _labels(size), functional.cross_entropy)


def _recommender(size: Size) -> Problem:
    """The fully connected part of DeepFM, on embeddings of 39 fields."""
    x = torch.randn(size.batch, _FIELDS * _EMBEDDING, generator=_draws())
    clicks = torch.randint(2, (size.batch, 1), generator=_draws()).float()
    loss = functional.binary_cross_entropy_with_logits
    return Problem(perceptron(_FIELDS * _EMBEDDING, size, 1), x, clicks, loss)


def _cnn(size: Size) -> Problem:
    """Convolutions of 3 x 3, channels doubled and pixels halved in each direction, on images as CIFAR's."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels, side = 3, _IMAGE
    for number in range(size.depth):
        wider = size.width * 2 ** min(number, _MOST_POOLINGS - 1)
        layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU()]
        channels = wider
        if number < _MOST_POOLINGS:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    layers += [nn.Flatten(), nn.Linear(channels * side**2, 512), nn.ReLU(), nn.Linear(512, _CLASSES)]
    x = torch.randn(size.batch, 3, _IMAGE, _IMAGE, generator=_draws())
    return Problem(nn.Sequential(*layers), x, _labels(size), functional.cross_entropy)


class Reader(nn.Module):
    """Recurrent layers, whose last state a linear layer reads: `[N, T, 28]` to `[N, 10]`."""

    def __init__(self, kind: type[nn.RNN | nn.GRU], size: Size) -> None:
        super().__init__()
        self.rnn = kind(_ROW, size.width, num_layers=size.depth, batch_first=True)
        self.readout = nn.Linear(size.width, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        read: Tensor = self.readout(self.rnn(x)[0][:, -1])
        return read


def _recurrent(kind: type[nn.RNN | nn.GRU]) -> Callable[[Size], Problem]:
    def build(size: Size) -> Problem:
        torch.manual_seed(0)
        x = torch.randn(size.batch, size.steps, _ROW, generator=_draws())
        return Problem(Reader(kind, size), x, _labels(size), functional.cross_entropy)

    return build


def _of_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def _transformer(size: Size) -> Problem:
    """The lab's language model on bytes, a feedback point after each block, the error taken at the logits."""
    torch.manual_seed(0)
    shape = TransformerSize(size.depth, 4, size.width, 4 * size.width, size.steps, dropout=0.0)
    tokens = torch.randint(_VOCABULARY, (size.batch, size.steps + 1), generator=_draws())
    points = tuple(points_of("macro", size.depth))
    return Problem(Transformer(shape, _VOCABULARY), tokens[:, :-1], tokens[:, 1:].contiguous(), _of_tokens, points)


_FLAT: tuple[Dimension, ...] = ("width", "depth", "batch")
ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture("mlp-wide", Size(2048, 4, 256), Size(32, 3, 8), _FLAT, _mlp),
        Architecture("mlp-deep", Size(512, 16, 128), Size(16, 6, 8), _FLAT, _mlp),
        Architecture("cnn", Size(32, 3, 64), Size(4, 3, 4), _FLAT, _cnn),
        Architecture("rnn", Size(512, 1, 100, 28), Size(16, 1, 4, 6), DIMENSIONS, _recurrent(nn.RNN)),
        Architecture("gru", Size(512, 1, 100, 28), Size(16, 1, 4, 6), DIMENSIONS, _recurrent(nn.GRU)),
        Architecture("transformer", Size(128, 4, 16, 128), Size(16, 2, 2, 8), DIMENSIONS, _transformer),
        Architecture("recommender", Size(400, 3, 2048), Size(16, 3, 8), _FLAT, _recommender, is_binary=True),
    )
}
"""By name, in the order of tables."""
