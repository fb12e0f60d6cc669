"""Deep copies: a copy is attached in its own right."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import feedalign as fa
from attach.model_state import assert_same_state, state_of
from attach.models import Perceptron, Wrapper, batch, sequential
from integration.gradients import (
    ALL_RULES,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients,
    gradients_of_step,
    step,
)

x, y = batch()
names = {"ids": lambda rule: rule.name}


def fresh(model: nn.Module) -> nn.Module:
    return model


def after_a_forward(model: nn.Module) -> nn.Module:
    model.pending = model(x)
    del model.pending
    return model


def after_a_step(model: nn.Module) -> nn.Module:
    step(model, x, y)
    return model


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("prepare", [fresh, after_a_forward, after_a_step])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_learns_as_the_original_does(rule: fa.Rule, prepare: object, duplicate: object) -> None:
    model = prepare(attached(Perceptron, rule, x))
    twin = duplicate(model)
    assert_same_gradients(gradients_of_step(twin, x, y), gradients_of_step(model, x, y), tolerance=0)
    assert_hidden_layers_learn(gradients(twin), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_copy_taken_between_forward_and_backward_disturbs_neither(rule: fa.Rule) -> None:
    model, undisturbed = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    loss = F.cross_entropy(model(x), y)
    twin = copy.deepcopy(model)
    loss.backward()
    expected = gradients_of_step(undisturbed, x, y)
    assert_same_gradients(gradients(model), expected)
    undisturbed.zero_grad()
    assert_same_gradients(gradients_of_step(twin, x, y), gradients_of_step(undisturbed, x, y))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_copy_taken_inside_a_forward_starts_its_own(rule: fa.Rule) -> None:
    model, undisturbed = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    twins = []
    hook = model.act2.register_forward_pre_hook(lambda module, args: twins.append(copy.deepcopy(model)))
    step(model, x, y)
    hook.remove()
    step(undisturbed, x, y)
    assert_same_gradients(gradients(model), gradients(undisturbed))
    assert_same_gradients(gradients_of_step(twins[0], x, y), gradients_of_step(undisturbed, x, y))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_training_a_copy_leaves_the_original_alone(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    before = state_of(model)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    step(twin, x, y)
    optimizer.step()
    for buffer in fa.handle_of(twin).store.buffers():
        buffer.zero_()
    assert_same_state(state_of(model), before)
    assert fa.handle_of(model).describe().rows[0].fired is None
    assert not torch.equal(twin.head.weight, model.head.weight)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("make", [Perceptron, sequential, Wrapper])
def test_a_copy_has_a_handle_of_its_own(rule: fa.Rule, make: type[nn.Module]) -> None:
    model = attached(make, rule, x)
    before = state_of(model)
    twin = copy.deepcopy(model)
    handle = fa.handle_of(twin)
    assert handle is not fa.handle_of(model)
    assert handle.model is twin
    assert str(handle.describe()) == str(fa.handle_of(model).describe())
    handle.remove()
    assert list(twin.state_dict()) == list(make().state_dict())
    assert state_of(twin).hooks == {}
    assert_same_state(state_of(model), before)
    fa.handle_of(model).remove()


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_removing_from_the_original_leaves_the_copy_attached(rule: fa.Rule) -> None:
    model, other = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    twin = copy.deepcopy(model)
    fa.handle_of(model).remove()
    del model
    assert_same_gradients(gradients_of_step(twin, x, y), gradients_of_step(other, x, y))


def test_a_streaming_copy_waits_for_targets_of_its_own() -> None:
    model = attached(Perceptron, fa.DRTP(), x)
    fa.handle_of(model).targets(y)
    twin = copy.deepcopy(model)
    with pytest.raises(fa.errors.TargetsError, match="No targets"):
        twin(x)
    fa.handle_of(twin).targets(y)
    step(twin, x, y)
    step(model, x, y)
    assert_same_gradients(gradients(twin), gradients(model))


def test_an_averaged_model_keeps_the_rule_and_its_feedback() -> None:
    model = attached(Perceptron, fa.DFA(), x)
    averaged = AveragedModel(model)
    step(model, x, y)
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    averaged.update_parameters(model)
    assert torch.equal(averaged(x), model(x))
    ours, theirs = fa.handle_of(model).store, fa.handle_of(averaged).store
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def test_a_user_projection_is_copied_with_the_model() -> None:
    matrix = torch.randn(3, 7)
    projection = fa.Projection(lambda rows, name: rows @ matrix)
    model = attached(Perceptron, fa.DFA(), x, feedback=projection, points="act1")
    twin = copy.deepcopy(model)
    assert_same_gradients(gradients_of_step(twin, x, y), gradients_of_step(model, x, y))
