"""Causal attention, and what may stand in its place: Synthesizers and fixed patterns."""

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign_lab.errors import SettingError

AttentionName = Literal["standard", "dense-synthesizer", "random-synthesizer", "fixed"]
ATTENTION_NAMES: tuple[AttentionName, ...] = get_args(AttentionName)

NUM_FIXED_PATTERNS = 4
# How steeply the fixed patterns prefer what lies near: the power in Raganato et al. (2020).
_STEEPNESS = 3


class CausalAttention(nn.Module, ABC):
    """Each position reads the values at itself and before it, `[N, T, width]` to `[N, T, width]`, in several heads.

    A subclass says with what weights.

    Args:
        width: Numbers per position.
        num_heads: Heads, which divide the width.
        dropout: Probability of dropping a weight.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position reads, `[N, T, width]`."""
        read = self.attend(x, self.in_heads(self.value(x)))
        made: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return made

    @abstractmethod
    def attend(self, x: Tensor, values: Tensor) -> Tensor:
        """Return the weighted values of each head, `[N, heads, T, width / heads]`."""

    def in_heads(self, projected: Tensor) -> Tensor:
        """Split `[N, T, width]` into heads, `[N, heads, T, width / heads]`."""
        split: Tensor = projected.unflatten(2, (self.num_heads, -1))
        return split.transpose(1, 2)

    def mix(self, scores: Tensor, values: Tensor) -> Tensor:
        """Weigh values by the softmax of scores `[..., T, T]`, of which those of later positions count nothing."""
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        read: Tensor = F.dropout(weights, self.dropout, self.training) @ values
        return read


class StandardAttention(CausalAttention):
    """Scaled products of queries and keys: Vaswani et al. (2017), equation 1."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def attend(self, x: Tensor, values: Tensor) -> Tensor:
        """Attend by content."""
        query, key = self.in_heads(self.query(x)), self.in_heads(self.key(x))
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, values, is_causal=True, dropout_p=dropout)


class DenseSynthesizer(CausalAttention):
    """Scores made of each position alone by two layers: Tay et al. (2020), equation 3.

    Args:
        width: Numbers per position.
        num_heads: Heads.
        dropout: Probability of dropping a weight.
        context: Positions that there are at most, hence scores per position and head.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, context: int) -> None:
        super().__init__(width, num_heads, dropout)
        self.inner, self.activation = nn.Linear(width, width), nn.ReLU()
        self.scores = nn.Linear(width, num_heads * context)

    def attend(self, x: Tensor, values: Tensor) -> Tensor:
        """Attend by what stands at the reading position."""
        scores = self.in_heads(self.scores(self.activation(self.inner(x))))
        return self.mix(scores[..., : x.shape[1]], values)


class RandomSynthesizer(CausalAttention):
    """Scores that are parameters, the same for every text: Tay et al. (2020), equation 4.

    Args:
        width: Numbers per position.
        num_heads: Heads.
        dropout: Probability of dropping a weight.
        context: Positions that there are at most.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, context: int) -> None:
        super().__init__(width, num_heads, dropout)
        self.scores = nn.Parameter(torch.randn(num_heads, context, context))

    def attend(self, x: Tensor, values: Tensor) -> Tensor:
        """Attend by position."""
        return self.mix(self.scores[:, : x.shape[1], : x.shape[1]], values)


class FixedPatterns(CausalAttention):
    """Weights that nothing learns: the position itself, the one before, those before that, and the beginning.

    The patterns of Raganato et al. (2020) that see nothing later, of which there are four, one to a head. "Those
    before" weighs the nearer ones more, "the beginning" the earlier ones, by the third power of the place.

    Args:
        width: Numbers per position.
        num_heads: Must be 4.
        dropout: Is not used: there are no scores to drop.
        context: Positions that there are at most.

    Raises:
        SettingError: There are not 4 heads.
    """

    weights: Tensor

    def __init__(self, width: int, num_heads: int, dropout: float, context: int) -> None:
        if num_heads != NUM_FIXED_PATTERNS:
            raise SettingError(
                f"There are {NUM_FIXED_PATTERNS} fixed patterns that see nothing later, one to a head, and {num_heads} "
                f"heads: take --heads {NUM_FIXED_PATTERNS}."
            )
        super().__init__(width, num_heads, dropout)
        self.register_buffer("weights", fixed_patterns(context), persistent=False)

    def attend(self, x: Tensor, values: Tensor) -> Tensor:
        """Attend by position."""
        scores = self.weights[:, : x.shape[1], : x.shape[1]]
        return (scores / scores.sum(-1, keepdim=True)) @ values


def fixed_patterns(context: int) -> Tensor:
    """Return the weights of the four fixed patterns, `[4, context, context]`, rows of which sum to 1.

    Args:
        context: Positions.
    """
    reader, read = torch.arange(context)[:, None], torch.arange(context)[None, :]
    own = (reader == read).float()
    before = (read == (reader - 1).clamp(min=0)).float()
    left = torch.where(read <= reader - 2, (read + 1.0) ** _STEEPNESS, 0.0)
    beginning = torch.where(read <= reader, (reader - read + 1.0) ** _STEEPNESS, 0.0)
    # The first two positions have nothing so far to the left, and read what is there.
    left = torch.where(reader < 2, own, left)
    stacked = torch.stack([own, before, left, beginning])
    return stacked / stacked.sum(-1, keepdim=True)


def make_attention(name: AttentionName, width: int, num_heads: int, dropout: float, context: int) -> CausalAttention:
    """Make the attention of a name.

    Args:
        name: One of `ATTENTION_NAMES`.
        width: Numbers per position.
        num_heads: Heads.
        dropout: Probability of dropping a weight.
        context: Positions that there are at most.

    Returns:
        The attention, with weights as torch draws them.

    Raises:
        SettingError: There are fixed patterns for another number of heads.
    """
    match name:
        case "standard":
            return StandardAttention(width, num_heads, dropout)
        case "dense-synthesizer":
            return DenseSynthesizer(width, num_heads, dropout, context)
        case "random-synthesizer":
            return RandomSynthesizer(width, num_heads, dropout, context)
        case "fixed":
            return FixedPatterns(width, num_heads, dropout, context)
