"""How errors meet activations with positions: settled at attach, compared at every forward, never guessed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Convolutional, Perceptron, images
from attach.refusal import assert_refused, assert_says
from attach.sequence_models import SentenceClassifier, Tokens, tokens
from feedalign import errors


class ScoresTimeFirst(Tokens):
    """Scores `[T, N, C]` from activations `[N, T, D]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(0, 1)


class ActivationsTimeFirst(SentenceClassifier):
    """Scores `[N, C]` from activations `[T, N, D]`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(self.embedding(x.T))))).mean(0))


@pytest.mark.parametrize("make", [ScoresTimeFirst, ActivationsTimeFirst])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.SignDFA(), fa.DRTP(), fa.DKP(), fa.FDFA()])
def test_samples_that_do_not_come_first_in_both_are_refused_with_what_to_do(
    make: type[nn.Module], rule: fa.Rule
) -> None:
    words = ("act1", "first sizes", "samples", "points=", "fa.FA()")
    assert_refused(make(), errors.AmbiguousShapeError, *words, rule=rule, example_inputs=tokens(3, 4)[0])


def one_by_one(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), labels.flatten()[: output[..., 0].numel()])


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.FDFA(), fa.ActivityPerturbed(), fa.LocalGreedy()])
@pytest.mark.parametrize("make", [ScoresTimeFirst, ActivationsTimeFirst])
def test_sizes_that_agreed_by_chance_are_noticed_when_they_do_not(make: Callable[[], nn.Module], rule: fa.Rule) -> None:
    """As many samples as positions in the example inputs hide that the two are swapped."""
    model = make()
    fa.attach(model, rule, example_inputs=tokens(4, 4)[0])
    ids, labels = tokens(3, 5)
    with pytest.raises(errors.FeedalignError) as caught:
        one_by_one(model(ids), labels).backward()
    assert isinstance(caught.value, errors.FeedbackShapeError)
    assert "act" in str(caught.value)


def test_sequences_of_another_length_work_where_positions_are_shared() -> None:
    model = Tokens()
    fa.attach(model, fa.DFA(), example_inputs=tokens()[0])
    ids, labels = tokens(length=9)
    one_by_one(model(ids), labels).backward()
    assert model.fc1.weight.grad.any()


@pytest.mark.parametrize("rule", [rule(positions="full") for rule in (fa.DFA, fa.SignDFA, fa.DKP, fa.FDFA)])
def test_sequences_of_another_length_are_refused_where_positions_are_features(rule: fa.DFA) -> None:
    model = Tokens()
    fa.attach(model, rule, example_inputs=tokens()[0])
    with pytest.raises(errors.FeedalignError) as caught:
        model(tokens(length=9)[0])
    assert_says(caught.value, errors.FeedbackShapeError, "act1", "63 features", "28", "Attach again", "shared")


@pytest.mark.parametrize(("positions", "shapes"), [
    ("auto", [(3, 144), (3, 12), (3, 8)]),
    ("full", [(3, 144), (3, 12), (3, 8)]),
    ("shared", [(3, 4), (3, 3), (3, 8)]),
])  # fmt: skip
def test_the_option_settles_the_shape_of_a_convolutions_feedback(positions: str, shapes: list[object]) -> None:
    handle = fa.attach(Convolutional(), fa.DFA(positions=positions), example_inputs=images()[0])
    assert [tuple(buffer.shape) for buffer in handle.store.buffers()] == shapes
    for rule in (fa.DKP(positions=positions), fa.FDFA(positions=positions)):
        learned = fa.attach(Convolutional(), rule, example_inputs=images()[0]).store.parameters()
        assert [tuple(matrix.shape) for matrix in learned] == shapes


@pytest.mark.parametrize(("positions", "shapes"), [
    ("auto", [(3, 7), (3, 6)]),
    ("shared", [(3, 7), (3, 6)]),
    ("full", [(12, 28), (12, 24)]),
])  # fmt: skip
def test_the_option_settles_the_shape_of_the_feedback_of_tokens(positions: str, shapes: list[object]) -> None:
    handle = fa.attach(Tokens(), fa.DFA(positions=positions), example_inputs=tokens()[0])
    assert [tuple(buffer.shape) for buffer in handle.store.buffers()] == shapes


def test_a_projection_is_told_the_rows_and_checked_for_its_answer() -> None:
    seen = []

    def project(rows: Tensor, name: str) -> Tensor:
        seen.append((name, tuple(rows.shape)))
        return rows @ torch.ones(3, 7 if name == "act1" else 6)

    model = Tokens()
    handle = fa.attach(model, fa.DFA(), example_inputs=tokens()[0], feedback=fa.Projection(project))
    ids, labels = tokens()
    one_by_one(model(ids), labels).backward()
    assert sorted(seen) == [("act1", (12, 3)), ("act2", (12, 3))]
    handle.remove()
    wrong = fa.Projection(lambda rows, name: rows)
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=torch.randn(2, 5), feedback=wrong)
    with pytest.raises(errors.FeedalignError) as caught:
        model(torch.randn(2, 5)).sum().backward()
    assert_says(caught.value, errors.FeedbackShapeError, "projection", "(2, 3)", "[rows, features]")
