"""Optimizers and what people do around them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron, batch
from integration.gradients import (
    ALL_RULES,
    AVERAGED,
    SEVERAL_RULES,
    assert_same_gradients,
    attached,
    gradients,
    step,
)

x, y = batch()
names = {"ids": lambda rule: rule.name}
LEARNING = [rule for rule in ALL_RULES if rule.learns_feedback]
Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "foreach rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=True),
}


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        optimizer.zero_grad()
        step(model, x, y)
        optimizer.step()
    return parameters(model)


@pytest.mark.parametrize("rule", [*(rule for rule in ALL_RULES if not rule.learns_feedback), AVERAGED], ids=repr)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_made_before_attach_serves_as_well_as_one_made_after(rule: fa.Rule, make: Make) -> None:
    early, late = Perceptron(), attached(Perceptron, rule, x)
    optimizer = make(early.parameters())
    attached(lambda: early, rule, x)
    before = parameters(early)
    after = train(early, optimizer)
    assert_same_gradients(after, train(late, make(late.parameters())), tolerance=0)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    shallow = {"head.weight", "head.bias"}
    assert moved == (shallow if isinstance(rule, fa.Shallow) else set(before))


@pytest.mark.parametrize("rule", LEARNING, **names)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_that_misses_learned_feedback_is_noticed(rule: fa.Rule, make: Make) -> None:
    model = Perceptron()
    optimizer = make(model.parameters())
    handle = fa.attach(model, rule, example_inputs=x)
    words = r"built before attach\(\).*handle\.parameter_groups.*handle\.store\.requires_grad_\(False\)"
    with pytest.raises(fa.errors.UntrainedFeedbackError, match=words):
        train(model, optimizer, steps=12)
    handle.store.requires_grad_(False)
    model.zero_grad()
    train(model, optimizer, steps=12)
    assert all(p.grad is None for p in handle.store.parameters())


def test_feedback_that_is_trained_now_and_then_is_trained() -> None:
    model = Perceptron()
    handle = fa.attach(model, fa.DKP(), example_inputs=x)
    forward, feedback = (torch.optim.SGD(group["params"], lr=0.1) for group in handle.parameter_groups())
    for number in range(30):
        train(model, forward, steps=1)
        if number % 6 == 5:
            feedback.step()


def test_an_average_that_stands_still_in_evaluation_mode_is_noticed() -> None:
    model = Perceptron()
    fa.attach(model, fa.FDFA(update="ema"), example_inputs=x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.eval()
    with pytest.raises(fa.errors.UntrainedFeedbackError, match=r"evaluation mode. Call model\.train\(\)"):
        train(model, optimizer, steps=12)
    model.train()
    train(model, optimizer, steps=12)


@pytest.mark.parametrize("rule", LEARNING, **names)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_made_after_attach_trains_learned_feedback_too(rule: fa.Rule, make: Make) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    before = parameters(model)
    after = train(model, make(model.parameters()), steps=6)
    assert {name for name in after if torch.equal(after[name], before[name])} == set()


@pytest.mark.parametrize("rule", [fa.DKP(), fa.FDFA()], **names)
def test_feedback_that_starts_at_zero_lets_hidden_layers_learn_from_the_second_step_on(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = parameters(model)
    after = train(model, optimizer, steps=1)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"head.weight", "head.bias", "feedalign.act1", "feedalign.act2"}
    before, after = after, train(model, optimizer, steps=1)
    assert all(not torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_an_optimizer_goes_on_after_removal(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, steps=1)
    fa.handle_of(model).remove()
    plain = Perceptron()
    plain.load_state_dict(model.state_dict())
    expected = train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), steps=1)
    assert_same_gradients(train(model, optimizer, steps=1), expected, tolerance=0)


def test_weight_decay_and_momentum_leave_shallows_hidden_layers_alone() -> None:
    model = attached(Perceptron, fa.Shallow(), x)
    before = parameters(model)
    after = train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    assert torch.equal(after["fc1.weight"], before["fc1.weight"])
    assert not torch.equal(after["head.weight"], before["head.weight"])


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("clip", [
    lambda p: nn.utils.clip_grad_norm_(p, 0.01),
    lambda p: nn.utils.clip_grad_value_(p, 0.001),
])  # fmt: skip
def test_gradient_clipping_sees_the_rules_gradients(rule: fa.Rule, clip: Callable[[Any], Any]) -> None:
    model = attached(Perceptron, rule, x)
    step(model, x, y)
    by_hand = {name: nn.Parameter(p.detach()) for name, p in model.named_parameters()}
    for name, grad in gradients(model).items():
        by_hand[name].grad = grad
    clip(model.parameters())
    clip(by_hand.values())
    assert_same_gradients(gradients(model), {n: p.grad for n, p in by_hand.items()}, tolerance=1e-7)
    limit = max(p.grad.abs().max() for p in model.parameters() if p.grad is not None)
    assert 0 < limit <= 0.01


class StepsInBackward:
    """One optimizer for each parameter, run as soon as its gradient is there."""

    def __init__(self, model: nn.Module, set_to_none: bool) -> None:
        self.set_to_none, self.order = set_to_none, []
        self.optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
        self.names = {p: name for name, p in model.named_parameters()}
        for parameter in self.optimizers:
            parameter.register_post_accumulate_grad_hook(self)

    def __call__(self, parameter: nn.Parameter) -> None:
        self.order.append(self.names[parameter])
        self.optimizers[parameter].step()
        self.optimizers[parameter].zero_grad(set_to_none=self.set_to_none)


@pytest.mark.parametrize("rule", SEVERAL_RULES, **names)
def test_steps_taken_in_the_backward_end_where_steps_after_it_do(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    StepsInBackward(model, set_to_none=True)
    for _ in range(3):
        step(model, x, y)
    expected = train(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    assert_same_gradients(parameters(model), expected)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_streaming_with_steps_in_the_backward_updates_each_layer_in_the_forward(set_to_none: bool) -> None:
    model, plain = attached(Perceptron, fa.DRTP(), x), attached(Perceptron, fa.DRTP(), x)
    in_backward = StepsInBackward(model, set_to_none)
    for _ in range(3):
        fa.handle_of(model).targets(y)
        output = model(x)
        assert {name.split(".")[0] for name in in_backward.order} == {"fc1", "fc2"}
        F.cross_entropy(output, y).backward()
        in_backward.order.clear()
    expected = train(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
    assert_same_gradients(parameters(model), expected)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_streaming_learns_as_learning_from_the_error_does() -> None:
    streamed, from_error = attached(Perceptron, fa.DRTP(), x), attached(Perceptron, fa.DRTP(), x)
    optimizer = torch.optim.Adam(streamed.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        fa.handle_of(streamed).targets(y)
        step(streamed, x, y)
        optimizer.step()
    expected = train(from_error, torch.optim.Adam(from_error.parameters(), lr=0.01), steps=5)
    assert_same_gradients(parameters(streamed), expected)


@pytest.mark.parametrize("weights", [torch.linspace(0.1, 2.0, 6), torch.tensor([1.0, 0, 0, 1.0, 1.0, 0])])
def test_streaming_takes_a_weight_for_each_sample(weights: torch.Tensor) -> None:
    streamed, from_error = attached(Perceptron, fa.DRTP(), x), attached(Perceptron, fa.DRTP(), x)
    fa.handle_of(streamed).targets(y, scale=weights / 6)
    for model in (streamed, from_error):
        (weights * F.cross_entropy(model(x), y, reduction="none")).mean().backward()
    assert_same_gradients(gradients(streamed), gradients(from_error))


def test_lbfgs_may_run_forward_and_backward_many_times() -> None:
    model = attached(Perceptron, fa.DFA(), x)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
