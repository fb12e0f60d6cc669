"""Whatever multiplies the loss multiplies every gradient, the hidden layers' too: linear, for every rule.

Two gradients have a part that no loss enters, which is what they are where the loss is nothing: the noise of noisy
backprop, and that of feedback which learns the Jacobian of the network.
"""

import pytest
import torch

import feedalign as fa
from agreement import Gradients, assert_agree, compare, feedback_for, fits, gradients_after_step, rule_for
from problems import ALL_LOSSES, CLASSIFICATION, Problem

RULES_AND_LOSSES = [(rule, loss) for rule in fa.ALL_RULES for loss in ALL_LOSSES if fits(rule, Problem(loss))]
every_rule_and_loss = pytest.mark.parametrize(("rule", "loss"), RULES_AND_LOSSES)


def gradients_with_factor(rule: type[fa.Rule], problem: Problem, factor: float) -> dict[str, torch.Tensor | None]:
    """Gradients without the part that no loss enters: without noise, and without feedback that learns the Jacobian."""
    model, one = problem.model(), rule_for(rule, problem)
    if rule is fa.NoisyBackprop:
        one = fa.NoisyBackprop(std=0.0)
    fa.attach(model, one, example_inputs=problem.inputs(), feedback=feedback_for(one, problem))
    found = gradients_after_step(model, problem, factor=factor)
    return {name: g for name, g in found.items() if rule is not fa.FDFA or "feedalign" not in name}


def times(factor: float, gradients: Gradients) -> Gradients:
    return {name: None if gradient is None else factor * gradient for name, gradient in gradients.items()}


@every_rule_and_loss
def test_a_factor_on_the_loss_multiplies_every_gradient(rule: type[fa.Rule], loss: str) -> None:
    problem = Problem(loss)
    once = gradients_with_factor(rule, problem, 1.0)
    assert_agree(gradients_with_factor(rule, problem, 100.0), times(100, once))


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.NoisyBackprop()], ids=lambda rule: rule.name)
def test_what_no_loss_enters_is_the_same_at_every_scale(rule: fa.Rule) -> None:
    problem, found = Problem(), {}
    for factor in (0.0, 1.0, 100.0):
        model = problem.model()
        fa.attach(model, rule, example_inputs=problem.inputs(), feedback=feedback_for(rule, problem))
        found[factor] = gradients_after_step(model, problem, factor=factor)
    constant = found[0.0]
    steps = {f: {name: g - constant[name] for name, g in found[f].items()} for f in (1.0, 100.0)}
    assert_agree(steps[100.0], times(100, steps[1.0]))
    is_noisy = isinstance(rule, fa.NoisyBackprop)
    assert {name for name, g in constant.items() if g.any()} == {n for n in constant if is_noisy or "feedalign" in n}
    assert {name for name, g in steps[1.0].items() if g.any()} == {n for n in constant if "feedalign" not in n}


@every_rule_and_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-10, 16])
def test_the_power_of_two_of_a_gradient_scaler_changes_no_bit(
    rule: type[fa.Rule], loss: str, dtype: torch.dtype, power: int
) -> None:
    problem = Problem(loss, dtype=dtype)
    once = gradients_with_factor(rule, problem, 1.0)
    assert_agree(gradients_with_factor(rule, problem, 2.0**power), times(2.0**power, once), tolerance=0.0)


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
