"""Awkward models: every rule gives the gradients that it gives by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import feedalign as fa
from attach.models import (
    Branches,
    Convolutional,
    CutSkip,
    Functional,
    FunctionalActivations,
    Gated,
    LeakySkip,
    Perceptron,
    Regularised,
    Repeats,
    Residual,
    RunsItsChildren,
    Seeded,
    SharedActivation,
    SharedLinear,
    Wrapper,
    batch,
    images,
    sequential,
)
from attach.sequence_models import Attentive, Recurrent, SentenceClassifier, TiedWeights, Tokens, tokens
from feedalign.rules import LayerwiseRule, PointRule
from integration.by_hand import gradients_by_hand, layers
from integration.gradients import (
    ALL_RULES,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    direct_feedback,
    draws_recorded,
    gradients,
    layerwise_feedback,
    numbered_gradients,
    step,
)
from integration.steps_by_hand import with_steps_by_hand

x, y = batch()


class InPlace(Seeded):
    """Activations that overwrite their input."""

    def build(self) -> None:
        self.fc1, self.act1 = nn.Linear(5, 7), nn.ReLU(inplace=True)
        self.fc2, self.act2 = nn.Linear(7, 6), nn.Hardtanh(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(x)))))


class InPlaceLogits(Perceptron):
    """Logits that are changed in place after the last layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mul_(2.0).add_(0.1)


def frozen_bottom() -> nn.Module:
    model = Perceptron()
    model.fc1.requires_grad_(False)
    return model


def frozen_middle() -> nn.Module:
    model = Perceptron()
    model.fc2.requires_grad_(False)
    return model


def frozen_head() -> nn.Module:
    model = Perceptron()
    model.head.requires_grad_(False)
    return model


def frozen_bias() -> nn.Module:
    model = Perceptron()
    model.fc1.bias.requires_grad_(False)
    return model


class WithoutBiases(Seeded):
    """Layers without biases."""

    def build(self) -> None:
        self.fc1, self.act1, self.head = nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act1(self.fc1(x)))


def rectified() -> nn.Module:
    return Perceptron(activation=nn.ReLU)


ACTS = ("act1", "act2")
AWKWARD: dict[str, tuple[Callable[[], nn.Module], Sequence[str], tuple[Any, Tensor]]] = {
    "plain": (Perceptron, ACTS, (x, y)),
    "sequential": (sequential, ACTS, (x, y)),
    "rectified": (rectified, ACTS, (x, y)),
    "in place": (InPlace, ACTS, (x, y)),
    "in-place logits": (InPlaceLogits, ACTS, (x, y)),
    "frozen bottom": (frozen_bottom, ["act2"], (x, y)),
    "frozen middle": (frozen_middle, ["act1"], (x, y)),
    "frozen head": (frozen_head, ACTS, (x, y)),
    "frozen bias": (frozen_bias, ACTS, (x, y)),
    "without biases": (WithoutBiases, ["act1"], (x, y)),
    "shared activation": (SharedActivation, ["act"], (x, y)),
    "shared linear": (SharedLinear, ("act1", "act2", "act3"), (x, y)),
    "repeated layer": (Repeats, ["act"], (x, y)),
    "branches": (Branches, ("left_act", "right_act1", "right_act2"), (x, y)),
    "cut skip": (CutSkip, ACTS, (x, y)),
    "leaky skip": (LeakySkip, ["act1"], (x, y)),
    "gated": (Gated, ACTS, (x, y)),
    "residual": (Residual, ("act1", "act2", "act3"), (x, y)),
    "functional activations": (FunctionalActivations, ("point1", "point2"), (x, y)),
    "functional output": (Functional, ACTS, (x, y)),
    "dropout and batch normalization": (Regularised, ACTS, (x, y)),
    "runs its children": (RunsItsChildren, ACTS, (x, y)),
    "inside another model": (Wrapper, ("inner.act1", "inner.act2", "act"), (x, y % 2)),
    "convolutions": (Convolutional, ("act1", "act2", "act3"), images()),
    "tokens": (Tokens, ACTS, tokens()),
    "tied weights": (TiedWeights, ["act1"], (tokens()[0], tokens()[0])),
    "attention": (Attentive, ACTS, tokens()),
    "recurrent": (Recurrent, ("act1", "rnn.layer0", "act2"), tokens()),
    "recurrent through time": (Recurrent, ACTS, tokens()),
    "sentence": (SentenceClassifier, ACTS, (tokens()[0], tokens()[1][:, 0])),
}


# Points that are not the model's own.
NAMED = {"recurrent through time": list(ACTS)}


def seeded(run: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return run()


def drawn_feedback(model: nn.Module, rule: fa.Rule) -> Mapping[str, Tensor] | list[Tensor]:
    """What the rule drew; for BRSF what it drew for the forward that just ran."""
    return layerwise_feedback(model, layers(model)) if isinstance(rule, LayerwiseRule) else direct_feedback(model)


ONE_HIDDEN_LAYER = {"frozen bottom", "frozen middle", "without biases", "tied weights", "gated"}
ONLY_LAST_LAYERS = {"cut skip", "leaky skip", "residual", "attention"}


def rules_for(name: str) -> list[fa.Rule]:
    """All rules that fit: DRTP told to work without saturation; not Shallow where nothing would be left to learn."""
    unbounded = name in {"rectified", "in place", "residual"}
    rules = [fa.DRTP(allow_unbounded=True) if unbounded and isinstance(r, fa.DRTP) else r for r in ALL_RULES]
    rules = [rule for rule in rules if name != "frozen head" or not isinstance(rule, fa.Shallow)]
    has_heads = name not in ONE_HIDDEN_LAYER | ONLY_LAST_LAYERS
    return [rule for rule in rules if has_heads or not isinstance(rule, fa.LocalGreedy)]


CASES = [pytest.param(name, rule, id=f"{name}-{rule.name}") for name in AWKWARD for rule in rules_for(name)]


def assert_as_by_hand(
    make: Callable[[], nn.Module], rule: fa.Rule, inputs: Tensor, targets: Tensor, at: Sequence[str], **options: Any
) -> None:
    """One step in double precision, to the last digits."""
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    with sdpa_kernel(SDPBackend.MATH):
        model = attached(lambda: make().double(), rule, inputs, **options)
        with draws_recorded() as drawn:
            seeded(lambda: step(model, inputs, targets))
        feedback = drawn_feedback(model, rule)
        plain = make().double()
        if isinstance(rule, (PointRule, fa.Shallow)):
            with_steps_by_hand(plain, at)
        expected = seeded(lambda: gradients_by_hand(plain, rule, feedback, inputs, targets, at, drawn))
    assert_same_gradients(numbered_gradients(model), expected, tolerance=1e-12)


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_gradients_are_those_by_hand(name: str, rule: fa.Rule) -> None:
    make, points, (inputs, targets) = AWKWARD[name]
    assert_as_by_hand(make, rule, inputs, targets, points, points=NAMED.get(name))


@pytest.mark.parametrize("rule", [
    fa.FDFA(num_perturbations=2),
    fa.ActivityPerturbed(num_perturbations=3, distribution="rademacher"),
    fa.LocalGreedy(num_perturbations=2),
    fa.WeightPerturbed(num_perturbations=2),
], ids=lambda rule: rule.name)  # fmt: skip
@pytest.mark.parametrize("name", ["plain", "dropout and batch normalization", "convolutions", "repeated layer"])
def test_several_perturbations_are_averaged(name: str, rule: fa.Rule) -> None:
    make, points, (inputs, targets) = AWKWARD[name]
    assert_as_by_hand(make, rule, inputs, targets, points)


class Backbone(Perceptron):
    """A trainable layer that runs without gradients, and one that does not run at all."""

    def build(self) -> None:
        super().build()
        self.backbone, self.spare = nn.Sequential(nn.Linear(5, 5), nn.Tanh()), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
        return super().forward(x)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_parameters_without_a_gradient_path_are_left_alone(rule: fa.Rule) -> None:
    model = attached(Backbone, rule, x)
    step(model, x, y)
    untaught = {name for name, grad in gradients(model).items() if grad is None}
    left_alone = {"backbone.0.weight", "backbone.0.bias", "spare.weight", "spare.bias"}
    hidden = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert untaught == (left_alone | hidden if isinstance(rule, fa.Shallow) else left_alone)
    assert_as_by_hand(Backbone, rule, x, y, ACTS)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_gradients_in_single_precision_are_those_by_hand(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    with draws_recorded() as drawn:
        step(model, x, y)
    expected = gradients_by_hand(Perceptron(), rule, drawn_feedback(model, rule), x, y, ACTS, drawn)
    assert_same_gradients(numbered_gradients(model), expected)
    assert_hidden_layers_learn(gradients(model), rule)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_two_attached_models_do_not_meet(rule: fa.Rule) -> None:
    """One model feeds the other, as in a generator and its critic, and both learn from their own losses."""

    def make_upper() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))

    with torch.random.fork_rng():
        torch.manual_seed(5)
        upper_state = make_upper().state_dict()
    lower, upper = attached(Perceptron, rule, x), make_upper()
    upper.load_state_dict(upper_state)
    fa.attach(upper, rule, example_inputs=torch.randn(6, 3))
    alone = attached(Perceptron, rule, x)
    step(alone, x, y)
    middle = lower(x)
    top = upper(middle.detach())
    (nn.functional.cross_entropy(middle, y) + nn.functional.cross_entropy(top, y)).backward()
    assert_same_gradients(gradients(lower), gradients(alone))
    assert upper[4].weight.grad.any()


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA()], ids=lambda rule: rule.name)
def test_an_attached_model_inside_a_plain_one_takes_the_error_that_arrives(rule: fa.Rule) -> None:
    inner = attached(Perceptron, rule, x)
    outer = nn.Sequential(inner, nn.Tanh(), nn.Linear(3, 3))
    output = outer(x)
    step(lambda _: output, x, y)
    again = attached(Perceptron, rule, x)
    logits = again(x)
    (error,) = torch.autograd.grad(nn.functional.cross_entropy(outer[2](torch.tanh(logits)), y), logits)
    again(x).backward(error)
    assert_same_gradients(gradients(inner), gradients(again))


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_gradients_of_the_inputs_follow_the_rule(rule: fa.Rule) -> None:
    inputs = x.clone().requires_grad_()
    model = attached(Perceptron, rule, inputs)
    step(model, inputs, y)
    if isinstance(rule, (fa.Shallow, fa.WeightPerturbed)):
        assert inputs.grad is None
        return
    plain = Perceptron()
    step(plain, x.requires_grad_(False), y)
    delta_of_bias = model.fc1.bias.grad
    assert inputs.grad is not None
    if isinstance(rule, PointRule):
        back = inputs.grad.sum(0)
        torch.testing.assert_close(back, delta_of_bias @ plain.fc1.weight.detach())
