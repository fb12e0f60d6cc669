"""Whatever multiplies the loss multiplies every gradient, the hidden layers' too: linear, for every rule."""

import pytest
import torch

import feedalign as fa
from agreement import assert_agree, compare, feedback_for, gradients_after_step, rule_for
from problems import ALL_LOSSES, CLASSIFICATION, Problem

# SignDFA and DRTP read the scale of the loss from the error, for the losses of classification.
RULES_AND_LOSSES = [
    (rule, loss)
    for rule in fa.ALL_RULES
    for loss in ALL_LOSSES
    if loss in CLASSIFICATION or rule not in (fa.SignDFA, fa.DRTP)
]
every_rule_and_loss = pytest.mark.parametrize(("rule", "loss"), RULES_AND_LOSSES)


def gradients_with_factor(rule: type[fa.Rule], problem: Problem, factor: float) -> dict[str, torch.Tensor | None]:
    model, one = problem.model(), rule_for(rule, problem)
    fa.attach(model, one, example_inputs=problem.inputs(), feedback=feedback_for(one, problem))
    return gradients_after_step(model, problem, factor=factor)


@every_rule_and_loss
def test_a_factor_on_the_loss_multiplies_every_gradient(rule: type[fa.Rule], loss: str) -> None:
    problem = Problem(loss)
    once = gradients_with_factor(rule, problem, 1.0)
    expected = {name: None if gradient is None else 100 * gradient for name, gradient in once.items()}
    assert_agree(gradients_with_factor(rule, problem, 100.0), expected)


@every_rule_and_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-10, 16])
def test_the_power_of_two_of_a_gradient_scaler_changes_no_bit(
    rule: type[fa.Rule], loss: str, dtype: torch.dtype, power: int
) -> None:
    problem = Problem(loss, dtype=dtype)
    once = gradients_with_factor(rule, problem, 1.0)
    expected = {name: None if gradient is None else 2.0**power * gradient for name, gradient in once.items()}
    assert_agree(gradients_with_factor(rule, problem, 2.0**power), expected, tolerance=0.0)


@every_rule_and_loss
def test_weights_of_samples_reach_every_gradient(rule: type[fa.Rule], loss: str) -> None:
    weights = torch.tensor([0.5, 3.0, 0.0, 1e-3, 40.0], dtype=torch.float64)
    problem = Problem(loss)
    compare(rule_for(rule, problem), problem, weights=weights, factor=7.0)


@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_weights_of_samples_reach_layers_that_learn_while_the_forward_runs(loss: str) -> None:
    weights = torch.tensor([0.5, 3.0, 0.0, 1e-3, 40.0], dtype=torch.float64)
    problem = Problem(loss)
    compare(rule_for(fa.DRTP, problem), problem, weights=weights, factor=7.0, streaming=True)
