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


class KeywordHead(LeakySkip):
    """The head is given its input by keyword."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(input=h + self.act1(self.fc1(h)))


class Sum(nn.Linear):
    """Takes a list."""

    def forward(self, several: list[Tensor]) -> Tensor:
        return super().forward(several[0] + several[1])


class ListHead(LeakySkip):
    """The head takes a list of what it adds up."""

    def build(self) -> None:
        super().build()
        self.head = Sum(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head([h, self.act1(self.fc1(h))])


class Pair(nn.Linear):
    """Returns what it was given before what it made."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, super().forward(x)


class SecondResult(LeakySkip):
    """The output is the second result of a layer."""

    def build(self) -> None:
        super().build()
        self.head = Pair(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(h + self.act1(self.fc1(h)))[1]


LEAKY = [LeakySkip, weight_normed, FunctionalHead, AttentionHead, KeywordHead, ListHead, SecondResult]


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


class Recurring(LeakySkip):
    """The skip ends in a recurrent layer that no rule cuts, of which the last state is used."""

    def build(self) -> None:
        super().build()
        self.gru = nn.GRU(7, 7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(self.gru((h + self.act1(self.fc1(h))).unsqueeze(1))[1][-1])


def test_a_last_state_leaks_through_its_recurrent_layer() -> None:
    handle = fa.attach(Recurring(), fa.DFA(), example_inputs=x, points="act1")
    signals = {row.layer: row.signal for row in handle.describe().rows if row.uncut}
    assert signals == {
        "stem": "exact backprop through head, gru, NOT CUT",
        "gru": "exact backprop through head, NOT CUT",
    }


class FirstResult(SecondResult):
    """What a layer was given passes it by; what it made is not used."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return F.linear(self.head(h + self.act1(self.fc1(h)))[0], self.fc1.weight)


def test_what_a_layer_hands_on_does_not_leak_through_it() -> None:
    handle = fa.attach(FirstResult(), fa.DFA(), example_inputs=x)
    assert [row.signal for row in handle.describe().rows if row.uncut] == ["exact backprop through fc1, NOT CUT"]


class TwoProducts(nn.Module):
    """A layer with a point between two products of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(7, 5)), nn.Parameter(torch.randn(3, 7))
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.act(F.linear(x, self.first)), self.second)


def test_a_point_within_a_layer_cuts_what_lies_below_the_layer() -> None:
    model = nn.Sequential(nn.Linear(5, 5), TwoProducts())
    fa.attach(model, fa.DFA(), example_inputs=x, feedback=fa.Zeros(), strict=True)
    F.cross_entropy(model(x), y).backward()
    assert not model[0].weight.grad.any()
    assert not model[1].first.grad.any()
    assert model[1].second.grad.any()


def test_parameters_of_the_model_itself_have_a_name_in_the_table() -> None:
    text = str(fa.attach(FunctionalHead(), fa.DFA(), example_inputs=x).describe())
    assert "exact backprop through (model), NOT CUT" in text


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
