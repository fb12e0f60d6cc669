"""What `attach` may not touch: weights, gradients, buffers, flags, random states, the function itself."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.model_state import assert_same_tensors, state_of
from attach.models import Convolutional, Perceptron, Regularised, RunsItsChildren, Wrapper, batch, images, sequential
from attach.sequence_models import Tokens, tokens

x, y = batch()
RULES = [rule() for rule in fa.ALL_RULES]


def own(part: dict[str, Any]) -> dict[str, Any]:
    """What is not the rule's."""
    return {name: value for name, value in part.items() if "feedalign" not in name.split(".")}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("training", [True, False])
def test_everything_of_the_users_stays_as_it_was(rule: fa.Rule, training: bool) -> None:
    model = Regularised()
    F.cross_entropy(model(x), y).backward()
    model.train(training)
    model.norm.train(not training)
    model.fc2.weight.requires_grad_(False)
    before = state_of(model)
    fa.attach(model, rule, example_inputs=x)
    after = state_of(model)
    assert_same_tensors(own(after.values), before.values)
    assert_same_tensors(own(after.grads), before.grads)
    for part in ("parameters", "requires_grad", "training"):
        assert own(getattr(after, part)) == getattr(before, part), part
    assert all(value is None for name, value in after.grads.items() if name not in before.grads)
    assert torch.equal(after.random, before.random)


@pytest.mark.parametrize("draw", [fa.Orthogonal(), fa.Sparse(), fa.Ternary(), fa.Normal(), fa.SharedSlice()])
def test_drawing_leaves_the_global_random_state_alone(draw: fa.Draw) -> None:
    before = torch.get_rng_state()
    fa.attach(Perceptron(), fa.DFA(), example_inputs=x, feedback=draw)
    assert torch.equal(torch.get_rng_state(), before)


def test_feedback_depends_on_the_generator_alone() -> None:
    def drawn(seed: int, generator: torch.Generator | None) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return fa.attach(Perceptron(), fa.DFA(), example_inputs=x, generator=generator).store.feedback("act1")

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    assert torch.equal(drawn(1, None), drawn(2, None))
    assert torch.equal(drawn(1, seeded(5)), drawn(2, seeded(5)))
    assert not torch.equal(drawn(1, seeded(5)), drawn(1, seeded(6)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("make", "inputs"), [
    (Perceptron, x),
    (sequential, x),
    (Wrapper, x),
    (RunsItsChildren, x),
    (Convolutional, images()[0]),
    (Tokens, tokens()[0]),
])  # fmt: skip
def test_the_models_function_stays_the_same(make: Any, inputs: torch.Tensor, rule: fa.Rule) -> None:
    model = make()
    expected = model(inputs)
    fa.attach(model, rule, example_inputs=inputs)
    assert torch.equal(model(inputs), expected)
    with torch.no_grad():
        assert torch.equal(model(inputs), expected)
    with torch.inference_mode():
        assert torch.equal(model(inputs), expected)


@pytest.mark.parametrize("rule", RULES)
def test_dropout_draws_what_it_would_draw_without_a_rule(rule: fa.Rule) -> None:
    plain, attached = Regularised(), Regularised()
    fa.attach(attached, rule, example_inputs=x)
    outputs = []
    for model in (plain, attached):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            outputs.append(model(x))
    assert torch.equal(*outputs)
    assert_same_tensors(dict(plain.norm.named_buffers()), dict(attached.norm.named_buffers()))


@pytest.mark.parametrize("rule", RULES)
def test_parameters_are_the_models_own_and_learned_feedback_and_no_more(rule: fa.Rule) -> None:
    model = Perceptron()
    before = list(model.parameters())
    handle = fa.attach(model, rule, example_inputs=x)
    learned = list(handle.store.parameters())
    assert bool(learned) == rule.learns_feedback
    assert [id(p) for p in model.parameters()] == [id(p) for p in [*before, *learned]]


@pytest.mark.parametrize("rule", RULES)
def test_a_sequential_keeps_its_length_order_and_keys(rule: fa.Rule) -> None:
    model, plain = sequential(), sequential()
    fa.attach(model, rule, example_inputs=x)
    assert len(model) == 5
    assert [type(module) for module in model] == [type(module) for module in plain]
    assert model[-1] is model.head
    assert isinstance(model[0:2][1], nn.Tanh)
    assert [key for key in model.state_dict() if "feedalign" not in key] == list(plain.state_dict())


def test_the_example_inputs_are_only_read() -> None:
    inputs, given = x.clone().requires_grad_(), x.clone()
    fa.attach(Perceptron(), fa.DFA(), example_inputs=inputs)
    assert torch.equal(inputs, given)
    assert inputs.grad is None


def test_the_rule_and_the_feedback_given_are_only_read() -> None:
    feedback = {"act1": torch.randn(3, 7), "act2": torch.randn(3, 6)}
    model = Perceptron()
    handle = fa.attach(model, fa.DFA(), example_inputs=x, feedback=feedback)
    feedback["act1"].zero_()
    assert handle.store.feedback("act1").any()
