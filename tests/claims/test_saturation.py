"""DRTP's signal never fades, so that only saturating activations stop its learning (Frenkel et al. 2021, section 3).

It drives them to the ends of tanh, more than backprop and DFA do (Supp. Figs. 4 to 6, there on MNIST and CIFAR-10).
"""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import feedalign as fa

NUM_STEPS, RATE = 400, 0.5


def histories(activation: nn.Module, rule: fa.Rule) -> tuple[list[float], list[float]]:
    """Largest preactivation, and norm of the hidden layer's gradient, step by step."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(30, 6, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    model = nn.Sequential(nn.Linear(6, 20), activation, nn.Linear(20, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    fa.attach(model, rule, example_inputs=x, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=RATE)
    sizes, norms = [], []
    for _ in range(NUM_STEPS):
        model.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        assert model[0].weight.grad is not None
        norms.append(float(model[0].weight.grad.norm()))
        sizes.append(float(model[0](x).detach().abs().max()))
        optimizer.step()
    return sizes, norms


def test_behind_tanh_learning_ends_by_itself() -> None:
    sizes, norms = histories(nn.Tanh(), fa.DRTP())
    assert norms[-1] < 0.1 * norms[0]
    assert sizes[-1] - sizes[NUM_STEPS // 2] < 0.5 * (sizes[NUM_STEPS // 2] - sizes[0])


def test_behind_relu_it_goes_on_for_ever() -> None:
    sizes, norms = histories(nn.ReLU(), fa.DRTP(allow_unbounded=True))
    assert norms[-1] == pytest.approx(norms[NUM_STEPS // 2], rel=0.02)
    assert sizes[-1] - sizes[NUM_STEPS // 2] > 0.9 * (sizes[NUM_STEPS // 2] - sizes[0])


def saturated(rule: fa.Rule) -> list[float]:
    """The share of hidden activations beyond 0.9, at the start and after each of two parts of a training on digits."""
    found = load_digits()
    x, labels = torch.tensor(found.data, dtype=torch.float32) / 8 - 1, torch.tensor(found.target)
    model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10), nn.Sigmoid())
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.1, 0.1, generator=draws)
    fa.attach(model, rule, example_inputs=x[:2], generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    shares = [share_beyond(model[:2], x)]
    for _ in range(2):
        for _ in range(300):
            chosen = torch.randint(len(x), (50,), generator=draws)
            optimizer.zero_grad()
            F.binary_cross_entropy(model(x[chosen]), F.one_hot(labels[chosen], 10).float()).backward()
            optimizer.step()
        shares.append(share_beyond(model[:2], x))
    return shares


def share_beyond(hidden: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((hidden(x).abs() > 0.9).float().mean())


def test_hidden_units_are_driven_to_the_ends_of_tanh_more_than_by_other_rules() -> None:
    drtp, backprop, dfa = saturated(fa.DRTP()), saturated(fa.Backprop()), saturated(fa.DFA())
    assert drtp[0] == backprop[0] == dfa[0] < 0.01
    assert drtp[0] < drtp[1] < drtp[2]
    assert drtp[2] > 1.2 * backprop[2]
    assert drtp[2] > 1.2 * dfa[2]
