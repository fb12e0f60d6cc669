from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import feedalign as fa
from feedalign_lab.errors import SettingError
from feedalign_lab.language.attention import ATTENTION_NAMES, AttentionName
from feedalign_lab.language.transformer import (
    PLACEMENTS,
    Placement,
    Transformer,
    TransformerSize,
    points_of,
    sinusoids,
)

SIZE = TransformerSize(num_layers=3, num_heads=4, width=8, inner_width=12, context=7, dropout=0.0)
VOCAB_SIZE = 11


def model_of(**changes: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerSize(**{**SIZE.__dict__, **changes}), VOCAB_SIZE).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB_SIZE, (4, SIZE.context + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def test_logits_depend_on_nothing_later() -> None:
    model, (x, _) = model_of(), batch()
    changed = x.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % VOCAB_SIZE
    torch.testing.assert_close(model(x)[:, :4], model(changed)[:, :4], rtol=0, atol=1e-12)


def taught_by_hand(model: Transformer, placement: Placement, error_at: str, feedback: dict[str, Tensor]) -> None:
    """Leave DFA's gradients in `.grad`: every piece between two points runs alone, and its end is taught by e B."""
    x, y = batch()
    rest = model.embedding(x) * SIZE.width**0.5 + model.positions[: x.shape[1]]
    pieces: list[tuple[str, Tensor]] = []

    def end(name: str, value: Tensor) -> Tensor:
        pieces.append((name, value))
        return value.detach()

    for number, block in enumerate(model.blocks):
        name = f"blocks.{number}"
        first = block.norm1(rest + block.attention(rest))
        first = end(f"{name}.norm1", first) if placement == "micro" else first
        inner = block.inner(first).relu()
        inner = end(f"{name}.activation", inner) if placement == "micro" else inner
        rest = end(f"{name}.norm2" if placement == "micro" else name, block.norm2(first + block.outer(inner)))
    hidden = rest.requires_grad_()
    logits = model.logits(hidden)
    logits.retain_grad()
    F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    error = {"hidden": hidden, "logits": logits}[error_at].grad
    for name, value in pieces:
        value.backward(error @ feedback[name])


@pytest.mark.parametrize("error_at", ["hidden", "logits"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_gradients_are_those_of_pieces_taught_one_by_one(placement: Placement, error_at: str) -> None:
    points = points_of(placement, SIZE.num_layers)
    size = {"hidden": SIZE.width, "logits": VOCAB_SIZE}[error_at]
    generator = torch.Generator().manual_seed(2)
    feedback = {
        name: torch.randn(
            size, SIZE.inner_width if name.endswith("activation") else SIZE.width, generator=generator
        ).double()
        for name in points
    }
    expected = model_of()
    taught_by_hand(expected, placement, error_at, feedback)
    model, (x, y) = model_of(), batch()
    fa.attach(model, fa.DFA(), example_inputs=x, points=points, output=error_at, feedback=feedback, strict=True)
    F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    for (name, made), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(made.grad, wanted.grad, rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.parametrize("attention", ATTENTION_NAMES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_no_path_leads_around_the_points(attention: AttentionName, placement: Placement) -> None:
    model, (x, y) = model_of(attention=attention), batch()
    points = points_of(placement, SIZE.num_layers)
    fa.attach(model, fa.DFA(), example_inputs=x, points=points, output="hidden", strict=True)
    F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    assert all(bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_one_feedback_for_all_tokens() -> None:
    model, (x, _) = model_of(), batch()
    handle = fa.attach(model, fa.DFA(), example_inputs=x, points=points_of("micro", SIZE.num_layers), output="logits")
    shapes = {row.point: row.feedback.split("]")[0] for row in handle.describe().rows if row.point != "output"}
    assert shapes["blocks.0.norm1"] == f"[{VOCAB_SIZE}, {SIZE.width}"
    assert shapes["blocks.0.activation"] == f"[{VOCAB_SIZE}, {SIZE.inner_width}"


def test_positions_are_sines_and_cosines() -> None:
    made = sinusoids(5, 4)
    places = torch.arange(5.0)
    for column, (function, wave) in enumerate([(torch.sin, 1), (torch.cos, 1), (torch.sin, 100), (torch.cos, 100)]):
        torch.testing.assert_close(made[:, column], function(places / wave))


def test_longer_than_the_context() -> None:
    with pytest.raises(SettingError, match="8 tokens in a sequence, and the context has 7"):
        model_of()(torch.zeros(1, 8, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 0}, "layers must be at least 1"),
        ({"context": 0}, "positions must be at least 1"),
        ({"width": 6}, "multiple of the heads"),
        ({"width": 9, "num_heads": 3}, "must be even"),
        ({"dropout": 1.0}, "dropout"),
        ({"attention": "sparse"}, "no attention called 'sparse'"),
    ],
)
def test_sizes_of_which_there_is_none(changes: dict[str, object], words: str) -> None:
    with pytest.raises((SettingError, ValueError), match=words):
        model_of(**changes)
