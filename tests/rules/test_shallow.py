"""Shallow learning: the output layer is exact, hidden layers are given nothing."""

import pytest
import torch

import feedalign as fa
from agreement import compare, gradients_after_step
from problems import Problem, problems


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.Shallow(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.Shallow(), Problem(), num_samples=num_samples)


def test_momentum_and_weight_decay_leave_hidden_layers_where_they_were() -> None:
    problem = Problem()
    model = problem.model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fa.attach(model, fa.Shallow(), example_inputs=problem.inputs())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        gradients_after_step(model, problem)
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"fc3.weight", "fc3.bias"}
