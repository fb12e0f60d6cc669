from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from feedalign_lab.errors import SettingError
from feedalign_lab.language.attention import (
    ATTENTION_NAMES,
    AttentionName,
    CausalAttention,
    DenseSynthesizer,
    StandardAttention,
    fixed_patterns,
    make_attention,
)

N, T, WIDTH, HEADS, CONTEXT = 3, 6, 8, 4, 9


def attention_of(name: AttentionName, dropout: float = 0.0) -> CausalAttention:
    torch.manual_seed(0)
    return make_attention(name, WIDTH, HEADS, dropout, CONTEXT).double()


def inputs() -> Tensor:
    return torch.randn(N, T, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


every = pytest.mark.parametrize("name", ATTENTION_NAMES)


@every
def test_nothing_later_is_read(name: AttentionName) -> None:
    attention, x = attention_of(name), inputs()
    changed = x.clone()
    changed[:, 3:] += 1
    before, after = attention(x), attention(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-14)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@every
def test_each_position_reads_a_mean_of_values(name: AttentionName) -> None:
    attention, x = attention_of(name), inputs()
    values = torch.ones(N, HEADS, T, WIDTH // HEADS, dtype=torch.float64)
    torch.testing.assert_close(attention.attend(x, values), values, rtol=0, atol=1e-7)


@every
def test_shorter_texts_read_as_the_beginning_of_longer_ones(name: AttentionName) -> None:
    attention, x = attention_of(name), inputs()
    torch.testing.assert_close(attention(x)[:, :4], attention(x[:, :4]), rtol=0, atol=1e-12)


def by_hand(scores: Tensor, values: Tensor) -> Tensor:
    """Softmax and sum, written out in loops: scores `[N, T, T]` and values `[N, T, d]` of one head."""
    out, scores = torch.zeros_like(values), scores.detach()
    for n in range(scores.shape[0]):
        for reader in range(scores.shape[1]):
            weights = [math.exp(scores[n, reader, read].item()) for read in range(reader + 1)]
            for read, weight in enumerate(weights):
                out[n, reader] += weight / sum(weights) * values[n, read]
    return out


def test_standard_attention_is_that_of_the_formula() -> None:
    attention, x = attention_of("standard"), inputs()
    assert isinstance(attention, StandardAttention)
    d = WIDTH // HEADS
    query, key, value = (layer(x) for layer in (attention.query, attention.key, attention.value))
    heads = [
        by_hand(query[..., own] @ key[..., own].mT / math.sqrt(d), value[..., own])
        for own in (slice(h * d, (h + 1) * d) for h in range(HEADS))
    ]
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, -1)), rtol=1e-12, atol=1e-12)


def test_dense_synthesizer_is_that_of_the_formula() -> None:
    attention, x = attention_of("dense-synthesizer"), inputs()
    assert isinstance(attention, DenseSynthesizer)
    d = WIDTH // HEADS
    scores = attention.scores(attention.inner(x).relu()).view(N, T, HEADS, CONTEXT)[..., :T]
    heads = [by_hand(scores[:, :, h], attention.value(x)[..., h * d : (h + 1) * d]) for h in range(HEADS)]
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, -1)), rtol=1e-12, atol=1e-12)


def test_fixed_patterns() -> None:
    own, before, left, beginning = fixed_patterns(4)
    assert own.tolist() == torch.eye(4).tolist()
    assert before.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    torch.testing.assert_close(left[3], torch.tensor([1.0, 8.0, 0.0, 0.0]) / 9)
    torch.testing.assert_close(beginning[2], torch.tensor([27.0, 8.0, 1.0, 0.0]) / 36)


def test_fixed_patterns_learn_nothing() -> None:
    names = [name for name, _ in attention_of("fixed").named_parameters()]
    assert names == ["value.weight", "value.bias", "out.weight", "out.bias"]


def test_fixed_patterns_need_a_head_each() -> None:
    with pytest.raises(SettingError, match="take --heads 4"):
        make_attention("fixed", 8, 2, 0.0, 4)


@pytest.mark.parametrize("name", ["standard", "dense-synthesizer", "random-synthesizer"])
def test_dropout_acts_in_training_alone(name: AttentionName) -> None:
    attention, x = attention_of(name, dropout=0.5), inputs()
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
