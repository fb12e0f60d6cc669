"""A small causal Transformer of residual blocks, as it stands in people's code: fused attention, no points by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import feedalign as fa
from attach.models import Seeded
from integration.gradients import attached

VOCABULARY, CONTEXT, WIDTH = 11, 8, 16


class CausalAttention(nn.Module):
    """Self-attention of four heads over the positions up to one's own."""

    def __init__(self) -> None:
        super().__init__()
        # No bias: that of the keys cancels in the softmax, and Adam would make steps of the rounding that is left.
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a skip; normalized before (`pre`) or after it."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm, self.attention = norm, CausalAttention()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm == "pre":
            x = x + self.attention(self.norm1(x))
            return x + self.feed_forward(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Transformer(Seeded):
    """Embeddings of tokens and positions, blocks, a head: indices `[N, T]` to logits `[N, T, 11]`."""

    def build(self, norm: str = "pre", num_blocks: int = 2) -> None:
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block(norm) for _ in range(num_blocks))
        self.norm_out = nn.LayerNorm(WIDTH) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[-1], device=x.device))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm_out(h))


MACRO: Any = Block
"""One point after each block."""

MICRO: Any = [Block, nn.LayerNorm, nn.GELU]
"""Points after each normalization and feed-forward activation too."""

POINTS = {"macro": MACRO, "micro": MICRO}


def text(num_samples: int = 4, length: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens `[N, T]` and the tokens that follow them, of a text that has something to learn."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(VOCABULARY, (num_samples, 1), generator=generator)
    step = torch.randint(1, 4, (num_samples, 1), generator=generator)
    sequence = (start + step * torch.arange(length + 1)) % VOCABULARY
    return sequence[:, :-1], sequence[:, 1:]


def language_model(rule: Any, norm: str = "pre", level: str = "macro", **options: Any) -> nn.Module:
    """The Transformer with a rule attached."""
    # Its blocks end in sums, which nothing bounds.
    rule = fa.DRTP(allow_unbounded=True) if isinstance(rule, fa.DRTP) else rule
    with by_plain_attention(rule):
        return attached(lambda: Transformer(norm=norm), rule, text()[0], points=POINTS[level], **options)


def by_plain_attention(rule: Any) -> AbstractContextManager[Any]:
    """For rules that need tangents, which fused attention does not carry."""
    carries = isinstance(rule, (fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy, fa.WeightPerturbed))
    return sdpa_kernel(SDPBackend.MATH) if carries else nullcontext()
