"""Checkpoints: feedback is part of a model's state and comes back with it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import feedalign as fa
from attach.models import Convolutional, Functional, Perceptron, batch, images, sequential
from feedalign.rules import DirectRule, LayerwiseRule
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


def with_seed(seed: int, rule: fa.Rule, make: Callable[..., nn.Module] = Perceptron, inputs: Any = x) -> nn.Module:
    return attached(lambda: make(seed), rule, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("make", [Perceptron, sequential])
def test_a_checkpoint_on_disk_brings_the_same_gradients_to_a_fresh_model(
    rule: fa.Rule, make: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model, fresh = with_seed(1, rule, make), with_seed(2, rule, make)
    step(model, x, y)
    torch.save(model.state_dict(), tmp_path / "checkpoint.pt")
    fresh.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert_same_gradients(gradients_of_step(fresh, x, y), gradients_of_step(model, x, y), tolerance=0)
    assert_hidden_layers_learn(gradients(fresh), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_convolutional_checkpoint_brings_the_same_gradients(rule: fa.Rule) -> None:
    inputs, labels = images()
    model, fresh = (with_seed(seed, rule, Convolutional, inputs) for seed in (1, 2))
    fresh.load_state_dict(model.state_dict())
    assert_same_gradients(gradients_of_step(fresh, inputs, labels), gradients_of_step(model, inputs, labels))


@pytest.mark.parametrize("rule", [fa.FA(), fa.DFA(), fa.DRTP(), fa.FRSF(), fa.BRSF()], **names)
def test_feedback_does_differ_between_seeds(rule: fa.Rule) -> None:
    model, other = with_seed(1, rule), attached(lambda: Perceptron(1), rule, x)
    assert not torch.equal(gradients_of_step(model, x, y)["fc1.weight"], gradients_of_step(other, x, y)["fc1.weight"])


CASES = [(Perceptron, rule) for rule in [*ALL_RULES, AVERAGED]]
CASES += [(Functional, rule) for rule in [*PERTURBING, AVERAGED]]


@pytest.mark.parametrize(("make", "rule"), CASES, ids=[f"{make.__name__}-{rule!r}" for make, rule in CASES])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(make: type[nn.Module], rule: fa.Rule) -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            step(model, x, y)
            optimizer.step()

    whole = with_seed(1, rule, make)
    train(whole, torch.optim.Adam(whole.parameters(), lr=0.01), 6)
    first = with_seed(1, rule, make)
    optimizer = torch.optim.Adam(first.parameters(), lr=0.01)
    train(first, optimizer, 3)
    second = with_seed(2, rule, make)
    resumed = torch.optim.Adam(second.parameters(), lr=0.01)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    train(second, resumed, 3)
    assert_same_gradients(dict(second.named_parameters()), dict(whole.named_parameters()), tolerance=0)
    assert all(torch.equal(a, b) for a, b in zip(second.buffers(), whole.buffers(), strict=True))


@pytest.mark.parametrize("rule", [*ALL_RULES, AVERAGED], ids=repr)
def test_a_rule_taken_away_and_attached_again_starts_afresh(rule: fa.Rule) -> None:
    model = with_seed(1, rule)
    torch.optim.SGD(model.parameters(), lr=0.1).step(lambda: step(model, x, y))
    fa.handle_of(model).remove()
    plain = Perceptron()
    plain.load_state_dict(model.state_dict())
    again, fresh = attached(lambda: model, rule, x), attached(lambda: plain, rule, x)
    for one in (again, fresh):
        one.zero_grad()
        step(one, x, y)
    assert_same_gradients(gradients(again), gradients(fresh), tolerance=0)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.BRSF()], **names)
def test_a_checkpoint_of_the_plain_model_is_refused_by_name_and_fits_when_not_strict(rule: fa.Rule) -> None:
    plain, model = Perceptron(3), with_seed(1, rule)
    with pytest.raises(RuntimeError, match=r"Missing key.*feedalign"):
        model.load_state_dict(plain.state_dict())
    before = [buffer.clone() for buffer in fa.handle_of(model).store.buffers()]
    result = model.load_state_dict(plain.state_dict(), strict=False)
    assert all("feedalign." in key for key in result.missing_keys)
    assert torch.equal(model.fc1.weight, plain.fc1.weight)
    assert all(torch.equal(a, b) for a, b in zip(before, fa.handle_of(model).store.buffers(), strict=True))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_the_checkpoint_of_a_removed_rule_is_the_plain_models(rule: fa.Rule) -> None:
    model = with_seed(1, rule)
    step(model, x, y)
    fa.handle_of(model).remove()
    Perceptron(2).load_state_dict(model.state_dict())


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_loading_with_assignment_follows_the_new_parameters(rule: fa.Rule) -> None:
    model, fresh = with_seed(1, rule), with_seed(2, rule)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fresh.load_state_dict(state, assign=True)
    assert_same_gradients(gradients_of_step(fresh, x, y), gradients_of_step(model, x, y), tolerance=0)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_loading_between_forward_and_backward_is_noticed(rule: fa.Rule) -> None:
    """What the forward kept for the backward is gone: torch says so, unless the rule needs none of it."""
    model, untouched = with_seed(1, rule), with_seed(1, rule)
    step(untouched, x, y)
    loss = nn.functional.cross_entropy(model(x), y)
    model.load_state_dict(with_seed(2, rule).state_dict())
    sends_weights_back = (fa.Backprop, fa.NoisyBackprop, LayerwiseRule)
    if isinstance(rule, (*sends_weights_back, DirectRule, fa.LocalGreedy)):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        return
    loss.backward()
    assert_same_gradients(gradients(model), gradients(untouched))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_model_saved_whole_comes_back_with_its_rule(rule: fa.Rule) -> None:
    model = with_seed(1, rule)
    step(model, x, y)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    handle = fa.handle_of(loaded)
    assert handle.model is loaded
    assert handle.rules == fa.handle_of(model).rules
    assert_same_gradients(gradients_of_step(loaded, x, y), gradients_of_step(model, x, y), tolerance=0)
    handle.remove()
    assert list(loaded.state_dict()) == list(Perceptron().state_dict())
    assert fa.handle_of(model) is not handle


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.LocalGreedy(), fa.FA()], **names)
def test_feedback_that_a_rule_has_no_place_for_is_refused_even_when_not_strict(rule: fa.Rule, strict: bool) -> None:
    model, other = with_seed(1, rule), attached(Perceptron, fa.DFA(), x, points="act1")
    with pytest.raises(RuntimeError, match=r"no place for: feedalign\.\w+.* Attach with the rule, points= and output="):
        other.load_state_dict(model.state_dict(), strict=strict)


def test_a_shard_of_a_checkpoint_may_hold_a_part_of_the_feedback() -> None:
    model, fresh = with_seed(1, fa.DFA()), with_seed(2, fa.DFA())
    for key, value in model.state_dict().items():
        fresh.load_state_dict({key: value}, strict=False)
    assert_same_gradients(gradients_of_step(fresh, x, y), gradients_of_step(model, x, y), tolerance=0)


@pytest.mark.parametrize("rule", [fa.FA(), fa.USF()], **names)
def test_weights_may_change_before_the_backward_where_errors_go_back_without_them(rule: fa.Rule) -> None:
    """As in a pipeline, where the next batch's update comes first; the layers' own gradients need no weights."""
    model, untouched = with_seed(1, rule), with_seed(1, rule)
    step(untouched, x, y)
    loss = nn.functional.cross_entropy(model(x), y)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    if rule.weight_transport:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        return
    loss.backward()
    assert_same_gradients(gradients(model), gradients(untouched), tolerance=0)
