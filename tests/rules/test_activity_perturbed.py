"""Activity-perturbed forward gradients: equations, the exact limit, and every shape that an activation has."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import (
    assert_agree,
    basis,
    case_of_rows,
    compare,
    compare_carriers,
    expected_gradients,
    gradients_after,
    gradients_after_step,
    recorded,
)
from feedalign.errors import AttachError, FeedbackShapeError
from feedalign.rules import LayerwiseRule
from problems import MeanOverTokens, Problem, SmallConvNet, TimesOne, by_pixel, draw, pixelwise, problems
from reference import convolutional

every_output = pytest.mark.parametrize("output", ["exact", "perturbed"])
every_distribution = pytest.mark.parametrize("distribution", ["normal", "rademacher"])


@every_output
@every_distribution
@pytest.mark.parametrize("num_perturbations", [1, 3])
@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(
    problem: Problem, num_perturbations: int, distribution: str, output: str
) -> None:
    rule = fa.ActivityPerturbed(output, distribution=distribution, num_perturbations=num_perturbations)
    compare(rule, problem)


@every_output
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int, output: str) -> None:
    compare(fa.ActivityPerturbed(output, num_perturbations=2), Problem(), num_samples=num_samples)


@every_output
@every_distribution
def test_both_carriers_make_one_gradient(distribution: str, output: str) -> None:
    compare_carriers(fa.ActivityPerturbed(output, distribution=distribution), Problem())


@every_output
@pytest.mark.parametrize("problem", problems()[:8], ids=str)
def test_over_a_basis_of_directions_it_is_backprop(problem: Problem, output: str) -> None:
    num_directions = sum(problem.widths[1:-1]) + (problem.widths[-1] if output == "perturbed" else 0)
    rule = fa.ActivityPerturbed(output, num_perturbations=num_directions)
    model = problem.model()
    exact = gradients_after_step(model, problem)
    fa.attach(model, rule, example_inputs=problem.inputs())
    with recorded(basis(rule, problem)):
        assert_agree(gradients_after_step(model, problem), exact)


def test_a_basis_without_one_direction_is_not_backprop() -> None:
    problem, rule = Problem(), fa.ActivityPerturbed(num_perturbations=13)
    model = problem.model()
    exact = gradients_after_step(model, problem)
    fa.attach(model, rule, example_inputs=problem.inputs())
    directions = basis(rule, problem)
    directions[2][0] = 0.0
    directions[1][0] = 0.0
    with recorded(directions), pytest.raises(AssertionError, match="not close"):
        assert_agree(gradients_after_step(model, problem), exact)


ABOVE = [fa.Backprop(), fa.Shallow(), fa.DFA(), fa.DRTP(), fa.DKP(), fa.LocalGreedy(), fa.FA(), fa.BRSF()]
# Gates of layer-wise rules carry no dual tensors.
ABOVE_AND_CARRIER = [
    pytest.param(rule, wrapped, id=f"{rule.name} {'dual' if wrapped else 'by hand'}")
    for rule in ABOVE
    for wrapped in (False, True)
    if not (wrapped and isinstance(rule, LayerwiseRule))
]


@pytest.mark.parametrize(("above", "wrapped"), ABOVE_AND_CARRIER)
def test_a_layer_below_those_of_another_rule_sees_the_loss_through_them(above: fa.Rule, wrapped: bool) -> None:
    problem = Problem(widths=(5, 7, 6, 8, 4))
    model = TimesOne(problem.model()) if wrapped else problem.model()
    exact = gradients_after_step(model, problem)
    handle = fa.attach(model, {"*fc1": fa.ActivityPerturbed(), "*": above}, example_inputs=problem.inputs())
    assert handle.uses_dual_tensors == wrapped
    names = [name for name in exact if "fc1" in name]
    total = {name: torch.zeros_like(exact[name]) for name in names}
    others = {place: torch.zeros(1, 5, width) for place, width in ((2, 6), (3, 8))}
    for direction in torch.eye(7):
        with recorded({1: direction.expand(1, 5, 7), **others}):
            found = gradients_after_step(model, problem)
        total = {name: total[name] + found[name] for name in names}
    assert_agree(total, {name: exact[name] for name in names})


@every_output
def test_tokens_of_a_sample_share_the_slope_of_its_loss(output: str) -> None:
    problem, rule = Problem(), fa.ActivityPerturbed(output, num_perturbations=2)
    model = problem.model()
    x, labels = draw(3, 4, 5, seed=6), torch.arange(12).reshape(3, 4) % 4
    fa.attach(model, rule, example_inputs=x)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x).flatten(0, 1), labels.flatten()))
    assert_agree(found, expected_gradients(rule, case_of_rows(rule, model, x, labels, {}, drawn)))


def test_an_output_for_a_whole_sequence_teaches_each_of_its_tokens() -> None:
    model, x, labels = MeanOverTokens(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    fa.attach(model, fa.ActivityPerturbed(), example_inputs=x)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    u = drawn[1][0]
    error = (model(x).softmax(-1) - F.one_hot(labels, 4)).detach() / 3
    slopes = (error * (u.mean(1) @ model.fc2.weight.detach().T)).sum(1)
    hidden = torch.tanh(x @ model.fc1.weight.T + model.fc1.bias).detach()
    delta = slopes[:, None, None] * u * (1 - hidden**2)
    expected = {"fc1.weight": torch.einsum("ntd,nti->di", delta, x), "fc1.bias": delta.sum((0, 1))}
    assert_agree({name: found[name] for name in expected}, expected)


@every_output
def test_pixels_of_an_image_share_the_slope_of_its_loss(output: str) -> None:
    problem, rule = Problem(widths=(5, 7, 4)), fa.ActivityPerturbed(output, num_perturbations=2)
    model, x, labels = pixelwise(problem), draw(2, 5, 3, 2, seed=9), torch.arange(12).reshape(2, 3, 2) % 4
    fa.attach(model, rule, example_inputs=x)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    in_rows = {place: v.movedim(2, -1) for place, v in drawn.items()}
    case = case_of_rows(rule, problem.model(), x.movedim(1, -1), labels, {}, in_rows)
    assert_agree(by_pixel(found), expected_gradients(rule, case))


@pytest.mark.parametrize("num_perturbations", [1, 2])
def test_a_convolutional_network_has_the_gradients_of_the_equations(num_perturbations: int) -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    fa.attach(model, fa.ActivityPerturbed(num_perturbations=num_perturbations), example_inputs=x)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = model.by_hand()
    passed = convolutional.forward(net, x)
    error = model.error_by_hand(labels, passed.output)
    signals = [torch.zeros_like(h) for h in passed.activations]
    for pair in zip(drawn[1], drawn[2], strict=True):
        slopes = (error * convolutional.tangent_at_output(net, passed, list(pair))).sum(1)
        for signal, u in zip(signals, pair, strict=True):
            signal += slopes[:, None, None, None] * u / num_perturbations
    assert_agree(found, convolutional.gradients(net, passed, error, signals))


def test_an_activation_that_is_not_one_per_sample_is_refused() -> None:
    class Folded(nn.Module):
        """Two samples in a row of the hidden layer."""

        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.act1, self.fc2 = Problem(widths=(6, 7, 4)).model()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.act1(self.fc1(x.reshape(-1, 6)))).repeat_interleave(2, 0)

    with pytest.raises(FeedbackShapeError, match="matched with the output of its own sample"):
        fa.attach(Folded(), fa.ActivityPerturbed(), example_inputs=draw(4, 3, seed=6))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "noisy"}, "output='noisy'"),
        ({"distribution": "uniform"}, "distribution='uniform'"),
        ({"num_perturbations": 0}, "num_perturbations=0"),
        ({"num_perturbations": -1}, "num_perturbations=-1"),
    ],
)
def test_options_that_make_no_rule_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(AttachError, match=words):
        fa.ActivityPerturbed(**options)


def test_several_directions_are_refused_where_tangents_are_dual_tensors() -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="num_perturbations=3 needs tangents that are carried by hand"):
        fa.attach(TimesOne(problem.model()), fa.ActivityPerturbed(num_perturbations=3), example_inputs=problem.inputs())


def test_feedback_is_refused_because_there_is_none() -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="ActivityPerturbed takes none"):
        fa.attach(
            problem.model(),
            fa.ActivityPerturbed(),
            example_inputs=problem.inputs(),
            feedback=problem.direct_feedback(),
        )
