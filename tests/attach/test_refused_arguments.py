"""Arguments of `attach` that mean nothing: a typed error with what to do, and the model as it was."""

from typing import Any

import pytest
import torch
from torch import nn

import feedalign as fa
from attach.models import Convolutional, Perceptron, TakesBranch, batch, images
from attach.refusal import assert_refused, assert_says
from feedalign import errors

x, y = batch()


@pytest.mark.parametrize("inputs", [None, "x", (), 3, {1, 2}, x.numpy()])
def test_inputs_of_no_known_kind_are_refused(inputs: Any) -> None:
    words = ("example_inputs", "tensor", "tuple", "dict")
    assert_refused(Perceptron(), errors.ExampleInputsError, *words, example_inputs=inputs)


@pytest.mark.parametrize("inputs", [torch.randn(2, 9), (x, x), {"input": x}, x.long(), x.double()])
def test_inputs_on_which_the_model_fails_are_refused(inputs: Any) -> None:
    words = ("does not run on the example inputs", "as in training")
    assert_refused(Perceptron(), errors.ExampleInputsError, *words, example_inputs=inputs)


def test_inputs_cannot_be_left_out() -> None:
    with pytest.raises(TypeError, match="example_inputs"):
        fa.attach(Perceptron(), fa.DFA())


@pytest.mark.parametrize("rule", [fa.DFA, fa.FA, {"*": fa.DFA}])
def test_a_rules_class_is_refused(rule: Any) -> None:
    words = ("class", "instance", "()")
    assert_refused(Perceptron(), errors.AttachError, *words, rule=rule, example_inputs=x)


@pytest.mark.parametrize("rule", ["dfa", 3, {"*": "dfa"}, {"*": None}])
def test_things_that_are_no_rule_are_refused(rule: Any) -> None:
    assert_refused(Perceptron(), errors.AttachError, "The rule is", "fa.DFA()", rule=rule, example_inputs=x)


def test_an_empty_mixture_is_refused() -> None:
    assert_refused(Perceptron(), errors.AttachError, "empty", "fa.DFA()", rule={}, example_inputs=x)


def test_a_glob_that_matches_nothing_lists_near_names() -> None:
    rule = {"fd1": fa.Shallow(), "*": fa.DFA()}
    assert_refused(Perceptron(), errors.AttachError, "'fd1'", "fc1", rule=rule, example_inputs=x)


def test_a_layerwise_glob_with_no_linear_layer_above_is_refused() -> None:
    rule = {"head": fa.FA(), "*": fa.DFA()}
    words = ("FA", "linear", "'head'")
    assert_refused(Perceptron(), errors.NoFeedbackPointError, *words, rule=rule, example_inputs=x)


def test_a_point_without_a_rule_is_refused() -> None:
    rule = {"conv*": fa.DFA()}
    words = ("No rule", "act3", "fc1", "glob")
    assert_refused(Convolutional(), errors.AttachError, *words, rule=rule, example_inputs=images()[0])


@pytest.mark.parametrize("points", ["atc1", ["act1", "atc1"]])
def test_unknown_points_list_near_names(points: Any) -> None:
    words = ("'atc1'", "no module matches", "Near names", "act1")
    assert_refused(Perceptron(), errors.NoFeedbackPointError, *words, example_inputs=x, points=points)


def test_a_type_that_the_model_lacks_is_refused() -> None:
    words = ("GELU", "no module")
    assert_refused(Perceptron(), errors.NoFeedbackPointError, *words, example_inputs=x, points=nn.GELU)


def test_a_predicate_that_selects_nothing_is_refused() -> None:
    points = {"example_inputs": x, "points": lambda name, module: False}
    assert_refused(Perceptron(), errors.NoFeedbackPointError, "predicate", "no module", **points)


def test_an_empty_list_of_points_is_refused() -> None:
    assert_refused(Perceptron(), errors.NoFeedbackPointError, "points=", example_inputs=x, points=[])


@pytest.mark.parametrize("points", [3, [3], {"act1": 1, "act2": 3.0}.values()])
def test_points_of_no_known_kind_are_refused(points: Any) -> None:
    words = ("points=", "names", "types", "predicate")
    assert_refused(Perceptron(), errors.AttachError, *words, example_inputs=x, points=points)


def test_the_output_layer_is_no_feedback_point() -> None:
    words = ("'head'", "makes the output")
    assert_refused(Perceptron(), errors.NoFeedbackPointError, *words, example_inputs=x, points="head")


def test_a_point_on_a_branch_not_taken_is_refused() -> None:
    model = TakesBranch()
    model.short = True
    words = ("'act2'", "does not fire", "points=")
    assert_refused(model, errors.PointNotFiredError, *words, example_inputs=x, points=["act1", "act2"])


def test_a_point_that_returns_no_tensor_is_refused() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            activation = self.fc(x).tanh()
            return activation, activation.sum(1)

    class UsesPair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.pair(x)[0])

    words = ("'pair'", "tuple", "not a tensor")
    assert_refused(UsesPair(), errors.NoFeedbackPointError, *words, example_inputs=x, points="pair")


def test_a_point_without_trainable_layers_before_it_is_refused() -> None:
    model = nn.Sequential(nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    words = ("'0'", "no trainable parameter")
    assert_refused(model, errors.NoFeedbackPointError, *words, example_inputs=x, points=["0", "2"])


@pytest.mark.parametrize(("feedback", "words"), [
    ("nokland", ("'nokland'", "preset", "nokland2016")),
    (fa.Orthogonal, ("class", "fa.Orthogonal()")),
    (torch.matmul, ("fa.Projection(",)),
    (3, ("int", "fa.Normal()", "fa.Projection")),
    ({"act1": torch.randn(3, 7)}, ("no tensor", "'act2'", "(3, 6)")),
    ({"act1": torch.randn(3, 7), "act2": torch.randn(3, 6), "fc1": torch.randn(3, 7)}, ("'fc1'", "act1")),
])  # fmt: skip
def test_unknown_and_missing_feedback_is_refused(feedback: Any, words: tuple[str, ...]) -> None:
    assert_refused(Perceptron(), errors.AttachError, *words, example_inputs=x, feedback=feedback)


@pytest.mark.parametrize("wrong", [torch.randn(7, 3), torch.randn(3, 6), torch.randn(21), torch.randn(4, 7)])
def test_feedback_of_the_wrong_shape_is_refused(wrong: torch.Tensor) -> None:
    words = ("feedback['act1']", str(tuple(wrong.shape)), "(3, 7)", "outputs by features")
    feedback = {"act1": wrong, "act2": torch.randn(3, 6)}
    assert_refused(Perceptron(), errors.FeedbackShapeError, *words, example_inputs=x, feedback=feedback)


def test_feedback_that_is_no_tensor_is_refused() -> None:
    feedback = {"act1": [[0.0]], "act2": torch.randn(3, 6)}
    words = ("feedback['act1']", "list", "(3, 7)")
    assert_refused(Perceptron(), errors.FeedbackShapeError, *words, example_inputs=x, feedback=feedback)


@pytest.mark.parametrize(
    "rule",
    [
        fa.Backprop(),
        fa.NoisyBackprop(),
        fa.Shallow(),
        fa.USF(),
        fa.BRSF(),
        fa.ActivityPerturbed(),
        fa.WeightPerturbed(),
    ],
)
@pytest.mark.parametrize("feedback", [fa.Normal(), "nokland2016", {"act1": torch.randn(3, 7)}])
def test_feedback_for_a_rule_that_takes_none_is_refused(rule: fa.Rule, feedback: Any) -> None:
    words = ("feedback=", type(rule).__name__, "takes none", "leave it out")
    assert_refused(Perceptron(), errors.AttachError, *words, rule=rule, example_inputs=x, feedback=feedback)


@pytest.mark.parametrize("rule", [fa.DKP(), fa.FDFA(), fa.FDFA(update="ema")])
def test_a_projection_cannot_stand_for_a_matrix_that_is_learned(rule: fa.Rule) -> None:
    words = (type(rule).__name__, "learns matrices of its own", "fixed feedback")
    projection = fa.Projection(lambda rows, name: rows)
    assert_refused(Perceptron(), errors.AttachError, *words, rule=rule, example_inputs=x, feedback=projection)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: fa.FDFA(update="sgd"), ("update='sgd'", "'adam'", "'ema'")),
    (lambda: fa.FDFA(rate=0.0), ("rate=0.0", "at most 1")),
    (lambda: fa.FDFA(rate=1.5), ("rate=1.5", "at most 1")),
    (lambda: fa.FDFA(projects="new"), ('projects="new"', 'update="ema"')),
    (lambda: fa.FDFA(num_perturbations=0), ("num_perturbations=0", "at least 1")),
    (lambda: fa.ActivityPerturbed(num_perturbations=1.5), ("num_perturbations=1.5", "whole number")),
    (lambda: fa.ActivityPerturbed(output="noisy"), ("output='noisy'", "'exact'", "'perturbed'")),
    (lambda: fa.LocalGreedy(distribution="cauchy"), ("distribution='cauchy'", "'normal'", "'rademacher'")),
    (lambda: fa.LocalGreedy(link="other"), ("link='other'", "'softmax'", "'sigmoid'")),
    (lambda: fa.WeightPerturbed(per="epoch"), ("per='epoch'", "'batch'", "'sample'")),
    (lambda: fa.NoisyBackprop(std=-1.0), ("std=-1.0", "at least 0")),
    (lambda: fa.NoisyBackprop(std=float("nan")), ("std=nan", "finite")),
])  # fmt: skip
def test_options_that_do_not_exist_are_refused(make: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(errors.AttachError) as caught:
        make()
    assert_says(caught.value, errors.AttachError, *words)


def test_layerwise_feedback_has_the_weights_own_shape() -> None:
    feedback = {"fc2": torch.randn(7, 6), "head": torch.randn(3, 6)}
    words = ("feedback['fc2']", "(7, 6)", "(6, 7)")
    model = Perceptron()
    assert_refused(model, errors.FeedbackShapeError, *words, rule=fa.FA(), example_inputs=x, feedback=feedback)


def test_a_projection_cannot_stand_for_a_layers_weight() -> None:
    words = ("fa.Projection", "direct rules", "weights")
    arguments = {"rule": fa.FA(), "example_inputs": x, "feedback": fa.Projection(lambda e, name: e)}
    assert_refused(Perceptron(), errors.AttachError, *words, **arguments)


def test_a_shared_slice_cannot_serve_layers_of_different_outputs() -> None:
    words = ("SharedSlice", "number of outputs", "direct rules")
    arguments = {"rule": fa.FA(), "example_inputs": x, "feedback": fa.SharedSlice()}
    assert_refused(Perceptron(), errors.AttachError, *words, **arguments)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5])
@pytest.mark.parametrize("draw", [fa.Sparse, fa.Ternary])
def test_densities_outside_their_range_are_refused(draw: Any, density: float) -> None:
    with pytest.raises(errors.FeedalignError) as caught:
        draw(density=density)
    assert_says(caught.value, errors.AttachError, str(density), "above 0 and at most 1")


@pytest.mark.parametrize("generator", [42, "cpu"])
def test_a_generator_of_another_kind_is_refused(generator: Any) -> None:
    words = ("generator", "torch.Generator().manual_seed(")
    assert_refused(Perceptron(), errors.AttachError, *words, example_inputs=x, generator=generator)


@pytest.mark.gpu
def test_a_generator_of_another_device_is_refused() -> None:
    words = ("generator", "cuda", "CPU", "torch.Generator().manual_seed(")
    generator = torch.Generator("cuda")
    assert_refused(Perceptron(), errors.AttachError, *words, example_inputs=x, generator=generator)
