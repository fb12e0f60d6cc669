"""Uniform sign-concordant feedback."""

import pytest
import torch

import feedalign as fa
from agreement import assert_agree, compare, gradients_after_step
from problems import Problem, by_hand, problems
from reference import perceptron, usf
from reference.losses import error_at_output


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.USF(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.USF(), Problem(), num_samples=num_samples)


def test_the_magnitude_is_the_one_that_the_user_gives() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.USF(scale=0.7), example_inputs=problem.inputs())
    net = by_hand(model, "tanh")
    passed = perceptron.forward(net, problem.inputs())
    scale = torch.full((5, 1), 1 / 5, dtype=torch.float64)
    error = error_at_output("cross_entropy", passed.output, problem.target_rows(), scale)
    case = perceptron.Case(net, passed, error, problem.target_rows(), scale, [])
    expected = perceptron.gradients(case, usf.signals(case, magnitude=0.7))
    assert_agree(gradients_after_step(model, problem), expected)


def test_it_is_backprop_where_all_weights_have_the_magnitude_of_the_feedback() -> None:
    problem = Problem()
    model = problem.model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * parameter.sign())
    exact = gradients_after_step(model, problem)
    fa.attach(model, fa.USF(scale=0.3), example_inputs=problem.inputs())
    assert_agree(gradients_after_step(model, problem), exact)


def test_signs_are_those_of_the_weights_at_the_forward() -> None:
    """The feedback follows weights that change sign in training."""
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.USF(), example_inputs=problem.inputs())
    before = gradients_after_step(model, problem)
    with torch.no_grad():
        model.fc3.weight.neg_()
        model.fc3.bias.copy_(2 * model.fc3.bias)
    flipped = problem.model()
    flipped.load_state_dict(model.state_dict())
    fa.attach(flipped, fa.USF(), example_inputs=problem.inputs())
    after = gradients_after_step(model, problem)
    assert_agree(after, gradients_after_step(flipped, problem))
    assert not torch.allclose(after["fc1.weight"], before["fc1.weight"])


@pytest.mark.parametrize("rule", [fa.USF(), fa.FRSF(), fa.BRSF()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_weight_of_zero_sends_nothing_back(rule: fa.Rule, zero: float) -> None:
    """As of a pruned network."""
    problem = Problem()
    model = problem.model()
    with torch.no_grad():
        model.fc3.weight[:, 1] = zero
    fa.attach(model, rule, example_inputs=problem.inputs())
    of_second = gradients_after_step(model, problem)["fc2.weight"]
    assert of_second[1].abs().max() == 0
    assert of_second[0].abs().max() > 0
