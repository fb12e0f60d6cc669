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
from attach.models import Functional, Perceptron, Wrapper, batch, sequential
from integration.gradients import (
    ALL_RULES,
    AVERAGED,
    PERTURBING,
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


CASES = [(Perceptron, rule) for rule in [*ALL_RULES, AVERAGED]]
CASES += [(Functional, rule) for rule in [*PERTURBING, AVERAGED]]
IDS = [f"{make.__name__}-{rule!r}" for make, rule in CASES]
each_model = pytest.mark.parametrize(("make", "rule"), CASES, ids=IDS)


@each_model
@pytest.mark.parametrize("prepare", [fresh, after_a_forward, after_a_step])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_learns_as_the_original_does(
    make: type[nn.Module], rule: fa.Rule, prepare: object, duplicate: object
) -> None:
    model = prepare(attached(make, rule, x))
    twin = duplicate(model)
    assert_same_gradients(gradients_of_step(twin, x, y), gradients_of_step(model, x, y), tolerance=0)
    assert_hidden_layers_learn(gradients(twin), rule)


@each_model
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_taken_in_the_middle_of_training_goes_on_as_the_original_does(
    make: type[nn.Module], rule: fa.Rule, duplicate: object
) -> None:
    """Model and optimizer are copied together, so that the copy's optimizer holds the copy's parameters."""
    model = attached(make, rule, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer)
    twin, twins_optimizer = duplicate((model, optimizer))
    train(model, optimizer)
    train(twin, twins_optimizer)
    assert_same_gradients(dict(twin.named_parameters()), dict(model.named_parameters()), tolerance=0)
    assert all(torch.equal(a, b) for a, b in zip(twin.buffers(), model.buffers(), strict=True))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        step(model, x, y)
        optimizer.step()


@each_model
def test_a_copy_taken_between_forward_and_backward_disturbs_neither(make: type[nn.Module], rule: fa.Rule) -> None:
    model, undisturbed = attached(make, rule, x), attached(make, rule, x)
    loss = F.cross_entropy(model(x), y)
    twin = copy.deepcopy(model)
    loss.backward()
    expected = gradients_of_step(undisturbed, x, y)
    assert_same_gradients(gradients(model), expected)
    undisturbed.zero_grad()
    assert_same_gradients(gradients_of_step(twin, x, y), gradients_of_step(undisturbed, x, y))


@each_model
def test_a_copy_taken_inside_a_forward_starts_its_own(make: type[nn.Module], rule: fa.Rule) -> None:
    if rule == AVERAGED:
        pytest.skip("at that moment the average has not moved yet")
    model, undisturbed = attached(make, rule, x), attached(make, rule, x)
    twins = []
    if isinstance(rule, fa.WeightPerturbed) and fa.handle_of(model).uses_dual_tensors:
        model.act2.register_forward_pre_hook(lambda module, args: twins.append(copy.deepcopy(model)))
        with pytest.raises(fa.errors.ForwardModeError, match="Copy it between two forwards"):
            model(x)
        return
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
