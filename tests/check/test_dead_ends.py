"""Where a first try ends in a refusal or in a surprise later on, `check` names what works."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import feedalign as fa
from check.generative import vectors
from check.pretrained import bert, gpt2, words
from check.sequences import VOCABULARY, Seq2Seq, Seq2SeqOwnStart, source_and_target, tokens
from check.vision import UNet, images, mlp
from feedalign import errors


def notes(found: fa.Check) -> str:
    return "\n".join(found.notes)


def held_by(handle: fa.Handle) -> int:
    """How many numbers the feedback matrices of an attached model have."""
    matrices = [*handle.store.parameters(), *handle.store.buffers()]
    return sum(matrix.numel() for matrix in matrices if matrix.dim() > 1)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.FA(), fa.LocalGreedy(), fa.Shallow(), fa.USF()], ids=repr)
def test_the_size_of_the_feedback_is_what_is_drawn(rule: fa.Rule) -> None:
    found = fa.check(mlp(), rule=rule)
    assert found.num_feedback == held_by(fa.attach(mlp(), rule, example_inputs=torch.randn(2, 6)))
    assert found.feedback_bytes == 4 * found.num_feedback
    assert "all feedback together" not in notes(found)


def test_large_feedback_is_told_before_it_is_drawn_with_a_choice_that_is_small() -> None:
    found = fa.check(UNet(), torch.randn(2, 2, 128, 128), fa.DFA(positions="full"))
    pixels = 128 * 128
    features = 2 * 4 * pixels + 2 * 6 * pixels // 4 + 2 * 8 * pixels // 16 + 2 * 6 * pixels // 4 + 2 * 4 * pixels
    assert found.num_feedback == 3 * pixels * features
    assert f"all feedback together: {found.num_feedback:,} numbers, 74.1 GB" in notes(found)
    assert found.suggestions[0].rule == fa.DFA(positions="shared")
    assert found.suggestions[0].why.endswith("48 numbers, 192 bytes of feedback")


def test_where_positions_cannot_be_told_choices_that_work_are_named() -> None:
    found = fa.check(UNet(), images())
    inner = ["down2.1", "down2.3", "middle.1", "middle.3", "up2.1", "up2.3"]
    assert [suggestion.rule for suggestion in found.suggestions] == [
        fa.DFA(positions="shared"),
        {**dict.fromkeys(inner, fa.DFA(positions="full")), "*": fa.DFA(positions="shared")},
        fa.DFA(positions="full"),
    ]
    assert found.suggestions[0].points == ("down1.1", "down1.3", "up1.1", "up1.3")
    for suggestion in found.suggestions:
        assert suggestion.rule is not None
        assert fa.check(UNet(), images(), suggestion.rule, **suggestion.arguments).ok
        handle = fa.attach(UNet(), suggestion.rule, example_inputs=images(), **suggestion.arguments)
        assert f"; {held_by(handle):,} numbers, " in suggestion.why
    assert "no feedback point at down2.1, down2.3, middle.1 and 3 more: down2.1 returns (5, 6, 4, 4)" in notes(found)


def test_a_suggested_rule_is_source_in_plain_data() -> None:
    found = fa.check(UNet(), images())
    plain = json.loads(json.dumps(found.to_dict()))
    for suggestion, row in zip(found.suggestions, plain["suggestions"], strict=True):
        assert eval(row["rule"], {"fa": fa}) == suggestion.rule
        assert f"> try rule={row['rule']}" in str(found)
    assert plain["assumed"] == plain["suggestions"][0]


def test_positions_that_do_not_agree_at_the_points_as_given() -> None:
    found = fa.check(UNet(), images(), fa.DFA(positions="shared"))
    assert [suggestion.points for suggestion in found.suggestions] == [("down1.1", "down1.3", "up1.1", "up1.3")]
    assert found.suggestions[0].rule is None


def test_tied_weights_are_told_as_by_describe() -> None:
    points = ["transformer.drop", "transformer.h.0", "transformer.h.1", "transformer.ln_f"]
    ids = {"input_ids": words()}
    found = fa.check(gpt2(), ids, points=points, output="lm_head")
    handle = fa.attach(gpt2(), fa.DFA(), example_inputs=ids, points=points, output="lm_head")
    (told,) = handle.describe().notes
    assert told.startswith("transformer.wte.weight is also lm_head.weight: what transformer.drop teaches it")
    assert told in found.notes
    assert "is also" not in notes(fa.check(bert(), ids, output="classifier"))


class Attending(nn.Module):
    """Calls the function of torch; its one activation lies behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Linear(8, 8), nn.Linear(8, 24)
        self.fc, self.act, self.head = nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embedding(x)
        query, key, value = (part.unsqueeze(1) for part in self.mix(e).chunk(3, -1))
        h = e + F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return self.head(h + self.act(self.fc(h)))


def test_fused_attention_is_named_where_it_bars_points_that_would_cut() -> None:
    sequences = torch.randn(2, 5, 8)
    found = fa.check(Attending(), sequences, fa.FDFA())
    assert found.verdict == "partly"
    assert found.suggestions == ()
    assert "other points were tried, and refused: ForwardModeError: The forward of the model itself" in notes(found)
    assert "Fused attention (scaled_dot_product_attention) has no forward-mode derivative" in notes(found)
    assert "fa.FeedbackPoint()" not in notes(found)
    with sdpa_kernel(SDPBackend.MATH):
        found = fa.check(Attending(), sequences, fa.FDFA())
        assert fa.check(Attending(), sequences, fa.FDFA(), **found.suggestions[0].arguments).ok
    assert "refused" not in notes(found)


def test_why_an_encoder_has_no_point_is_told() -> None:
    found = fa.check(Seq2Seq(), source_and_target())
    assert (
        "no feedback point at encoder.layer0: encoder.layer0 returns (4, 7, 8) under an error of (4, 5, 13)"
        in notes(found)
    )
    chosen = fa.check(Seq2Seq(), source_and_target(), points=["target", "act"])
    assert "no feedback point" not in notes(chosen)


@pytest.mark.parametrize("make", [Seq2Seq, Seq2SeqOwnStart])
@pytest.mark.parametrize("as_words", [True, False])
def test_lengths_that_agree_by_chance_are_told_before_a_forward_fails(make: Any, as_words: bool) -> None:
    inputs: Any = (tokens(4, 6), tokens(4, 6))
    inputs = dict(zip(("source", "target"), inputs, strict=True)) if as_words else inputs
    which = "'source'" if as_words else "example_inputs[0]"
    model = make()
    found = fa.check(model, inputs)
    assert found.ok
    assert f"lengths of the example inputs agree, perhaps by chance: with {which} one step shorter" in notes(found)
    fa.attach(model, fa.DFA(), example_inputs=inputs)
    with pytest.raises(errors.FeedbackShapeError):
        model(*source_and_target())
    assert "by chance" not in notes(fa.check(make(), source_and_target()))


def test_inputs_of_one_length_on_purpose_are_not_said_to_agree_by_chance() -> None:
    class Marked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.marks = nn.Embedding(VOCABULARY, 6), nn.Embedding(2, 6)
            self.fc, self.act, self.head = nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)

        def forward(self, words: Tensor, marks: Tensor) -> Tensor:
            return self.head(self.act(self.fc(self.embedding(words) + self.marks(marks))))

    found = fa.check(Marked(), (tokens(), tokens() % 2))
    assert found.ok
    assert "by chance" not in notes(found)


def test_what_is_frozen_is_said_to_be() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    found = fa.check(model)
    assert found.refusal == (
        "NoFeedbackPointError: DFA found no feedback point: all that lies below the model's non-linearities is frozen "
        "(requires_grad=False): 0, 2. Unfreeze what is to learn, then attach; where the output layer alone is to "
        "learn, no rule is needed."
    )
    whole = fa.check(mlp().requires_grad_(False), rule=fa.Backprop())
    assert (whole.verdict, whole.layers) == ("partly", ())
    assert "partly: no layer is trainable\n" in str(whole)
    one = fa.check(nn.Sequential(nn.Linear(6, 3)), torch.randn(2, 6))
    assert "frozen" not in str(one)


def test_the_table_is_that_of_the_best_suggestion() -> None:
    found = fa.check(gpt2(), {"input_ids": words()})
    assert [len(suggestion.leaks) for suggestion in found.suggestions] == sorted(
        len(suggestion.leaks) for suggestion in found.suggestions
    )
    assert found.assumed is found.suggestions[0]
    assert not any(row.leaks for row in found.layers)
    assert f"\nwith {found.assumed.call}: the rule teaches every layer below the output\n" in str(found)


@pytest.mark.parametrize(("make", "inputs", "output"), [
    (bert, lambda: {"input_ids": words()}, "classifier"),
    (gpt2, lambda: {"input_ids": words()}, "lm_head"),
    (lambda: nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3)]), vectors, None),
])  # fmt: skip
def test_tables_fit_a_screen_and_no_name_is_lost(make: Any, inputs: Any, output: str | None) -> None:
    found = fa.check(make(), inputs(), output=output)
    lines = str(found).splitlines()[2:]
    table = lines[: next((i for i, line in enumerate(lines) if line[0] in "!>"), len(lines))]
    assert max(map(len, table)) <= 120
    widths = table[0].index("taught by")
    names, name = [], ""
    for line in table[2:]:
        cell = line[:widths].rstrip()
        if cell.startswith("  ") or not cell:
            name += cell.strip()
        else:
            names += [name] if name else []
            name = cell
    assert [*names, name] == [row.layer for row in found.layers]


class Functional(nn.Module):
    """Activations that are functions; behind the last product with a weight rows are mixed and a bias is added."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 4)
        self.last, self.bias = nn.Linear(4, 3, bias=False), nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.two(self.one(x).relu()).relu()
        return torch.ones(len(x), len(x)) @ self.last(h) + self.bias


def test_layers_below_layer_wise_feedback_are_layers_to_teach() -> None:
    found = fa.check(Functional(), torch.randn(2, 6), rule=fa.FA())
    assert found.verdict == "fine"
    assert not any("nothing for a rule to teach" in note for note in found.notes)


def test_no_point_is_suggested_between_the_last_weight_and_the_output() -> None:
    """The layer that makes the output has its exact gradient, which nothing needs to cut off."""
    found = fa.check(Functional(), torch.randn(2, 6))
    assert found.assumed is not None
    assert found.assumed.points == ("one", "two")
    assert found.layer("last").taught_by == ("error",)
