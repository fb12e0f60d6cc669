"""Fixed random-magnitude sign-concordant feedback."""

import pytest

import feedalign as fa
from agreement import assert_agree, compare, gradients_after_step
from problems import Problem, draw, problems


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.FRSF(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.FRSF(), Problem(), num_samples=num_samples)


def test_it_is_backprop_where_the_magnitudes_are_those_of_the_weights() -> None:
    problem = Problem()
    model = problem.model()
    exact = gradients_after_step(model, problem)
    magnitudes = {}
    for layer in (2, 3):
        weight = model.get_submodule(f"fc{layer}").weight.detach()
        magnitudes[f"fc{layer}"] = weight.abs() * draw(*weight.shape, seed=layer).sign()
    fa.attach(model, fa.FRSF(), example_inputs=problem.inputs(), feedback=magnitudes)
    assert_agree(gradients_after_step(model, problem), exact)


def test_magnitudes_stay_the_same_from_step_to_step() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.FRSF(), example_inputs=problem.inputs())
    first = gradients_after_step(model, problem)
    assert_agree(gradients_after_step(model, problem), first, tolerance=0.0)
