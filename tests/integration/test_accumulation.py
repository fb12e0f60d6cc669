"""Backwards that are not one after one forward of one full batch."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron, Regularised, batch
from feedalign.rules import WeightRule
from integration.gradients import (
    ALL_RULES,
    AVERAGED,
    DRAWS_ANEW,
    SEVERAL_RULES,
    WITHOUT_DRAWS,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients,
    gradients_of_step,
    is_learned_feedback,
    step,
)

x, y = batch(8)
names = {"ids": lambda rule: rule.name}


def summed(*parts: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    return {n: None if g is None else sum(part[n] for part in parts) for n, g in parts[0].items()}


def separate_steps(rule: fa.Rule, *batches: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Sum of the gradients of one forward and backward after another, each from zero."""
    model = attached(Perceptron, rule, x)
    return summed(*[gradients_of_step(model, inputs, targets) for inputs, targets in batches])


HALVES = ((x[:4], y[:4]), (x[4:], y[4:]))


@pytest.mark.parametrize("rule", WITHOUT_DRAWS, **names)
def test_two_micro_batches_make_the_full_batch(rule: fa.Rule) -> None:
    whole, accumulated = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    step(whole, x, y)
    for inputs, targets in HALVES:
        step(accumulated, inputs, targets, scale=0.5)
    assert_same_gradients(gradients(accumulated), gradients(whole))
    assert_hidden_layers_learn(gradients(whole), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_gradients_accumulate_until_zeroed(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    for inputs, targets in HALVES:
        step(model, inputs, targets)
    assert_same_gradients(gradients(model), separate_steps(rule, *HALVES))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_two_forwards_before_one_backward_are_two_steps(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in HALVES]
    sum(losses).backward()
    assert_same_gradients(gradients(model), separate_steps(rule, *HALVES))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_backwards_may_come_in_another_order_than_forwards(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in HALVES]
    for loss in reversed(losses):
        loss.backward()
    assert_same_gradients(gradients(model), separate_steps(rule, *HALVES))


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if isinstance(rule, DRAWS_ANEW)], **names)
def test_numbers_are_drawn_anew_for_every_forward_and_only_then(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    first, second = gradients_of_step(model, x, y), gradients_of_step(model, x, y)
    drawn = "feedalign.act1" if isinstance(rule, fa.FDFA) else "fc1.weight"
    assert not torch.equal(first[drawn], second[drawn])
    if not isinstance(rule, WeightRule):
        assert torch.equal(first["head.weight"], second["head.weight"])
    loss = F.cross_entropy(model(x), y)
    parts = [torch.autograd.grad(loss, model.fc1.weight, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*parts)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_second_backward_through_a_kept_graph_doubles_the_gradients(rule: fa.Rule) -> None:
    model, once = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    loss.backward()
    step(once, x, y)
    assert_same_gradients(gradients(model), summed(gradients(once), gradients(once)))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("size", [1, 3])
def test_a_partial_last_batch_is_a_batch_like_any_other(rule: fa.Rule, size: int) -> None:
    attached_large, attached_small = attached(Perceptron, rule, x), attached(Perceptron, rule, x[:size])
    for model in (attached_large, attached_small):
        step(model, x[:size], y[:size])
    assert_same_gradients(gradients(attached_large), gradients(attached_small))
    assert_hidden_layers_learn(gradients(attached_large), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_an_empty_batch_teaches_nothing(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    loss = F.cross_entropy(model(x[:0]), y[:0], reduction="sum")
    loss.backward()
    if isinstance(rule, fa.NoisyBackprop):
        assert all(p.grad.any() for p in model.parameters()), "its noise is not the loss's"
    else:
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    again = attached(Perceptron, rule, x)
    if isinstance(rule, DRAWS_ANEW):
        again(x)
    assert_same_gradients(gradients_of_step(model, x, y), gradients_of_step(again, x, y))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("factor", [100.0, 1e-3])
def test_the_losss_factor_reaches_every_layer(rule: fa.Rule, factor: float) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    step(model, x, y, scale=factor)
    step(plain, x, y)
    noisy = gradients(plain)
    if isinstance(rule, fa.NoisyBackprop):
        with fa.handle_of(plain).suspended():
            exact = gradients_of_step(plain, x, y)
        expected = {name: g + (factor - 1) * exact[name] for name, g in noisy.items()}
    else:
        expected = {name: None if g is None else factor * g for name, g in gradients(plain).items()}
    if isinstance(rule, fa.FDFA):  # how far feedback is from the Jacobian does not depend on the loss
        expected |= {name: g for name, g in gradients(plain).items() if is_learned_feedback(name)}
    assert_same_gradients(gradients(model), expected, tolerance=1e-6 * max(1.0, factor))


def test_an_average_moves_on_with_every_forward_in_training_and_only_then() -> None:
    model = attached(Perceptron, AVERAGED, x)
    store = fa.handle_of(model).store

    def moves(forward: Callable[[], object]) -> bool:
        before = store.feedback("act1").clone()
        forward()
        return not torch.equal(store.feedback("act1"), before)

    assert moves(lambda: model(x))
    loss = F.cross_entropy(model(x), y)
    assert not moves(loss.backward)
    assert not moves(lambda: model(x[:0])), "nothing was seen"
    for between in (without_gradients, in_inference_mode, evaluated, suspended):
        assert not moves(lambda between=between: between(model)), between.__name__
    model.eval()
    assert not moves(lambda: step(model, x, y))


def test_two_forwards_of_an_average_use_each_their_own_matrix() -> None:
    model, other = attached(Perceptron, AVERAGED, x), attached(Perceptron, AVERAGED, x)
    losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in HALVES]
    sum(losses).backward()
    apart = summed(*[gradients_of_step(other, inputs, targets) for inputs, targets in HALVES])
    assert_same_gradients(gradients(model), apart)


def without_gradients(model: nn.Module) -> None:
    with torch.no_grad():
        model(x)


def in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        model(x)


def evaluated(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        model(x[:1])
    model.train()


def suspended(model: nn.Module) -> None:
    with fa.handle_of(model).suspended():
        model(x)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("between", [without_gradients, in_inference_mode, evaluated, suspended])
def test_forwards_without_a_lesson_between_steps_change_nothing(
    rule: fa.Rule, between: Callable[[nn.Module], None]
) -> None:
    model, undisturbed = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    between(model)
    loss = F.cross_entropy(model(x), y)
    between(model)
    loss.backward()
    between(model)
    step(model, x, y)
    for _ in range(2):
        step(undisturbed, x, y)
    assert_same_gradients(gradients(model), gradients(undisturbed))


@pytest.mark.parametrize("rule", SEVERAL_RULES, **names)
def test_a_forward_never_followed_by_a_backward_leaves_nothing_behind(rule: fa.Rule) -> None:
    model, undisturbed = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    model(x)
    if isinstance(rule, DRAWS_ANEW):
        undisturbed(x)
    for one in (model, undisturbed):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(undisturbed))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_training_in_eval_mode_follows_the_rule(rule: fa.Rule) -> None:
    model, other = attached(Regularised, rule, x), attached(lambda: Regularised().eval(), rule, x)
    model.eval()
    for one in (model, other):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(other))
    assert_hidden_layers_learn(gradients(model), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_autograd_grad_gives_what_backward_gives(rule: fa.Rule) -> None:
    model, other = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    step(model, x, y)
    parameters = dict(other.named_parameters())
    loss = F.cross_entropy(other(x), y)
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    assert_same_gradients(dict(zip(parameters, grads, strict=True)), gradients(model))
