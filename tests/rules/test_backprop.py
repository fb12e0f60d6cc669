"""Backprop: nothing changes."""

import pytest

import feedalign as fa
from agreement import assert_agree, compare, gradients_after_step
from problems import Problem, problems


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.Backprop(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.Backprop(), Problem(), num_samples=num_samples)


def test_gradients_are_the_very_numbers_of_the_plain_model() -> None:
    problem = Problem()
    plain, attached = problem.model(), problem.model()
    fa.attach(attached, fa.Backprop(), example_inputs=problem.inputs())
    assert_agree(gradients_after_step(attached, problem), gradients_after_step(plain, problem), tolerance=0.0)
