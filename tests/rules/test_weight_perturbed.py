"""Weight-perturbed forward gradients: equations, the exact limit, and every layer that has a weight."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import (
    FIRST_PARAMETER,
    assert_agree,
    basis,
    compare,
    compare_carriers,
    gradients_after,
    gradients_after_step,
    recorded,
)
from feedalign.errors import AttachError
from feedalign.perturbation import perturbation
from problems import MeanOverTokens, Problem, SmallConvNet, TimesOne, draw, problems

every_per = pytest.mark.parametrize("per", ["batch", "sample"])
every_distribution = pytest.mark.parametrize("distribution", ["normal", "rademacher"])


@every_per
@every_distribution
@pytest.mark.parametrize("num_perturbations", [1, 3])
@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(
    problem: Problem, num_perturbations: int, distribution: str, per: str
) -> None:
    rule = fa.WeightPerturbed(per, distribution=distribution, num_perturbations=num_perturbations)
    compare(rule, problem)


@every_per
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int, per: str) -> None:
    compare(fa.WeightPerturbed(per, num_perturbations=2), Problem(), num_samples=num_samples)


@every_distribution
def test_both_carriers_make_one_gradient(distribution: str) -> None:
    compare_carriers(fa.WeightPerturbed(distribution=distribution), Problem())


def num_numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@every_per
@pytest.mark.parametrize("problem", problems()[:8], ids=str)
def test_over_a_basis_of_directions_it_is_backprop(problem: Problem, per: str) -> None:
    model = problem.model()
    rule = fa.WeightPerturbed(per, num_perturbations=num_numbers(model))
    exact = gradients_after_step(model, problem)
    fa.attach(model, rule, example_inputs=problem.inputs())
    with recorded(basis(rule, problem)):
        assert_agree(gradients_after_step(model, problem), exact)


def over_a_basis(model: nn.Module, x: Tensor, labels: Tensor, per: str) -> None:
    """Raise AssertionError unless the sum over all unit vectors of the parameters is the gradient."""

    def loss() -> Tensor:
        return F.cross_entropy(model(x).flatten(0, -2), labels.flatten())

    exact = gradients_after(model, loss())
    sizes, shapes = [p.numel() for p in model.parameters()], [p.shape for p in model.parameters()]
    unit = torch.eye(sum(sizes), dtype=torch.float64) * sum(sizes) ** 0.5
    parts = zip(unit.split(sizes, 1), shapes, strict=True)
    chosen = {place: part.reshape(-1, *shape) for place, (part, shape) in enumerate(parts, start=FIRST_PARAMETER)}
    if per == "sample":
        chosen = {place: torch.stack([v.roll(n, 0) for n in range(len(x))], 1) for place, v in chosen.items()}
    fa.attach(model, fa.WeightPerturbed(per, num_perturbations=sum(sizes)), example_inputs=x)
    with recorded(chosen):
        assert_agree(gradients_after(model, loss()), exact)


@every_per
def test_tokens_see_the_same_weights(per: str) -> None:
    x, labels = draw(3, 4, 5, seed=6), torch.arange(12).reshape(3, 4) % 4
    over_a_basis(Problem(widths=(5, 4, 3, 4)).model(), x, labels, per)


@every_per
def test_a_convolutional_network_is_taught_by_its_own_weights(per: str) -> None:
    x, labels = SmallConvNet.batch()
    over_a_basis(SmallConvNet(), x, labels, per)


def test_over_a_basis_of_dual_tensors_it_is_backprop() -> None:
    """One direction at a time: a mean over tokens, which is no module, stands in the way of tangents by hand."""
    model, x, labels = MeanOverTokens(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    exact = gradients_after(model, F.cross_entropy(model(x), labels))
    assert fa.attach(model, fa.WeightPerturbed(), example_inputs=x).uses_dual_tensors
    sizes, shapes = [p.numel() for p in model.parameters()], [p.shape for p in model.parameters()]
    total = {name: torch.zeros_like(g) for name, g in exact.items()}
    for unit in torch.eye(sum(sizes)):
        parts = zip(unit.split(sizes), shapes, strict=True)
        with recorded({place: v.reshape(1, *shape) for place, (v, shape) in enumerate(parts, start=FIRST_PARAMETER)}):
            found = gradients_after(model, F.cross_entropy(model(x), labels))
        total = {name: total[name] + g for name, g in found.items()}
    assert_agree(total, exact)


def test_no_graph_is_kept_below_the_output() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.WeightPerturbed(), example_inputs=problem.inputs())
    kept = []
    for layer in model.children():
        layer.register_forward_hook(lambda module, args, output: kept.append(output.grad_fn))
    output = model(problem.inputs())
    assert kept[:-1] == [None] * 4
    assert output.requires_grad


def test_a_frozen_parameter_is_neither_perturbed_nor_taught() -> None:
    problem = Problem()
    model = problem.model()
    model.fc2.weight.requires_grad_(False)
    fa.attach(model, fa.WeightPerturbed(), example_inputs=problem.inputs())
    with recorded() as drawn:
        found = gradients_after_step(model, problem)
    assert found.pop("fc2.weight") is None
    assert all(g is not None for g in found.values())
    assert [v.shape[1:] for v in drawn.values()] == [p.shape for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"per": "token"}, "per='token'"),
        ({"distribution": "uniform"}, "distribution='uniform'"),
        ({"num_perturbations": 0}, "num_perturbations=0"),
    ],
)
def test_options_that_make_no_rule_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(AttachError, match=words):
        fa.WeightPerturbed(**options)


@pytest.mark.parametrize(
    ("options", "words"), [({"num_perturbations": 2}, "num_perturbations=2"), ({"per": "sample"}, 'per="sample"')]
)
def test_what_dual_tensors_cannot_carry_is_refused(options: dict[str, object], words: str) -> None:
    problem = Problem()
    with pytest.raises(AttachError, match=f"{words} needs tangents that are carried by hand"):
        fa.attach(TimesOne(problem.model()), fa.WeightPerturbed(**options), example_inputs=problem.inputs())


@pytest.mark.parametrize("rule", [fa.WeightPerturbed(), fa.NoisyBackprop()], ids=lambda rule: rule.name)
def test_it_mixes_with_no_other_rule(rule: fa.Rule) -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="mixes with no other rule"):
        fa.attach(problem.model(), {"fc1": rule, "*": fa.DFA()}, example_inputs=problem.inputs())


class Normalised(nn.Module):
    """Batch normalization in evaluation mode: its statistics are buffers, which nothing perturbs."""

    def __init__(self, factor: float | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)]
        self.body, self.factor = nn.Sequential(*layers).double(), factor
        self.body[1].running_mean.uniform_(-1, 1)
        self.body[1].running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.factor is None else self.factor * self.body(x)


def test_batch_normalization_in_evaluation_mode_keeps_its_buffers_and_has_the_gradient_of_them() -> None:
    x, y = draw(7, 5, seed=1), torch.arange(7) % 3
    found = []
    for factor in (None, 1.0):
        model = Normalised(factor).eval()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        fa.attach(model, fa.WeightPerturbed(), example_inputs=x)
        F.cross_entropy(model(x), y).backward()
        assert all(torch.equal(dict(model.named_buffers())[name], buffer) for name, buffer in before.items())
        found.append([p.grad for p in model.parameters()])
    for by_hand, dual in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, dual, rtol=1e-12, atol=1e-12)
    # The slope along what was drawn is that of backprop's gradient with the running statistics.
    plain, clock = Normalised(None).eval(), fa.handle_of(model).store.clock()
    exact = torch.autograd.grad(F.cross_entropy(plain(x), y), list(plain.parameters()))
    drawn = [perturbation(p, 1, clock, 2048 + place, "normal")[0] for place, p in enumerate(plain.parameters())]
    slope = sum((g * v).sum() for g, v in zip(exact, drawn, strict=True))
    for gradient, direction in zip(found[0], drawn, strict=True):
        torch.testing.assert_close(gradient, slope * direction, rtol=1e-12, atol=1e-12)
