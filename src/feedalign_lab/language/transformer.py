"""The Transformer of the language-modelling experiment, and where its feedback points are."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.language.attention import ATTENTION_NAMES, AttentionName, make_attention

Placement = Literal["macro", "micro"]
"""A feedback point after each block; or after each normalization and the activation between."""
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

ErrorAt = Literal["hidden", "logits"]
"""Where the error is taken that is sent back: before the vocabulary projection, or after it."""

_EMBEDDING_RANGE = 0.1
_LONGEST_WAVE = 10_000.0


@dataclass(frozen=True)
class TransformerSize:
    """How large a Transformer is; the defaults are those of the paper.

    Attributes:
        num_layers: Blocks.
        num_heads: Heads of attention, which divide the width.
        width: Numbers per position.
        inner_width: Units between the two layers of a block's feed-forward part.
        context: Positions that there are at most.
        dropout: Probability of dropping, of embeddings, attention weights, activations and the ends of branches.
        attention: How positions read each other.
    """

    num_layers: int = 6
    num_heads: int = 8
    width: int = 512
    inner_width: int = 2048
    context: int = 128
    dropout: float = 0.1
    attention: AttentionName = "standard"

    def __post_init__(self) -> None:
        """Refuse sizes of which there is no Transformer."""
        for what, value in (
            ("layers", self.num_layers),
            ("heads", self.num_heads),
            ("numbers per position", self.width),
            ("inner units", self.inner_width),
            ("positions", self.context),
        ):
            if value < 1:
                raise SettingError(f"The number of {what} must be at least 1, not {value}.")
        if self.width % self.num_heads or self.width % 2:
            raise SettingError(
                f"The width must be even and a multiple of the heads, to be shared among them: {self.width} is not, "
                f"with {self.num_heads} heads."
            )
        if not 0 <= self.dropout < 1:
            raise SettingError(f"The dropout must be at least 0 and below 1, not {self.dropout}.")
        if self.attention not in ATTENTION_NAMES:
            raise UnknownNameError("attention", self.attention, ATTENTION_NAMES)


class Block(nn.Module):
    """Attention and two layers at each position, both normalized behind their sum with the input.

    Every path through a block ends in its second normalization, and every path through its first part in the first:
    so a feedback point behind either cuts all of them.
    """

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        self.attention = make_attention(size.attention, size.width, size.num_heads, size.dropout, size.context)
        self.norm1 = nn.LayerNorm(size.width)
        self.inner = nn.Linear(size.width, size.inner_width)
        self.activation = nn.ReLU()
        self.outer = nn.Linear(size.inner_width, size.width)
        self.norm2 = nn.LayerNorm(size.width)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[N, T, width]`."""
        x = self.norm1(x + self.dropout(self.attention(x)))
        inner = self.dropout(self.activation(self.inner(x)))
        made: Tensor = self.norm2(x + self.dropout(self.outer(inner)))
        return made


class Hidden(nn.Module):
    """What all blocks together make: where the error may be taken, behind the last block's own feedback point."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, as the output of an operation of its own in the graph."""
        return x.view_as(x)


class Transformer(nn.Module):
    """A causal Transformer over tokens, `[N, T]` to logits `[N, T, vocabulary]`.

    Differs from the paper: it does not say how embeddings start and are scaled, nor which side of the sum the
    normalization stands on; this is as in its public code.

    Args:
        size: How large it is.
        vocab_size: Number of tokens.

    Source: Launay et al. (2020), section 3.3; sinusoidal positions as in Vaswani et al. (2017), section 3.5.
    """

    positions: Tensor

    def __init__(self, size: TransformerSize, vocab_size: int) -> None:
        super().__init__()
        self.size, self.vocab_size = size, vocab_size
        self.embedding = nn.Embedding(vocab_size, size.width)
        self.register_buffer("positions", sinusoids(size.context, size.width), persistent=False)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.num_layers))
        self.hidden = Hidden()
        self.logits = nn.Linear(size.width, vocab_size)
        for weight in (self.embedding.weight, self.logits.weight):
            nn.init.uniform_(weight, -_EMBEDDING_RANGE, _EMBEDDING_RANGE)
        nn.init.zeros_(self.logits.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the token after each position.

        Args:
            tokens: Token numbers, int64, `[N, T]` with at most as many positions as the context has.

        Raises:
            SettingError: There are more positions.
        """
        num_positions = tokens.shape[1]
        if num_positions > self.size.context:
            raise SettingError(
                f"There are {num_positions} tokens in a sequence, and the context has {self.size.context}: cut it "
                "shorter, or build the model with a longer context."
            )
        x = self.embedding(tokens) * math.sqrt(self.size.width) + self.positions[:num_positions]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.logits(self.hidden(x))
        return logits


def points_of(placement: Placement, num_layers: int) -> list[str]:
    """Return the names of the modules at whose outputs teaching signals enter.

    Args:
        placement: After each block, or three in each: behind both normalizations and the activation.
        num_layers: Blocks.
    """
    inside = {"macro": ("",), "micro": (".norm1", ".activation", ".norm2")}[placement]
    return [f"blocks.{number}{name}" for number in range(num_layers) for name in inside]


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Return sines and cosines of growing wave length, `[positions, width]`."""
    places = torch.arange(num_positions)[:, None]
    waves = torch.exp(-math.log(_LONGEST_WAVE) * torch.arange(0, width, 2) / width)
    return torch.stack([(places * waves).sin(), (places * waves).cos()], -1).flatten(1)
