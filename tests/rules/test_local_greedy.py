"""Local greedy forward gradients: equations, the exact limit within a layer, and heads of every shape."""

from collections.abc import Mapping

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
    heads_of,
    recorded,
)
from feedalign.errors import AttachError, ErrorFormError
from problems import CLASSIFICATION, Problem, SmallConvNet, TimesOne, draw, problems
from reference import convolutional
from reference.losses import error_at_output, one_hot

every_distribution = pytest.mark.parametrize("distribution", ["normal", "rademacher"])


def rule_of(problem: Problem, **options: object) -> fa.LocalGreedy:
    return fa.LocalGreedy(link="sigmoid" if problem.loss == "binary_cross_entropy" else None, **options)


@every_distribution
@pytest.mark.parametrize("num_perturbations", [1, 3])
@pytest.mark.parametrize("problem", problems(CLASSIFICATION), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem, num_perturbations: int, distribution: str) -> None:
    compare(rule_of(problem, distribution=distribution, num_perturbations=num_perturbations), problem)


@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_every_hidden_layer_but_the_last_has_a_head(loss: str) -> None:
    problem = Problem(loss, widths=(5, 7, 6, 8, 3, 4))
    compare(rule_of(problem, num_perturbations=2), problem)
    handle = fa.attach(problem.model(), rule_of(problem), example_inputs=problem.inputs())
    shapes = {name: tuple(p.shape) for name, p in handle.store.named_parameters()}
    heads = {f"act{layer}": (4, width) for layer, width in enumerate((7, 6, 8), start=1)}
    assert shapes == heads | {f"{name}_bias": (4,) for name in heads}


@pytest.mark.parametrize("loss", CLASSIFICATION)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(loss: str, num_samples: int) -> None:
    problem = Problem(loss)
    compare(rule_of(problem), problem, num_samples=num_samples)


@every_distribution
def test_both_carriers_make_one_gradient(distribution: str) -> None:
    compare_carriers(fa.LocalGreedy(distribution=distribution), Problem())


def local_losses(
    problem: Problem, model: nn.Sequential, heads: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor | None]:
    """Gradients of every layer's own loss by torch, with all layers detached from each other."""
    x, loss = problem.inputs(), torch.zeros(())
    for name, layer in model.named_children():
        x = layer(x)
        if name in heads:
            loss = loss + problem.loss_of(x @ heads[name][0].T + heads[name][1])
            x = x.detach()
    return gradients_after(model, loss + problem.loss_of(x))


@pytest.mark.parametrize("problem", problems(CLASSIFICATION)[:6], ids=str)
def test_over_a_basis_of_directions_every_layer_has_the_gradient_of_its_own_loss(problem: Problem) -> None:
    rule = rule_of(problem, num_perturbations=sum(problem.widths[1:-1]))
    model = problem.model()
    handle = fa.attach(model, rule, example_inputs=problem.inputs())
    heads_of(handle)
    heads = {"act1": (handle.store.feedback("act1"), handle.store.feedback("act1_bias"))}
    with recorded(basis(rule, problem)):
        found = gradients_after_step(model, problem)
    with handle.suspended():
        assert_agree(found, local_losses(problem, model, heads))


def test_with_the_rest_of_a_linear_network_as_its_head_a_layer_has_the_gradient_of_backprop() -> None:
    problem = Problem(nonlinearity="identity", widths=(5, 7, 6, 8, 4))
    rule = fa.LocalGreedy(num_perturbations=7 + 6 + 8)
    model = problem.model()
    exact = gradients_after_step(model, problem)
    handle = fa.attach(model, rule, example_inputs=problem.inputs())
    with torch.no_grad():
        weight, bias = model.fc4.weight, model.fc4.bias
        for layer, name in ((model.fc3, "act2"), (model.fc2, "act1")):
            weight, bias = weight @ layer.weight, weight @ layer.bias + bias
            handle.store.feedback(name).copy_(weight)
            handle.store.feedback(f"{name}_bias").copy_(bias)
    with recorded(basis(rule, problem)):
        found = gradients_after_step(model, problem)
    assert_agree({name: found[name] for name in exact}, exact)


@pytest.mark.parametrize("layer", [1, 2])
def test_no_signal_crosses_layers(layer: int) -> None:
    """What a layer receives does not depend on the directions of another."""
    problem, found = Problem(), []
    for seed in (1, 2):
        model = problem.model()
        fa.attach(model, fa.LocalGreedy(), example_inputs=problem.inputs())
        chosen = {place: draw(1, 5, width, seed=place) for place, width in ((1, 7), (2, 6))}
        other = 3 - layer
        chosen[other] = draw(*chosen[other].shape, seed=10 * seed)
        with recorded(chosen):
            found.append(gradients_after_step(model, problem))
    assert_agree({"": found[0][f"fc{layer}.weight"]}, {"": found[1][f"fc{layer}.weight"]})
    assert not torch.allclose(found[0][f"fc{3 - layer}.weight"], found[1][f"fc{3 - layer}.weight"])


@pytest.mark.parametrize("wrapped", [False, True], ids=["by hand", "dual"])
@pytest.mark.parametrize("below", [fa.ActivityPerturbed, fa.FDFA])
def test_what_lies_below_a_head_sees_the_loss_through_it(below: type[fa.Rule], wrapped: bool) -> None:
    """A head keeps its own perturbation to itself, and lets pass what comes from another rule's layer below."""
    problem = Problem(nonlinearity="identity", widths=(5, 7, 6, 8, 4))
    directions = basis(fa.ActivityPerturbed(), problem)
    num = 1 if wrapped else len(directions[1])
    model = TimesOne(problem.model()) if wrapped else problem.model()
    exact = gradients_after_step(model, problem)
    rules = {"*fc1": below(num_perturbations=num), "*": fa.LocalGreedy(num_perturbations=num)}
    handle = fa.attach(model, rules, example_inputs=problem.inputs())
    assert handle.uses_dual_tensors == wrapped
    total: dict[str, Tensor] = {}
    for k in range(0, len(directions[1]), num):
        with recorded({place: v[k : k + num] for place, v in directions.items()}):
            found = gradients_after_step(model, problem)
        total = {name: g * num / len(directions[1]) + total.get(name, 0) for name, g in found.items()}
    name = "body.fc1.weight" if wrapped else "fc1.weight"
    if below is fa.ActivityPerturbed:
        assert_agree({name: total[name]}, {name: exact[name]})
        return
    fc2, fc3, fc4 = (
        layer.weight.detach() for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features != 7
    )
    (learned,) = [g for name, g in total.items() if "feedalign" in name and name.endswith("act1")]
    assert_agree({"": -learned}, {"": fc4 @ fc3 @ fc2})


def test_a_head_serves_every_token() -> None:
    problem, rule = Problem(), fa.LocalGreedy(num_perturbations=2)
    model = problem.model()
    x, labels = draw(3, 4, 5, seed=6), torch.arange(12).reshape(3, 4) % 4
    handle = fa.attach(model, rule, example_inputs=x)
    heads = heads_of(handle)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x).flatten(0, 1), labels.flatten()))
    case = case_of_rows(rule, model, x, labels, {}, drawn)._replace(heads=heads)
    assert_agree(found, expected_gradients(rule, case))


class MeanBetween(nn.Module):
    """act1 at every token, the mean over tokens before act2, and an output for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act1, self.fc2, self.act2, self.fc3 = Problem().model()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.act2(self.fc2(self.act1(self.fc1(x)).mean(1))))


def test_a_head_under_an_output_for_a_whole_sequence_sees_the_mean_of_its_tokens() -> None:
    model, x, labels = MeanBetween(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    handle = fa.attach(model, fa.LocalGreedy(), example_inputs=x)
    (head,) = heads_of(handle)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    hidden = torch.tanh(x @ model.fc1.weight.T + model.fc1.bias).detach()
    error = error_at_output("cross_entropy", hidden.mean(1) @ head.weight.T + head.bias, one_hot(labels, 4), 1 / 3)
    u = drawn[1][0]
    slopes = (error * (u.mean(1) @ head.weight.T)).sum(1)
    delta = slopes[:, None, None] * u * (1 - hidden**2)
    expected = {
        "fc1.weight": torch.einsum("ntd,nti->di", delta, x),
        "fc1.bias": delta.sum((0, 1)),
        "feedalign.act1": error.T @ hidden.mean(1),
        "feedalign.act1_bias": error.sum(0),
    }
    assert_agree({name: found[name] for name in expected}, expected)


@pytest.mark.parametrize("num_perturbations", [1, 2])
def test_a_head_of_a_convolution_sees_all_of_the_image_before_the_pooling(num_perturbations: int) -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    handle = fa.attach(model, fa.LocalGreedy(num_perturbations=num_perturbations), example_inputs=x)
    (head,) = heads_of(handle)
    assert head.weight.shape == (5, 3 * 8 * 8)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = model.by_hand()
    passed = convolutional.forward(net, x)
    error = model.error_by_hand(labels, passed.output)
    rows = passed.activations[0].flatten(1)
    local = model.error_by_hand(labels, rows @ head.weight.T + head.bias)
    signals = [torch.zeros_like(h) for h in passed.activations]
    for first, second in zip(drawn[1], drawn[2], strict=True):
        slopes = (local * (first.flatten(1) @ head.weight.T)).sum(1)
        signals[0] += slopes[:, None, None, None] * first / num_perturbations
        tangent = convolutional.tangent_at_output(net, passed, [torch.zeros_like(first), second])
        signals[1] += (error * tangent).sum(1)[:, None, None, None] * second / num_perturbations
    expected = convolutional.gradients(net, passed, error, signals)
    expected |= {"feedalign.act1": local.T @ rows, "feedalign.act1_bias": local.sum(0)}
    assert_agree(found, expected)


def test_heads_start_as_the_docstring_says() -> None:
    problem = Problem(widths=(5, 400, 6, 300))
    handle = fa.attach(problem.model(), fa.LocalGreedy(), example_inputs=problem.inputs())
    weight = handle.store.feedback("act1")
    assert weight.abs().max() <= 1 / 400**0.5
    assert weight.abs().max() > 0.999 / 400**0.5
    assert not handle.store.feedback("act1_bias").any()


def test_a_last_module_that_makes_probabilities_tells_the_link() -> None:
    problem = Problem("binary_cross_entropy")
    model, plain = problem.model(), problem.model()
    model.add_module("last", nn.Sigmoid())
    fa.attach(model, fa.LocalGreedy(), example_inputs=problem.inputs())
    fa.attach(plain, fa.LocalGreedy(link="sigmoid"), example_inputs=problem.inputs())
    found = gradients_after(model, F.binary_cross_entropy(model(problem.inputs()), problem.targets()))
    expected = gradients_after_step(plain, problem)
    assert_agree(
        {name: found[name] for name in ("fc3.weight", "fc2.bias")}, {n: expected[n] for n in ("fc3.weight", "fc2.bias")}
    )


@pytest.mark.parametrize("widths", [(5, 7, 4), (5, 1, 4)])
def test_a_network_with_one_hidden_layer_is_refused(widths: tuple[int, ...]) -> None:
    problem = Problem(widths=widths)
    with pytest.raises(AttachError, match="at least three layers"):
        fa.attach(problem.model(), fa.LocalGreedy(), example_inputs=problem.inputs())


def test_an_error_of_another_form_is_refused() -> None:
    problem = Problem("squared_error")
    model = problem.model()
    fa.attach(model, fa.LocalGreedy(), example_inputs=problem.inputs())
    with pytest.raises(ErrorFormError, match="LocalGreedy"):
        gradients_after_step(model, problem)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"link": "other"}, "link='other'"),
        ({"distribution": "uniform"}, "distribution='uniform'"),
        ({"num_perturbations": 0}, "num_perturbations=0"),
    ],
)
def test_options_that_make_no_rule_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(AttachError, match=words):
        fa.LocalGreedy(**options)


def test_several_directions_are_refused_where_tangents_are_dual_tensors() -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="num_perturbations=2 needs tangents that are carried by hand"):
        fa.attach(TimesOne(problem.model()), fa.LocalGreedy(num_perturbations=2), example_inputs=problem.inputs())


def test_no_projection_stands_for_a_head() -> None:
    problem = Problem()
    device = fa.Projection(lambda error, point: error)
    with pytest.raises(AttachError, match=r"fa\.LocalGreedy learns matrices of its own"):
        fa.attach(problem.model(), fa.LocalGreedy(), example_inputs=problem.inputs(), feedback=device)


@pytest.mark.parametrize(
    "rules", [{"fc1": fa.LocalGreedy(), "*": fa.DFA()}, {"fc1": fa.LocalGreedy(), "*": fa.Shallow()}]
)
def test_below_rules_without_tangents_every_perturbation_stays_with_its_head(rules: dict[str, fa.Rule]) -> None:
    problem = Problem()
    model, alone = problem.model(), problem.model()
    fa.attach(model, rules, example_inputs=problem.inputs())
    fa.attach(alone, fa.LocalGreedy(), example_inputs=problem.inputs())
    for one in (model, alone):
        fa.handle_of(one).store.seed.fill_(7)
        problem.loss_of(one(problem.inputs())).backward()
    assert torch.equal(model.fc1.weight.grad, alone.fc1.weight.grad)
