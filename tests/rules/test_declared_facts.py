"""What each rule declares about itself, measured."""

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from agreement import basis, gradients, gradients_after_step, recorded
from feedalign.errors import TargetsError
from feedalign.rules import Perturbing
from problems import Problem, draw

every_rule = pytest.mark.parametrize("rule", fa.ALL_RULES)
HIDDEN = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


def attached(rule: type[fa.Rule], problem: Problem) -> tuple[nn.Sequential, fa.Handle]:
    model = problem.model()
    return model, fa.attach(model, rule(), example_inputs=problem.inputs())


def hidden_gradients(rule: fa.Rule, problem: Problem, model: nn.Module, num_forwards: int = 1) -> list[Tensor]:
    """Mean over forwards, with feedback that is always drawn from the same seed; zeros where there is no gradient."""
    handle = fa.attach(model, rule, example_inputs=problem.inputs())
    total = [torch.zeros_like(p) for name, p in model.named_parameters() if name in HIDDEN]
    for _ in range(num_forwards):
        found = gradients_after_step(model, problem)
        total = [t if found[name] is None else t + found[name] for t, name in zip(total, HIDDEN, strict=True)]
    handle.remove()
    return [t / num_forwards for t in total]


def mean_update(rule: type[fa.Rule], problem: Problem, model: nn.Module) -> list[Tensor]:
    """The mean of what hidden layers receive over all that is drawn, exactly where moments tell it.

    Of an estimate that is quadratic in its directions: over a basis of them. Of noise: of it and its opposite.
    """
    if issubclass(rule, Perturbing):
        directions = basis(rule(), problem)
        with recorded(directions):
            return hidden_gradients(rule(num_perturbations=len(next(iter(directions.values())))), problem, model)
    if rule is fa.NoisyBackprop:
        noise = {2048 + number: draw(1, *p.shape, seed=number) for number, p in enumerate(model.parameters())}
        halves = []
        for sign in (1, -1):
            with recorded({place: sign * xi for place, xi in noise.items()}):
                halves.append(hidden_gradients(rule(), problem, model))
        return [(a + b) / 2 for a, b in zip(*halves, strict=True)]
    return hidden_gradients(rule(), problem, model, num_forwards=64 if getattr(rule, "redraws", False) else 1)


def differ(one: list[Tensor], other: list[Tensor]) -> bool:
    return any(not torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, other, strict=True))


def move_where_no_activation_is(problem: Problem, model: nn.Sequential, keep_signs: bool) -> None:
    """Change the weights of fc2 and fc3 along directions on which their inputs have no component.

    Every activation, the output and the error stay what they were; only what backprop would transport changes.
    """
    activation = problem.inputs()
    for number, layer in enumerate(model.children()):
        if isinstance(layer, nn.Linear) and number > 0:
            _, _, rows = torch.linalg.svd(activation.detach(), full_matrices=True)
            free = rows[len(activation) :]
            change = draw(layer.out_features, len(free), seed=30 + number) @ free
            with torch.no_grad():
                limit = 0.5 * (layer.weight / change).abs().amin() if keep_signs else 10.0
                layer.weight.add_(limit * change)
        activation = layer(activation)


@every_rule
def test_weight_transport_is_that_hidden_updates_see_the_weights_above(rule: type[fa.Rule]) -> None:
    problem = Problem(num_samples=3)
    model = problem.model()
    output = model(problem.inputs())
    before = hidden_gradients(rule(), problem, model)
    move_where_no_activation_is(problem, model, keep_signs=False)
    torch.testing.assert_close(model(problem.inputs()), output, rtol=1e-12, atol=1e-12)
    assert differ(hidden_gradients(rule(), problem, model), before) == rule.weight_transport


@pytest.mark.parametrize(
    ("rule", "sees_sizes"), [(fa.Backprop, True), (fa.USF, False), (fa.BRSF, False), (fa.FRSF, False)]
)
def test_sign_symmetric_rules_transport_signs_and_no_sizes(rule: type[fa.Rule], sees_sizes: bool) -> None:
    problem = Problem(num_samples=3)
    model = problem.model()
    before = hidden_gradients(rule(), problem, model)
    signs = [p.sign() for p in model.parameters()]
    move_where_no_activation_is(problem, model, keep_signs=True)
    assert all(torch.equal(p.sign(), sign) for p, sign in zip(model.parameters(), signs, strict=True))
    assert differ(hidden_gradients(rule(), problem, model), before) == sees_sizes


@every_rule
def test_update_locked_is_that_hidden_layers_wait_for_the_backward(rule: type[fa.Rule]) -> None:
    problem = Problem()
    model, handle = attached(rule, problem)
    at_output: list[dict[str, Tensor | None]] = []
    model.fc3.register_forward_pre_hook(lambda module, args: at_output.append(gradients(model)))
    if getattr(rule, "streams", False):
        handle.targets(problem.targets())
    after = gradients_after_step(model, problem, keep=True)
    waiting = [name for name in HIDDEN if at_output[0][name] is None and after[name] is not None]
    assert bool(waiting) == rule.update_locked
    if not rule.update_locked:
        assert all(
            after[name] is at_output[0][name] is None or after[name].equal(at_output[0][name]) for name in HIDDEN
        )


@every_rule
def test_unbiased_is_that_the_update_is_on_average_the_gradient_of_backprop(rule: type[fa.Rule]) -> None:
    problem = Problem()
    model = problem.model()
    gradients_after_step(model, problem)
    exact = [p.grad.clone() for name, p in model.named_parameters() if name in HIDDEN]
    assert differ(mean_update(rule, problem, model), exact) != rule.unbiased


@pytest.mark.parametrize(
    ("rule", "is_unbiased"), [(fa.ActivityPerturbed, True), (fa.WeightPerturbed, True), (fa.LocalGreedy, False)]
)
@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_what_is_truly_drawn_has_the_mean_that_is_declared(
    rule: type[fa.Rule], is_unbiased: bool, distribution: str
) -> None:
    """Within 5 standard errors of 64 means over 64 directions each, at all of 89 numbers."""
    problem = Problem()
    model = problem.model()
    gradients_after_step(model, problem)
    exact = torch.cat([p.grad.flatten() for name, p in model.named_parameters() if name in HIDDEN])
    fa.attach(model, rule(num_perturbations=64, distribution=distribution), example_inputs=problem.inputs())
    found = []
    for _ in range(64):
        step = gradients_after_step(model, problem)
        found.append(torch.cat([step[name].flatten() for name in HIDDEN]))
    means = torch.stack(found)
    standard_error = means.std(0) / len(means) ** 0.5
    assert bool(((means.mean(0) - exact).abs() <= 5 * standard_error).all()) == is_unbiased


@every_rule
def test_learns_feedback_is_that_feedback_changes_in_training(rule: type[fa.Rule]) -> None:
    problem = Problem()
    model, handle = attached(rule, problem)
    before = {name: tensor.clone() for name, tensor in handle.store.state_dict().items() if name != "counter"}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    gradients_after_step(model, problem)
    optimizer.step()
    after = handle.store.state_dict()
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items()) == rule.learns_feedback
    assert any(p.requires_grad for p in handle.store.parameters()) == rule.learns_feedback


@every_rule
def test_needs_targets_is_that_no_step_can_be_made_without_them(rule: type[fa.Rule]) -> None:
    problem = Problem()
    model, _ = attached(rule, problem)
    try:
        gradients_after_step(model, problem)
        works = True
    except TargetsError:
        works = False
    assert works != rule.needs_targets


@every_rule
def test_targets_are_refused_by_rules_that_do_not_stream(rule: type[fa.Rule]) -> None:
    problem = Problem()
    _, handle = attached(rule, problem)
    if getattr(rule, "streams", False):
        handle.targets(problem.targets())
        assert handle.is_streaming
    else:
        with pytest.raises(TargetsError, match="takes no targets"):
            handle.targets(problem.targets())
