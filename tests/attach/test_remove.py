"""`remove()`: the plain model again."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.model_state import assert_same_state, left_as_it_was, state_of
from attach.models import (
    Branches,
    Convolutional,
    LeakySkip,
    Perceptron,
    Regularised,
    RunsItsChildren,
    SharedActivation,
    SharedLinear,
    Wrapper,
    batch,
    images,
    sequential,
)

x, y = batch()
RULES = [rule() for rule in fa.ALL_RULES]
MODELS = [Perceptron, sequential, Regularised, SharedActivation, SharedLinear, Branches, LeakySkip, RunsItsChildren]


CASES = [(make, rule) for make in (*MODELS, Wrapper) for rule in RULES]
CASES.remove((LeakySkip, fa.LocalGreedy()))  # one hidden layer


@pytest.mark.parametrize(("make", "rule"), CASES)
def test_removal_leaves_nothing_behind(make: type[nn.Module], rule: fa.Rule) -> None:
    model = make()
    num_modules, num_buffers = len(list(model.modules())), len(list(model.buffers()))
    with left_as_it_was(model):
        handle = fa.attach(model, rule, example_inputs=x)
        assert any(name.endswith("feedalign") for name, _ in model.named_modules())
        handle.remove()
    assert (len(list(model.modules())), len(list(model.buffers()))) == (num_modules, num_buffers)
    output = model(x)
    assert output.grad_fn is not None
    assert "Broadcast" not in type(output.grad_fn).__name__


@pytest.mark.parametrize("rule", RULES)
def test_removal_from_a_convolutional_model_leaves_nothing_behind(rule: fa.Rule) -> None:
    model = Convolutional()
    with left_as_it_was(model):
        fa.attach(model, rule, example_inputs=images()[0]).remove()


@pytest.mark.parametrize("rule", RULES)
def test_removal_after_training_keeps_what_was_learned(rule: fa.Rule) -> None:
    model = Regularised()
    handle = fa.attach(model, rule, example_inputs=x)
    optimizer = torch.optim.Adam(model.parameters())
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    trained = {name: value.clone() for name, value in model.state_dict().items() if "feedalign" not in name}
    hooks_before_attach = state_of(Regularised()).hooks
    handle.remove()
    after = model.state_dict()
    assert list(after) == list(Regularised().state_dict())
    assert all(torch.equal(after[name], value) for name, value in trained.items())
    assert state_of(model).hooks == hooks_before_attach == {}


@pytest.mark.parametrize("rule", RULES)
def test_a_removed_rule_teaches_no_more(rule: fa.Rule) -> None:
    model, plain = Perceptron(), Perceptron()
    fa.attach(model, rule, example_inputs=x).remove()
    for one in (model, plain):
        F.cross_entropy(one(x), y).backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.BRSF()])
def test_removing_twice_is_removing_once(rule: fa.Rule) -> None:
    model = Perceptron()
    handle = fa.attach(model, rule, example_inputs=x)
    handle.remove()
    with left_as_it_was(model):
        handle.remove()


def test_removing_an_old_handle_leaves_the_new_rule_alone() -> None:
    model = Perceptron()
    old = fa.attach(model, fa.DFA(), example_inputs=x)
    old.remove()
    new = fa.attach(model, fa.DFA(), example_inputs=x)
    before = state_of(model)
    old.remove()
    assert_same_state(state_of(model), before)
    assert fa.handle_of(model) is new


def test_a_context_manager_removes_the_rule_at_its_end() -> None:
    model = Perceptron()
    with left_as_it_was(model), fa.attach(model, fa.DFA(), example_inputs=x) as handle:
        assert fa.handle_of(model) is handle
    with left_as_it_was(model), pytest.raises(KeyError), fa.attach(model, fa.FA(), example_inputs=x):
        raise KeyError("from inside")


def test_the_users_own_hooks_survive() -> None:
    model, seen = Perceptron(), []
    model.act1.register_forward_hook(lambda module, args, output: seen.append("hook"))
    model.register_forward_pre_hook(lambda module, args: seen.append("pre-hook"))
    with left_as_it_was(model):
        handle = fa.attach(model, fa.DFA(), example_inputs=x)
        handle.remove()
    seen.clear()
    model(x)
    assert seen == ["pre-hook", "hook"]


def test_a_removed_rule_says_that_it_was_removed() -> None:
    handle = fa.attach(Perceptron(), fa.DFA(), example_inputs=x)
    handle.remove()
    assert handle.describe().rows == ()
    assert "removed" in str(handle.describe())


def test_handle_of_a_plain_model_is_refused() -> None:
    with pytest.raises(fa.errors.AttachError, match=r"No rule is attached.*fa\.attach"):
        fa.handle_of(Perceptron())
