"""Outputs that are not `[N, C]`: one number per sample, scores for every pixel or position, several heads."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import OneNumber, Perceptron, PixelClassifier, ReturnsDict, ReturnsTuple, Seeded, batch, images
from attach.sequence_models import SentenceClassifier, Tokens, tokens
from integration.by_hand import graph_cut
from integration.gradients import (
    ALL_RULES,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients,
    gradients_of_step,
    step,
)

x, y = batch(8)
is_one = (y > 0).float()
names = {"ids": lambda rule: rule.name}
READS_TARGETS = (fa.SignDFA, fa.DRTP, fa.LocalGreedy)
WITH_SIGMOID: list[fa.Rule] = [rule for rule in ALL_RULES if not isinstance(rule, READS_TARGETS)]
WITH_SIGMOID += [rule(link="sigmoid") for rule in READS_TARGETS]


class DeepNumber(OneNumber):
    """A hidden layer more."""

    def build(self, column: bool = False) -> None:
        super().build(column)
        self.fc2, self.act2 = nn.Linear(7, 7), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.act2(self.fc2(self.act1(self.fc1(x)))))
        return y if self.column else y.squeeze(-1)


@pytest.mark.parametrize("rule", [*WITH_SIGMOID, fa.SignDFA(link="other")], ids=repr)
@pytest.mark.parametrize("weights", [None, torch.linspace(0.1, 3.0, 8)], ids=["plain", "weighted"])
def test_one_number_per_sample_learns_as_one_column_does(rule: fa.Rule, weights: Tensor | None) -> None:
    flat, column = attached(DeepNumber, rule, x), attached(lambda: DeepNumber(column=True), rule, x)
    for model in (flat, column):
        F.binary_cross_entropy_with_logits(model(x).flatten(), is_one, weight=weights).backward()
    assert_same_gradients(gradients(flat), gradients(column))
    assert_hidden_layers_learn(gradients(flat), rule)


@pytest.mark.parametrize("rule", WITH_SIGMOID, **names)
def test_an_empty_batch_of_numbers_teaches_nothing(rule: fa.Rule) -> None:
    model = attached(DeepNumber, rule, x)
    F.binary_cross_entropy_with_logits(model(x[:0]), is_one[:0], reduction="sum").backward()
    if isinstance(rule, fa.NoisyBackprop):
        return
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.Shallow(), fa.SignDFA(link="other")], ids=repr)
def test_regression_learns_by_any_rule_that_reads_no_targets(rule: fa.Rule) -> None:
    model = attached(OneNumber, rule, x)
    F.mse_loss(model(x), x.sum(1)).backward()
    assert_hidden_layers_learn(gradients(model), rule)


def test_streaming_towards_one_number_learns_as_from_the_error() -> None:
    streamed, from_error = (attached(OneNumber, fa.DRTP(link="sigmoid"), x) for _ in range(2))
    fa.handle_of(streamed).targets(is_one)
    for model in (streamed, from_error):
        F.binary_cross_entropy_with_logits(model(x), is_one).backward()
    assert_same_gradients(gradients(streamed), gradients(from_error))


def pixel_signal(rule: fa.Rule, error: Tensor, labels: Tensor) -> Tensor:
    """What is projected at every pixel, `[N, H, W, C]`."""
    vector = error.movedim(1, -1)
    if isinstance(rule, fa.SignDFA):
        return vector.sign() / labels.numel()
    if isinstance(rule, fa.DRTP):
        return -F.one_hot(labels, 3).to(error.dtype) / labels.numel()
    return vector


@pytest.mark.parametrize("rule", [
    fa.DFA(positions="shared"), fa.SignDFA(positions="shared"), fa.DRTP(positions="shared"),
], ids=lambda rule: rule.name)  # fmt: skip
def test_scores_for_every_pixel_are_projected_pixel_by_pixel(rule: fa.DFA) -> None:
    inputs = images()[0]
    labels = torch.randint(3, (4, 6, 6), generator=torch.Generator().manual_seed(1))
    model, plain = attached(PixelClassifier, rule, inputs), PixelClassifier()
    F.cross_entropy(model(inputs), labels).backward()
    (feedback,) = fa.handle_of(model).store.buffers()
    with graph_cut(plain, ["act1"]) as taps:
        output = plain(inputs)
    (error,) = torch.autograd.grad(F.cross_entropy(output, labels), output, retain_graph=True)
    signal = (pixel_signal(rule, error, labels) @ feedback).movedim(-1, 1)
    torch.autograd.backward([output, *taps], [error, signal])
    assert_same_gradients(gradients(model), gradients(plain))


def test_streaming_towards_every_pixel_learns_as_from_the_error() -> None:
    inputs = images()[0]
    labels = torch.randint(3, (4, 6, 6), generator=torch.Generator().manual_seed(1))
    streamed, from_error = (attached(PixelClassifier, fa.DRTP(positions="shared"), inputs) for _ in range(2))
    fa.handle_of(streamed).targets(labels)
    for model in (streamed, from_error):
        F.cross_entropy(model(inputs), labels).backward()
    assert_same_gradients(gradients(streamed), gradients(from_error))


@pytest.mark.parametrize("make", [Tokens, SentenceClassifier])
def test_streaming_over_positions_learns_as_from_the_error(make: type[Tokens]) -> None:
    ids, labels = tokens()
    labels = labels if make is Tokens else labels[:, 0]
    streamed, from_error = (attached(make, fa.DRTP(), ids) for _ in range(2))
    fa.handle_of(streamed).targets(labels)
    for model in (streamed, from_error):
        step(model, ids, labels)
    assert_same_gradients(gradients(streamed), gradients(from_error))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("length", [1, 9])
def test_sequences_of_any_length_learn_as_if_attached_with_them(rule: fa.Rule, length: int) -> None:
    for make in (Tokens, SentenceClassifier):
        ids, labels = tokens(length=length)
        labels = labels if make is Tokens else labels[:, 0]
        model, other = attached(make, rule, tokens()[0]), attached(make, rule, tokens(length=5)[0])
        assert_same_gradients(gradients_of_step(model, ids, labels), gradients_of_step(other, ids, labels))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize(("make", "inputs", "logits"), [
    (ReturnsDict, {"inputs": x}, lambda model: model(inputs=x)["logits"]),
    (ReturnsTuple, x, lambda model: model(x)[0]),
])  # fmt: skip
def test_outputs_in_a_dict_or_tuple_learn_as_plain_ones(rule: fa.Rule, make: Any, inputs: Any, logits: Any) -> None:
    model, plain = attached(make, rule, inputs, output="head"), attached(Perceptron, rule, x)
    F.cross_entropy(logits(model), y).backward()
    step(plain, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


class LogProbabilities(Perceptron):
    """The error is taken before the log-softmax that stands last."""

    def build(self, functional: bool = False) -> None:
        super().build()
        self.log, self.functional = nn.LogSoftmax(-1), functional

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return self.log(logits * 1.0 if self.functional else logits)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("functional", [False, True])
def test_the_error_is_taken_before_a_last_log_softmax(rule: fa.Rule, functional: bool) -> None:
    model, plain = attached(lambda: LogProbabilities(functional=functional), rule, x), attached(Perceptron, rule, x)
    for _ in range(2):
        F.nll_loss(model(x), y).backward()
        step(plain, x, y)
    assert_same_gradients(gradients(model), gradients(plain))
    assert_hidden_layers_learn(gradients(model), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("make", [Perceptron, ReturnsTuple])
def test_logits_may_be_changed_in_place_after_the_model_returned_them(rule: fa.Rule, make: Any) -> None:
    model, plain = attached(make, rule, x, output="head"), attached(Perceptron, rule, x)
    output = model(x)
    logits = output if make is Perceptron else output[0]
    logits.add_(3.0)
    logits -= 2.5
    F.cross_entropy(logits, y).backward()
    step(plain, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_view_of_the_logits_may_be_changed_in_place(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    logits = model(x)
    logits[:] = logits + 0.1
    logits[0] *= 1.0
    F.cross_entropy(logits, y).backward()
    step(plain, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


class TwoHeads(Seeded):
    """A second head with a loss of its own on the same features."""

    def build(self) -> None:
        self.body, self.act = nn.Linear(5, 7), nn.Tanh()
        self.head, self.second = nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.body(x))
        return self.head(h), self.second(h)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.SignDFA(), fa.DRTP()], **names)
def test_a_second_head_learns_from_its_own_error_and_teaches_nobody(rule: fa.Rule) -> None:
    model, without = attached(TwoHeads, rule, x, output="head"), attached(TwoHeads, rule, x, output="head")
    first, second = model(x)
    (F.cross_entropy(first, y) + F.cross_entropy(second, y % 2)).backward()
    F.cross_entropy(without(x)[0], y).backward()
    assert torch.equal(model.body.weight.grad, without.body.weight.grad)
    plain = TwoHeads()
    F.cross_entropy(plain(x)[1], y % 2).backward()
    assert torch.equal(model.second.weight.grad, plain.second.weight.grad)
    assert without.second.weight.grad is None
