"""Noisy backprop: the exact gradient, and noise of the size that is asked for."""

import pytest
import torch

import feedalign as fa
from agreement import assert_agree, compare, gradients_after_step
from feedalign.errors import AttachError
from problems import Problem, problems


@pytest.mark.parametrize("std", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem, std: float) -> None:
    compare(fa.NoisyBackprop(std), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.NoisyBackprop(), Problem(), num_samples=num_samples)


def test_without_noise_it_is_backprop() -> None:
    problem = Problem()
    model = problem.model()
    exact = gradients_after_step(model, problem)
    fa.attach(model, fa.NoisyBackprop(std=0.0), example_inputs=problem.inputs())
    assert_agree(gradients_after_step(model, problem), exact)


@pytest.mark.parametrize("std", [0.01, 3.0])
def test_the_noise_has_mean_zero_and_the_given_spread_and_is_drawn_anew(std: float) -> None:
    """Within 5 standard errors, `std / sqrt(n)` of the mean and `std / sqrt(2 n)` of the spread, n = 118 x 200."""
    problem = Problem()
    model = problem.model()
    exact = torch.cat([g.flatten() for g in gradients_after_step(model, problem).values()])
    fa.attach(model, fa.NoisyBackprop(std), example_inputs=problem.inputs())
    steps = [torch.cat([g.flatten() for g in gradients_after_step(model, problem).values()]) for _ in range(200)]
    noise = torch.stack(steps) - exact
    assert noise.mean().abs() < 5 * std / noise.numel() ** 0.5
    assert (noise.std() - std).abs() < 5 * std / (2 * noise.numel()) ** 0.5
    # Between one step and the next, and between a parameter and its neighbour.
    for one, other in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        correlation = (one * other).mean() / std**2
        assert correlation.abs() < 5 / one.numel() ** 0.5


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf")])
def test_a_spread_that_is_none_is_refused(std: float) -> None:
    with pytest.raises(AttachError, match="give a finite number of at least 0"):
        fa.NoisyBackprop(std)
