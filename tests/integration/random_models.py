"""Architectures at random: layers of all kinds in a row, with branches, skips, shared and frozen parts and the like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

ACTIVATIONS: list[type[nn.Module]] = [nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.ReLU, nn.GELU, nn.ELU, nn.SiLU]
_TAKE_IN_PLACE = {nn.Hardtanh, nn.ReLU, nn.ELU, nn.SiLU}
# What these return may be changed in place: their derivative is made from what they were given.
_LET_CHANGE = {nn.GELU, nn.SiLU, nn.Softsign}

Inputs = Literal["rows", "images", "tokens"]
NUM_INPUTS = 4
_SIDE, _NUM_TOKENS = 4, 3


@dataclass(frozen=True)
class Block:
    """A layer with what stands around it.

    Attributes:
        width: Units, or channels of a convolution.
        activation: Its non-linearity.
        is_own: Whether its weights are its own; else those of the block before, where these fit.
        norm: What normalizes before the non-linearity.
        dropout: Probability, behind the non-linearity.
        is_frozen: Whether its weights stay.
        skip: What is added behind it, where shapes allow: the block's input; or what the non-linearity was given, which
            is a path that no feedback point cuts.
        has_branch: Whether a second layer stands beside the first.
        changes_in_place: Whether the non-linearity, or else what follows it, changes its input in place, if it may.
        is_reshaped: Whether tensors are folded and unfolded on the way.
    """

    width: int
    activation: type[nn.Module]
    is_own: bool
    norm: Literal["none", "layer", "batch"]
    dropout: float
    is_frozen: bool
    skip: Literal["none", "input", "around"]
    has_branch: bool
    changes_in_place: bool
    is_reshaped: bool


@dataclass(frozen=True)
class Architecture:
    """What a random model is made of.

    Attributes:
        inputs: What it is given.
        cell: A recurrent layer before the others; for tokens alone.
        blocks: Its hidden layers; the first of two or more is a convolution on images.
        has_one_activation: Whether one module is the non-linearity of all blocks.
        has_biases: Whether layers have them.
        has_function: Whether a function stands behind the output layer.
        answers_each_token: Whether tokens have an output each; else their mean has one.
        num_classes: Outputs.
        num_samples: In a batch.
        seed: Of weights and data.
    """

    inputs: Inputs
    cell: Literal["none", "RNN", "GRU", "LSTM"]
    blocks: tuple[Block, ...]
    has_one_activation: bool
    has_biases: bool
    has_function: bool
    answers_each_token: bool
    num_classes: int
    num_samples: int
    seed: int

    @property
    def is_recurrent(self) -> bool:
        """Whether a recurrent layer comes first."""
        return self.inputs == "tokens" and self.cell != "none"

    @property
    def kinds(self) -> list[str]:
        """What is special about it, for counts."""
        marks = {
            self.inputs: True,
            "recurrent": self.is_recurrent,
            "branches": any(block.has_branch for block in self.blocks),
            "shared layer": not all(block.is_own for block in self.blocks[1:]),
            "shared activation": self.has_one_activation and len(self.blocks) > 1,
            "skip": any(block.skip == "input" for block in self.blocks[1:]),
            "skip that no point cuts": any(block.skip == "around" for block in self.blocks),
            "normalization": any(block.norm != "none" for block in self.blocks),
            "dropout": any(block.dropout for block in self.blocks),
            "frozen part": any(block.is_frozen for block in self.blocks),
            "in place": any(block.changes_in_place for block in self.blocks),
            "reshaped": any(block.is_reshaped for block in self.blocks),
        }
        return [name for name, is_so in marks.items() if is_so]


class RandomModel(nn.Module):
    """The model of an architecture, in float64; the global random state stays as it is."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        with torch.random.fork_rng():
            torch.manual_seed(architecture.seed)
            self._build()
        self.double()

    def _build(self) -> None:
        built = self.architecture
        width = 2 if built.inputs == "images" else NUM_INPUTS
        if built.is_recurrent:
            self.cell = getattr(nn, built.cell)(width, 3, batch_first=True)
            width = 3
        for number, block in enumerate(built.blocks):
            is_conv = self._is_conv(number)
            if built.inputs == "images" and not is_conv and (number == 0 or self._is_conv(number - 1)):
                width *= _SIDE**2
            for part in ("fc", "side")[: 1 + block.has_branch]:
                self._add_layer(f"{part}{number}", width, block, is_conv)
            norms = {"layer": nn.GroupNorm(1, block.width) if is_conv else nn.LayerNorm(block.width)}
            norms["batch"] = nn.BatchNorm2d(block.width) if is_conv else nn.BatchNorm1d(block.width)
            self.add_module(f"norm{number}", norms.get(block.norm, nn.Identity()))
            self.add_module(f"drop{number}", nn.Dropout(block.dropout))
            if number == 0 or not built.has_one_activation:
                takes = block.changes_in_place and block.activation in _TAKE_IN_PLACE
                self.add_module(f"act{number}", block.activation(inplace=True) if takes else block.activation())
            width = block.width
        if built.inputs == "images" and self._is_conv(len(built.blocks) - 1):
            width *= _SIDE**2
        self.head = nn.Linear(width, built.num_classes, bias=built.has_biases)

    def _add_layer(self, name: str, width: int, block: Block, is_conv: bool) -> None:
        made = nn.Conv2d(width, block.width, 3, padding=1) if is_conv else nn.Linear(width, block.width)
        if not self.architecture.has_biases:
            made.bias = None
        previous = getattr(self, f"fc{int(name[-1]) - 1}", None)
        if not block.is_own and name.startswith("fc") and previous is not None:
            if type(previous) is type(made) and previous.weight.shape == made.weight.shape:
                made = previous
        else:
            made.requires_grad_(not block.is_frozen)
        self.add_module(name, made)

    def _is_conv(self, number: int) -> bool:
        return self.architecture.inputs == "images" and number < max(1, len(self.architecture.blocks) - 1)

    def forward(self, x: Tensor) -> Tensor:
        built = self.architecture
        if built.is_recurrent:
            x, _ = self.cell(x)
        for number, block in enumerate(built.blocks):
            if x.dim() == 4 and not self._is_conv(number):
                x = x.flatten(1)
            x = self._through(number, block, x)
        if x.dim() == 4:
            x = x.flatten(1)
        if x.dim() == 3 and not built.answers_each_token:
            x = x.mean(1)
        y = self.head(x)
        return y * 1.0 if built.has_function else y

    def _through(self, number: int, block: Block, x: Tensor) -> Tensor:
        part = dict(self.named_children())
        part.setdefault(f"fc{number}", self.get_submodule(f"fc{number}"))
        z = part[f"fc{number}"](x)
        if block.has_branch:
            z = z + part[f"side{number}"](x)
        if block.norm == "batch" and z.dim() == 3:
            z = part[f"norm{number}"](z.flatten(0, 1)).view_as(z)
        else:
            z = part[f"norm{number}"](z)
        given = z
        if block.is_reshaped:
            z = z.unflatten(0, (1, -1)).squeeze(0).transpose(0, -1).transpose(0, -1)
        h = part["act0" if self.architecture.has_one_activation else f"act{number}"](z)
        activation = self.architecture.blocks[0 if self.architecture.has_one_activation else number].activation
        if block.changes_in_place and activation in _LET_CHANGE:
            h = h.mul_(2.0)
        h = part[f"drop{number}"](h)
        if block.skip == "input" and number > 0 and h.shape == x.shape:
            return h + x
        return h + given if block.skip == "around" and not block.changes_in_place else h

    @property
    def points(self) -> list[str]:
        """Names of the activation modules."""
        return [name for name, _ in self.named_children() if name.startswith("act")]

    @property
    def layers(self) -> list[str]:
        """Names of the linear layers and convolutions, each once."""
        return [name for name, module in self.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def data_for(architecture: Architecture) -> tuple[Tensor, Tensor]:
    """A batch: inputs, float64, and class indices."""
    draws = torch.Generator().manual_seed(architecture.seed)
    num = architecture.num_samples
    shape = {"rows": (NUM_INPUTS,), "images": (2, _SIDE, _SIDE), "tokens": (_NUM_TOKENS, NUM_INPUTS)}
    x = torch.randn(num, *shape[architecture.inputs], generator=draws, dtype=torch.float64)
    has_each = architecture.inputs == "tokens" and architecture.answers_each_token
    targets = (num, _NUM_TOKENS) if has_each else (num,)
    return x, torch.randint(architecture.num_classes, targets, generator=draws)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """At most four hidden layers, not all of them frozen."""
    blocks = tuple(draw(st.lists(_blocks(), min_size=1, max_size=4).filter(_some_learn)))
    return Architecture(
        inputs=draw(st.sampled_from(["rows", "rows", "images", "tokens"])),
        cell=draw(st.sampled_from(["none", "none", "RNN", "GRU", "LSTM"])),
        blocks=blocks,
        has_one_activation=draw(st.integers(0, 3)) == 0,
        has_biases=draw(st.booleans()),
        has_function=draw(st.integers(0, 3)) == 0,
        answers_each_token=draw(st.booleans()),
        num_classes=draw(st.integers(2, 4)),
        num_samples=draw(st.integers(2, 5)),
        seed=draw(st.integers(0, 1000)),
    )


def _some_learn(blocks: list[Block]) -> bool:
    return not all(block.is_frozen for block in blocks)


def _blocks() -> st.SearchStrategy[Block]:
    def rarely(value: Any, otherwise: Any) -> st.SearchStrategy[Any]:
        return st.sampled_from([otherwise, otherwise, otherwise, value])

    return st.builds(
        Block,
        width=st.sampled_from([3, 3, 5]),
        activation=st.sampled_from(ACTIVATIONS),
        is_own=rarely(False, True),
        norm=st.sampled_from(["none", "none", "none", "layer", "batch"]),
        dropout=rarely(0.3, 0.0),
        is_frozen=rarely(True, False),
        skip=st.sampled_from(["none", "none", "none", "none", "input", "input", "around"]),
        has_branch=rarely(True, False),
        changes_in_place=rarely(True, False),
        is_reshaped=rarely(True, False),
    )
