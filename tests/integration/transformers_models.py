"""Small models of the transformers library, made from configurations, batches for them, and DFA on them by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)

import feedalign as fa
from integration.by_hand import activations, delivered
from integration.gradients import Gradients

Batch = dict[str, Tensor]

VOCABULARY, CONTEXT, NUM_LABELS, NUM_SAMPLES = 31, 7, 3, 8
GPT2_BLOCKS = ["transformer.h.0", "transformer.h.1"]
BERT_POINTS = ["bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler"]
VIT_POINTS = ["vit.layers.0", "vit.layers.1", "vit.layernorm"]

_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def gpt2(seed: int = 0, dropout: float = 0.0, **options: Any) -> GPT2LMHeadModel:
    """Two blocks of width 16; the weights of `lm_head` are those of the token embedding."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": CONTEXT, "vocab_size": VOCABULARY}
    dropouts = dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], dropout)
    config = GPT2Config(**sizes, **dropouts, bos_token_id=0, eos_token_id=0, **options)
    return _seeded(seed, GPT2LMHeadModel, config)


def untied_gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """The same with weights of its own for `lm_head`."""
    return gpt2(seed, tie_word_embeddings=False)


def bert(seed: int = 0) -> BertForSequenceClassification:
    """Two layers of width 16, a pooler and a classifier."""
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    positions = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    return _seeded(seed, BertForSequenceClassification, BertConfig(**_SIZES, **dropouts, **positions, num_labels=3))


def vit(seed: int = 0) -> ViTForImageClassification:
    """Two layers of width 16 over four patches and a class token."""
    config = ViTConfig(**_SIZES, image_size=8, patch_size=4, num_channels=1, num_labels=NUM_LABELS)
    return _seeded(seed, ViTForImageClassification, config)


def _seeded(seed: int, kind: type[nn.Module], config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config)


def tokens(num_samples: int = NUM_SAMPLES, seed: int = 0) -> Batch:
    """Sequences in which each token follows from the one before it, so that there is something to learn."""
    start = torch.randint(VOCABULARY, (num_samples, 1), generator=torch.Generator().manual_seed(seed))
    ids = (start + 3 * torch.arange(CONTEXT)) % VOCABULARY
    return {"input_ids": ids, "labels": ids}


def sentences(num_samples: int = NUM_SAMPLES, seed: int = 0) -> Batch:
    """Sequences of one class each, told by their first token."""
    ids = tokens(num_samples, seed)["input_ids"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % NUM_LABELS}


def padded(batch: Batch) -> Batch:
    """The same sentences, of which every second one ends two tokens early."""
    mask = batch["attention_mask"].clone()
    mask[::2, -2:] = 0
    return {**batch, "input_ids": batch["input_ids"] * mask, "attention_mask": mask}


def pictures(num_samples: int = NUM_SAMPLES, seed: int = 0) -> Batch:
    """Images `[N, 1, 8, 8]`, brighter the higher their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_LABELS, (num_samples,), generator=generator)
    noise = torch.randn(num_samples, 1, 8, 8, generator=generator)
    return {"pixel_values": noise + labels.reshape(-1, 1, 1, 1), "labels": labels}


@contextmanager
def outputs_of(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect what a module returns, with its graph."""
    found: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, args, output: found.append(output))
    try:
        yield found
    finally:
        hook.remove()


def dfa_by_hand(model: nn.Module, batch: Batch, output: str, handle: fa.Handle) -> Gradients:
    """Gradients on a plain model, cut by `detach()` at the points of the handle, with its feedback."""
    points = points_of(handle)
    with activations(model, points, cut=True) as taps, outputs_of(model, output) as made:
        loss = model(**batch).loss
    (error,) = torch.autograd.grad(loss, made, retain_graph=True)
    matrices = {point.replace(".", "_"): handle.feedback_at(point) for point in points}
    assert taps.keys() == matrices.keys()
    signals = [delivered(error @ matrices[name], tap) for name, tap in taps.items()]
    named = dict(model.named_parameters())
    weights = [torch.ones_like(loss), *signals]
    found = torch.autograd.grad([loss, *taps.values()], list(named.values()), weights, allow_unused=True)
    return dict(zip(named, found, strict=True))


def points_of(handle: fa.Handle) -> list[str]:
    """Names of the feedback points that the table tells of."""
    return list(dict.fromkeys(row.point for row in handle.describe().rows if row.point not in {"-", "output"}))
