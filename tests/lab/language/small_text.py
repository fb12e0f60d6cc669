"""A text small enough to train on in a test."""

from __future__ import annotations

import torch

from feedalign_lab.language.choices import parse_choices
from feedalign_lab.language.plan import LanguagePlan, Optimization
from feedalign_lab.language.records import Parts
from feedalign_lab.language.tokens import Chunks
from feedalign_lab.language.transformer import TransformerSize

VOCAB_SIZE = 17
SIZE = TransformerSize(num_layers=2, num_heads=2, width=16, inner_width=24, context=8, dropout=0.0)


def chunks_of(num_chunks: int, seed: int) -> Chunks:
    """Chunks in which most tokens follow from the one before, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    length = num_chunks * SIZE.context + 1
    stream = (torch.arange(length) * 3) % VOCAB_SIZE
    noisy = torch.rand(length, generator=generator) < 0.1
    stream = torch.where(noisy, torch.randint(VOCAB_SIZE, (length,), generator=generator), stream)
    return Chunks(stream[:-1].view(num_chunks, -1), stream[1:].view(num_chunks, -1), 0)


def parts() -> Parts:
    """Training, validation and test chunks."""
    return Parts(chunks_of(64, 0), chunks_of(8, 1), chunks_of(8, 2))


def plan_of(rules: str = "dfa-macro", rate: float = 1e-2, **changes: object) -> LanguagePlan:
    """A plan on that text."""
    choices = parse_choices(rules)
    settings: dict[str, object] = {"batch_size": 8, "epochs": 2, "size": SIZE, "optimization": Optimization()}
    settings |= changes
    rates = {choice.name: (rate,) for choice in choices}
    return LanguagePlan("made", choices, rates=rates, vocab_size=VOCAB_SIZE, **settings)  # type: ignore[arg-type]
