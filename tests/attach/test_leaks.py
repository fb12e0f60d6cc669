"""Exact backprop on paths that no point cuts: reported, and refused when strict."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import (
    Branches,
    Convolutional,
    CutSkip,
    LeakySkip,
    Perceptron,
    Regularised,
    Seeded,
    SharedActivation,
    batch,
    images,
)
from attach.refusal import assert_refused
from feedalign import errors

x, y = batch()
CUTTING = [fa.Shallow(), fa.DFA(), fa.SignDFA(), fa.DRTP(), fa.DKP(), fa.FDFA(), fa.ActivityPerturbed()]


def uncut(handle: fa.Handle) -> list[str]:
    return [row.layer for row in handle.describe().rows if row.uncut]


def weight_normed() -> nn.Module:
    model = LeakySkip()
    nn.utils.parametrizations.weight_norm(model.head)
    return model


class FunctionalHead(LeakySkip):
    """The head's weight is a bare parameter of the model."""

    def build(self) -> None:
        super().build()
        self.weight = nn.Parameter(self.head.weight.detach().clone())
        del self.head

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return F.linear(h + self.act1(self.fc1(h)), self.weight)


class AttentionHead(LeakySkip):
    """The skip ends in an attention layer."""

    def build(self) -> None:
        super().build()
        self.attention = nn.MultiheadAttention(7, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = (h + self.act1(self.fc1(h))).unsqueeze(1)
        return self.head(self.attention(h, h, h)[0].squeeze(1))


LEAKY = [LeakySkip, weight_normed, FunctionalHead, AttentionHead]


@pytest.mark.parametrize("rule", CUTTING)
@pytest.mark.parametrize("make", LEAKY)
def test_a_leaking_identity_skip_is_reported(make: type[nn.Module], rule: fa.Rule) -> None:
    handle = fa.attach(make(), rule, example_inputs=x)
    assert "stem" in uncut(handle)
    text = str(handle.describe())
    assert "NOT CUT" in text
    assert "! exact backprop still reaches stem" in text


@pytest.mark.parametrize("make", LEAKY)
def test_a_leaking_identity_skip_is_refused_when_strict(make: type[nn.Module]) -> None:
    assert_refused(make(), errors.UncutPathError, "stem", "points=", "strict=True", example_inputs=x, strict=True)


def test_what_is_reported_to_leak_does_get_exact_gradients() -> None:
    model = LeakySkip()
    handle = fa.attach(model, fa.Shallow(), example_inputs=x)
    assert uncut(handle) == ["stem"]
    output = model(x)
    error = torch.randn_like(output)
    output.backward(error)
    expected = (error @ model.head.weight).T @ x
    torch.testing.assert_close(model.stem.weight.grad, expected)
    assert model.fc1.weight.grad is None


@pytest.mark.parametrize("rule", [*CUTTING, fa.FA(), fa.BRSF()])
@pytest.mark.parametrize("make", [Perceptron, SharedActivation, Branches, CutSkip, Regularised])
def test_models_without_leaks_pass_strict(make: type[nn.Module], rule: fa.Rule) -> None:
    handle = fa.attach(make(), rule, example_inputs=x, strict=True)
    assert uncut(handle) == []
    assert "NOT CUT" not in str(handle.describe())


@pytest.mark.parametrize("rule", [*CUTTING, fa.FA()])
def test_convolutional_models_without_leaks_pass_strict(rule: fa.Rule) -> None:
    fa.attach(Convolutional(), rule, example_inputs=images()[0], strict=True)


def test_points_on_the_leaking_path_cut_it() -> None:
    model = LeakySkip()
    handle = fa.attach(model, fa.DFA(), example_inputs=x, points=["stem", "act1"], strict=True)
    assert uncut(handle) == []


def test_layers_below_the_first_point_are_taught_through_the_layers_between() -> None:
    handle = fa.attach(LeakySkip(), fa.DFA(), example_inputs=x)
    signals = {(row.layer, row.point): row.signal for row in handle.describe().rows}
    assert signals["stem", "act1"] == "dfa: e B, through fc1"
    assert signals["fc1", "act1"] == "dfa: e B"


class Transposed(Seeded):
    """A transposed convolution, whose input gradient stays exact under layer-wise rules."""

    def build(self) -> None:
        self.conv1, self.act1 = nn.Conv2d(2, 4, 3), nn.Tanh()
        self.up, self.act2 = nn.ConvTranspose2d(4, 3, 2), nn.Tanh()
        self.fc = nn.Linear(75, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act2(self.up(self.act1(self.conv1(x)))).flatten(1))


class Recurrent(Seeded):
    """A recurrent layer in the middle."""

    def build(self) -> None:
        self.fc1, self.act1, self.rnn, self.fc2 = nn.Linear(2, 4), nn.Tanh(), nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.rnn(self.act1(self.fc1(x)))[0])


@pytest.mark.parametrize("rule", [fa.FA(), fa.USF()])
@pytest.mark.parametrize(("make", "layer", "inputs"), [
    (Transposed, "conv1", images()[0]),
    (Recurrent, "fc1", torch.randn(4, 3, 2)),
])  # fmt: skip
def test_layers_below_weights_without_feedback_are_reported_under_fa(
    make: type[nn.Module], layer: str, inputs: Tensor, rule: fa.Rule
) -> None:
    handle = fa.attach(make(), rule, example_inputs=inputs)
    assert uncut(handle) == [layer]
    handle.remove()
    words = (layer, "strict=True")
    assert_refused(make(), errors.UncutPathError, *words, rule=rule, example_inputs=inputs, strict=True)


@pytest.mark.parametrize("rule", [fa.Backprop(), fa.NoisyBackprop(), fa.WeightPerturbed()])
def test_rules_that_cut_nothing_leak_nothing(rule: fa.Rule) -> None:
    handle = fa.attach(LeakySkip(), rule, example_inputs=x, strict=True)
    assert uncut(handle) == []
    mixed = fa.attach(Perceptron(), {"fc1": fa.Backprop(), "fc2": fa.DFA()}, example_inputs=x, strict=True)
    assert uncut(mixed) == []
