"""Weights that a feedback point teaches and that make the output too: the table says so."""

import pytest
from torch import Tensor, nn

import feedalign as fa
from attach.models import Perceptron, batch
from attach.sequence_models import TiedWeights, tokens


def notes(model: nn.Module, rule: fa.Rule, inputs: Tensor) -> list[str]:
    handle = fa.attach(model, rule, example_inputs=inputs)
    return [note for note in handle.describe().notes if "is also" in note]


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP()], ids=lambda rule: rule.name)
def test_weights_tied_to_the_output_layer_are_told_of(rule: fa.Rule) -> None:
    (note,) = notes(TiedWeights(), rule, tokens()[0])
    assert note.startswith(
        "embedding.weight is also head.weight: what act1 teaches it changes the layer at the output too"
    )
    assert "Untie them" in note


@pytest.mark.parametrize("rule", [fa.Backprop(), fa.Shallow(), fa.ActivityPerturbed()], ids=lambda rule: rule.name)
def test_rules_without_signals_or_with_unbiased_ones_do_no_harm(rule: fa.Rule) -> None:
    assert not notes(TiedWeights(), rule, tokens()[0])


class SharedBelow(Perceptron):
    """Two hidden layers with one weight; the output has its own."""

    def build(self) -> None:
        super().build()
        self.fc2, self.fc3, self.act2, self.act3 = nn.Linear(7, 7), nn.Linear(7, 7), nn.Tanh(), nn.Tanh()
        self.fc3.weight = self.fc2.weight
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act3(self.fc3(self.act2(self.fc2(self.act1(self.fc1(x)))))))


@pytest.mark.parametrize("make", [Perceptron, SharedBelow])
def test_weights_of_the_output_alone_are_no_news(make: type[nn.Module]) -> None:
    assert not notes(make(), fa.DFA(), batch()[0])
