"""What one of two processes sees of a Transformer under DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from integration.gradients import ALL_RULES, gradients, step
from integration.transformer_blocks import by_plain_attention, language_model, text
from integration.worlds import refusal_of, shard

NUM_STEPS, NUM_SAMPLES = 20, 8
OUTPUT_LAYER = {"norm_out.weight", "norm_out.bias", "head.weight", "head.bias"}
TRAINED = [("pre", "macro"), ("pre", "micro"), ("post", "macro"), ("post", "micro")]


def batches() -> list[tuple[Tensor, Tensor]]:
    """The whole batch of every step."""
    return [text(NUM_SAMPLES, seed=number) for number in range(NUM_STEPS)]


def train(model: nn.Module, part_of: Callable[[Tensor], Tensor], micro_batches: int = 1) -> None:
    """Anyone's loop, with accumulation if there are several micro-batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in batches():
        optimizer.zero_grad()
        pieces = list(zip(part_of(x).chunk(micro_batches), part_of(y).chunk(micro_batches), strict=True))
        for number, (inputs, labels) in enumerate(pieces, start=1):
            waits = isinstance(model, DistributedDataParallel) and number < len(pieces)
            with model.no_sync() if waits else nullcontext():
                step(model, inputs, labels, scale=1 / micro_batches)
        optimizer.step()


def trained(norm: str, level: str, rank: int, micro_batches: int = 1) -> dict[str, Tensor]:
    """The weights after all steps; each rank starts from other feedback, and rank 0's counts."""
    generator = torch.Generator().manual_seed(rank)
    model = language_model(fa.DFA(), norm, level, generator=generator)
    train(DistributedDataParallel(model), partial(shard, rank=rank), micro_batches)
    return model.state_dict()


def steps(model: nn.Module, rank: int, num: int = 2) -> None:
    """Several steps, each from zero."""
    x, y = (shard(part, rank) for part in text(NUM_SAMPLES))
    for _ in range(num):
        model.zero_grad()
        step(model, x, y)


def wrapped(rule: fa.Rule, rank: int, num: int = 2, level: str = "macro", **options: Any) -> Any:
    """Gradients of the last of several steps."""
    model = language_model(rule, level=level)
    with by_plain_attention(rule):
        steps(DistributedDataParallel(model, **options), rank, num)
    return gradients(model)


def seen_by(rank: int) -> dict[str, Any]:
    """Run everything."""
    seen: dict[str, Any] = {f"trained {norm} {level}": trained(norm, level, rank) for norm, level in TRAINED}
    seen["accumulated"] = trained("pre", "micro", rank, micro_batches=2)
    for rule in ALL_RULES:
        seen[f"unused {rule.name}"] = wrapped(rule, rank, find_unused_parameters=True)
        seen[f"static {rule.name}"] = wrapped(rule, rank, static_graph=True)
    frozen = language_model(fa.Shallow())
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(name in OUTPUT_LAYER)
    steps(DistributedDataParallel(frozen), rank)
    seen["frozen"] = gradients(frozen)
    seen["untold"] = refusal_of(lambda: wrapped(fa.Shallow(), rank))
    return seen
