"""Batch-wise random-magnitude sign-concordant feedback."""

import pytest
import torch

import feedalign as fa
from agreement import assert_agree, compare, gradients_after_step
from problems import Problem, by_hand, problems
from reference import brsf, perceptron
from reference.losses import error_at_output


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.BRSF(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.BRSF(), Problem(), num_samples=num_samples)


def test_each_forward_has_the_magnitudes_of_its_number() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.BRSF(), example_inputs=problem.inputs())
    net = by_hand(model, "tanh")
    passed = perceptron.forward(net, problem.inputs())
    scale = torch.full((5, 1), 1 / 5, dtype=torch.float64)
    error = error_at_output("cross_entropy", passed.output, problem.target_rows(), scale)
    for num_forwards in (1, 2, 3):
        found = gradients_after_step(model, problem)
        drawn = brsf.magnitudes(net.weights, int(handle.store.seed), num_forwards)
        case = perceptron.Case(net, passed, error, problem.target_rows(), scale, drawn)
        assert_agree(found, perceptron.gradients(case, brsf.signals(case)))


def test_it_is_backprop_where_the_weights_have_the_magnitudes_drawn() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.BRSF(), example_inputs=problem.inputs())
    weights = by_hand(model, "tanh").weights
    drawn = brsf.magnitudes(weights, int(handle.store.seed), num_forwards=1)
    with torch.no_grad():
        for layer, magnitude in enumerate(drawn[1:], start=2):
            weight = model.get_submodule(f"fc{layer}").weight
            weight.copy_(magnitude.abs() * weight.sign())
    found = gradients_after_step(model, problem)
    handle.remove()
    assert_agree(found, gradients_after_step(model, problem))


def test_a_forward_without_gradients_draws_nothing() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.BRSF(), example_inputs=problem.inputs())
    with torch.no_grad():
        model(problem.inputs())
    assert int(handle.store.counter) == 0


def test_a_resumed_run_draws_what_the_first_would_have_drawn() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.BRSF(), example_inputs=problem.inputs())
    gradients_after_step(model, problem)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    second = gradients_after_step(model, problem)
    resumed = problem.model(seed=9)
    other_seed = torch.Generator().manual_seed(5)
    fa.attach(resumed, fa.BRSF(), example_inputs=problem.inputs(), generator=other_seed)
    resumed.load_state_dict(saved)
    assert_agree(gradients_after_step(resumed, problem), second, tolerance=0.0)
