"""Directional DFA: equations, estimates that are the Jacobian, and every way an error meets an activation."""

from collections.abc import Iterator

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
from feedalign.errors import AttachError
from problems import MeanOverTokens, Problem, SmallConvNet, TimesOne, by_pixel, draw, pixelwise, problems
from reference import convolutional

UPDATES = [("adam", "old"), ("ema", "old"), ("ema", "new")]
every_update = pytest.mark.parametrize(("update", "projects"), UPDATES)
every_distribution = pytest.mark.parametrize("distribution", ["normal", "rademacher"])


def rate_of(update: str) -> float | None:
    """Under "adam" it is the optimizer's."""
    return 0.3 if update == "ema" else None


@every_update
@every_distribution
@pytest.mark.parametrize("num_perturbations", [1, 3])
@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(
    problem: Problem, num_perturbations: int, distribution: str, update: str, projects: str
) -> None:
    compare(
        fa.FDFA(
            "auto", update, rate_of(update), projects, distribution=distribution, num_perturbations=num_perturbations
        ),
        problem,
    )


@every_update
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int, update: str, projects: str) -> None:
    compare(fa.FDFA(update=update, projects=projects), Problem(), num_samples=num_samples)


@every_update
@every_distribution
def test_both_carriers_make_one_gradient(distribution: str, update: str, projects: str) -> None:
    compare_carriers(fa.FDFA("auto", update, rate_of(update), projects, distribution=distribution), Problem())


def jacobians(model: nn.Module, problem: Problem) -> dict[str, Tensor]:
    """dy/dh at each non-linearity, averaged over the batch, by torch."""
    activations, x = {}, problem.inputs()
    for name, layer in model.named_children():
        x = layer(x)
        if name.startswith("act"):
            activations[name] = x
    found = {}
    for name, h in activations.items():
        rows = [torch.autograd.grad(x[:, o].sum(), h, retain_graph=True)[0].mean(0) for o in range(x.shape[1])]
        found[name] = torch.stack(rows)
    return found


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "identity"])
def test_over_a_basis_of_directions_the_estimate_is_the_jacobian_averaged_over_the_batch(nonlinearity: str) -> None:
    problem, rule = Problem(nonlinearity=nonlinearity, widths=(5, 7, 6, 8, 4)), fa.FDFA(num_perturbations=7 + 6 + 8)
    model = problem.model()
    expected = jacobians(model, problem)
    handle = fa.attach(model, rule, example_inputs=problem.inputs())
    with recorded(basis(rule, problem)):
        gradients_after_step(model, problem)
    assert_agree({name: -p.grad for name, p in handle.store.named_parameters()}, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_it_is_backprop_on_a_linear_network_once_it_has_seen_a_basis(reduction: str) -> None:
    problem = Problem(reduction=reduction, nonlinearity="identity", widths=(5, 7, 6, 8, 4))
    rule = fa.FDFA(update="ema", rate=1.0, projects="new", num_perturbations=7 + 6 + 8)
    model = problem.model()
    exact = gradients_after_step(model, problem)
    fa.attach(model, rule, example_inputs=problem.inputs())
    with recorded(basis(rule, problem)):
        assert_agree(gradients_after_step(model, problem), exact)


def estimates(rule: fa.FDFA, num_blocks: int, length: int) -> Iterator[Tensor]:
    """Feedback of the last hidden layer after each block of forwards, long enough to have forgotten the one before."""
    problem = Problem(widths=(5, 7, 4, 4))
    model = problem.model()
    handle = fa.attach(model, rule, example_inputs=problem.inputs())
    for _ in range(num_blocks):
        for _ in range(length):
            model(problem.inputs())
        yield handle.store.feedback("act2")


def has_mean(draws: Tensor, mean: Tensor) -> bool:
    """Whether a mean lies within 5 standard errors of another, at every entry."""
    standard_error = draws.std(0) / len(draws) ** 0.5
    return bool(((draws.mean(0) - mean).abs() <= 5 * standard_error).all())


@every_distribution
def test_the_average_has_the_output_weight_as_its_mean(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output is linear: the feedback of the last hidden layer, after 30 forwards at a rate of 1/2."""
    rule = fa.FDFA(update="ema", rate=0.5, distribution=distribution)
    weight = Problem(widths=(5, 7, 4, 4)).model().fc3.weight.detach()
    found = torch.stack(list(estimates(rule, 100, 30 if distribution == "normal" else 12)))
    assert has_mean(found, weight)
    assert not has_mean(found, weight.T)
    assert not has_mean(found, torch.zeros_like(weight))
    monkeypatch.setattr(fa.FDFA, "averaged", lambda self, b, t: (1 - self.rate) * b - self.rate * t)
    assert not has_mean(torch.stack(list(estimates(rule, 100, 12))), weight)


def test_an_average_stands_still_in_evaluation_and_without_gradients() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.FDFA(update="ema"), example_inputs=problem.inputs())
    held = {name: tensor.clone() for name, tensor in handle.store.named_buffers() if name.startswith("act")}

    def moved() -> list[str]:
        return [name for name, tensor in held.items() if not torch.equal(handle.store.feedback(name), tensor)]

    with torch.no_grad():
        model(problem.inputs())
    assert moved() == []
    model.eval()
    gradients_after_step(model, problem)
    assert moved() == []
    model.train()
    model(problem.inputs())
    assert moved() == ["act1", "act2"]


def test_the_signals_of_a_step_are_made_with_the_feedback_of_its_own_forward() -> None:
    """A second forward moves the average on before the first backward runs."""
    problem, rule = Problem(), fa.FDFA(update="ema", rate=0.5)
    found = []
    for forwards in (1, 2):
        model = problem.model()
        fa.attach(model, rule, example_inputs=problem.inputs(), feedback=problem.direct_feedback())
        loss = problem.loss_of(model(problem.inputs()))
        for _ in range(forwards - 1):
            model(problem.inputs())
        found.append(gradients_after(model, loss))
    assert_agree(found[1], found[0])


@every_update
def test_one_matrix_serves_every_token(update: str, projects: str) -> None:
    problem, rule = Problem(), fa.FDFA("auto", update, rate_of(update), projects, num_perturbations=2)
    model, feedback = problem.model(), problem.direct_feedback()
    x, labels = draw(3, 4, 5, seed=6), torch.arange(12).reshape(3, 4) % 4
    fa.attach(model, rule, example_inputs=x, feedback=feedback)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x).flatten(0, 1), labels.flatten()))
    assert_agree(found, expected_gradients(rule, case_of_rows(rule, model, x, labels, feedback, drawn)))


@pytest.mark.parametrize("positions", ["auto", "full"])
def test_an_output_for_a_whole_sequence_is_matched_with_the_directions_of_its_tokens(positions: str) -> None:
    """One matrix for all tokens is their mean Jacobian; with positions as features each has its own part."""
    model, x, labels = MeanOverTokens(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    assert fa.attach(model, fa.FDFA(positions), example_inputs=x).uses_dual_tensors
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))["feedalign.act1"]
    v = drawn[1][0]
    tangent = v.mean(1) @ model.fc2.weight.detach().T
    expected = {"auto": torch.einsum("nc,ntd->cd", tangent, v) / (3 * 6), "full": tangent.T @ v.flatten(1) / 3}
    assert_agree({"": -found}, {"": expected[positions]})


@every_update
def test_an_error_at_every_pixel_meets_the_directions_of_its_pixel(update: str, projects: str) -> None:
    problem, rule = Problem(widths=(5, 7, 4)), fa.FDFA("shared", update, rate_of(update), projects, num_perturbations=2)
    model, feedback, x = pixelwise(problem), {"1": draw(4, 7, seed=8)}, draw(2, 5, 3, 2, seed=9)
    labels = torch.arange(12).reshape(2, 3, 2) % 4
    fa.attach(model, rule, example_inputs=x, feedback=feedback)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    in_rows = {place: v.movedim(2, -1) for place, v in drawn.items()}
    case = case_of_rows(rule, problem.model(), x.movedim(1, -1), labels, feedback, in_rows)
    assert_agree(by_pixel(found), expected_gradients(rule, case))


@pytest.mark.parametrize("positions", ["full", "shared"])
@pytest.mark.parametrize("num_perturbations", [1, 2])
def test_a_convolutional_network_has_the_gradients_of_the_equations(positions: str, num_perturbations: int) -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    sizes = {"full": (3 * 64, 4 * 4), "shared": (3, 4)}[positions]
    feedback = {f"act{layer}": draw(5, size, seed=60 + layer) for layer, size in enumerate(sizes, start=1)}
    rule = fa.FDFA(positions, num_perturbations=num_perturbations)
    fa.attach(model, rule, example_inputs=x, feedback=feedback)
    with recorded() as drawn:
        found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = model.by_hand()
    passed = convolutional.forward(net, x)
    error = model.error_by_hand(labels, passed.output)
    spread = [
        feedback[name] if positions == "full" else feedback[name].repeat_interleave(h[0, 0].numel(), 1)
        for name, h in zip(feedback, passed.activations, strict=True)
    ]
    expected = convolutional.gradients(net, passed, error, convolutional.direct_signals(passed, error, spread))
    directions = [list(pair) for pair in zip(drawn[1], drawn[2], strict=True)]
    tangents = [convolutional.tangent_at_output(net, passed, pair) for pair in directions]
    for layer, name in enumerate(feedback):
        terms = [
            torch.einsum("nc,ndhw->cdhw" if positions == "full" else "nc,ndhw->cd", tangent, pair[layer])
            for tangent, pair in zip(tangents, directions, strict=True)
        ]
        repeats = passed.activations[layer][0, 0].numel() if positions == "shared" else 1
        estimate = torch.stack(terms).mean(0).flatten(1) / (3 * repeats)
        expected[f"feedalign.{name}"] = feedback[name] - estimate
    assert_agree(found, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"update": "sgd"}, "update='sgd'"),
        ({"projects": "newest"}, "projects='newest'"),
        ({"distribution": "uniform"}, "distribution='uniform'"),
        ({"positions": "somewhere"}, "positions='somewhere'"),
        ({"rate": 0.0}, "rate=0"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate": 0.1}, 'is a rate of update="ema"'),
        ({"num_perturbations": 0}, "num_perturbations=0"),
        ({"num_perturbations": 1.0}, "num_perturbations=1.0"),
        ({"projects": "new"}, 'needs update="ema"'),
        ({"projects": "new", "update": "adam"}, 'needs update="ema"'),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_make_no_rule_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(AttachError, match=words):
        fa.FDFA(**options)


def test_several_directions_are_refused_where_tangents_are_dual_tensors() -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="num_perturbations=2 needs tangents that are carried by hand"):
        fa.attach(TimesOne(problem.model()), fa.FDFA(num_perturbations=2), example_inputs=problem.inputs())


def test_no_projection_stands_for_a_matrix_that_is_learned() -> None:
    problem = Problem()
    device = fa.Projection(lambda error, point: error)
    with pytest.raises(AttachError, match=r"fa\.FDFA learns matrices of its own"):
        fa.attach(problem.model(), fa.FDFA(), example_inputs=problem.inputs(), feedback=device)


def test_directional_dfa_is_its_first_name() -> None:
    assert fa.DirectionalDFA is fa.FDFA
