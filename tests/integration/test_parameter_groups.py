"""`Handle.parameter_groups`: what an optimizer is given, exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import feedalign as fa
from attach.models import Functional, Perceptron, batch, sequential
from integration.gradients import ALL_RULES, AVERAGED, assert_same_gradients, attached, step

x, y = batch()
names = {"ids": lambda rule: rule.name}
LEARNED = [fa.DKP(), fa.FDFA()]
OTHERS = [rule for rule in [*ALL_RULES, AVERAGED] if rule not in LEARNED]
OWN = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "head.weight", "head.bias"]


def named(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with names in the places of parameters."""
    name_of = {id(p): name for name, p in model.named_parameters()}
    return [{**group, "params": [name_of[id(p)] for p in group["params"]]} for group in groups]


def groups_of(rule: fa.Rule, make: Callable[[], nn.Module] = Perceptron, **options: Any) -> list[dict[str, Any]]:
    model = make()
    return named(model, fa.attach(model, rule, example_inputs=x).parameter_groups(**options))


@pytest.mark.parametrize("rule", LEARNED, **names)
def test_learned_matrices_have_a_group_of_their_own(rule: fa.Rule) -> None:
    matrices = ["feedalign.act1", "feedalign.act2"]
    assert groups_of(rule) == [{"params": OWN}, {"params": matrices}]
    assert groups_of(rule, lr=0.1) == [{"params": OWN, "lr": 0.1}, {"params": matrices}]
    assert groups_of(rule, feedback_lr=0.2) == [{"params": OWN}, {"params": matrices, "lr": 0.2}]
    assert groups_of(rule, lr=0.1, feedback_lr=0.0, weight_decay=0.3, feedback_decay=0.4) == [
        {"params": OWN, "lr": 0.1, "weight_decay": 0.3},
        {"params": matrices, "lr": 0.0, "weight_decay": 0.4},
    ]
    assert groups_of(rule, Functional) == [{"params": OWN}, {"params": matrices}]
    in_sequential = ["head.feedalign.act1", "head.feedalign.act2"]
    assert groups_of(rule, sequential) == [{"params": OWN}, {"params": in_sequential}]


@pytest.mark.parametrize("rule", OTHERS, ids=repr)
def test_other_rules_have_one_group(rule: fa.Rule) -> None:
    heads = ["feedalign.act1", "feedalign.act1_bias"] if isinstance(rule, fa.LocalGreedy) else []
    assert groups_of(rule, lr=0.1, weight_decay=0.2) == [{"params": OWN + heads, "lr": 0.1, "weight_decay": 0.2}]
    assert groups_of(rule) == [{"params": OWN + heads}]


@pytest.mark.parametrize("rule", OTHERS, ids=repr)
@pytest.mark.parametrize("option", ["feedback_lr", "feedback_decay"])
def test_options_of_feedback_that_no_optimizer_trains_are_refused(rule: fa.Rule, option: str) -> None:
    handle = fa.attach(Perceptron(), rule, example_inputs=x)
    with pytest.raises(
        fa.errors.AttachError, match=rf"{type(rule).__name__}.*leave feedback_lr and feedback_decay out"
    ):
        handle.parameter_groups(**{option: 0.0})


@pytest.mark.parametrize("rule", LEARNED, **names)
def test_frozen_parameters_are_left_out(rule: fa.Rule) -> None:
    def frozen() -> nn.Module:
        model = Perceptron()
        model.fc1.requires_grad_(False)
        model.head.bias.requires_grad_(False)
        return model

    own = ["fc2.weight", "fc2.bias", "head.weight"]
    assert groups_of(rule, frozen) == [{"params": own}, {"params": ["feedalign.act2"]}]
    model = frozen()
    handle = fa.attach(model, rule, example_inputs=x)
    handle.store.requires_grad_(False)
    trained = [name for group in named(model, handle.parameter_groups()) for name in group["params"]]
    assert trained == own


def test_a_mixture_has_the_learned_matrices_of_its_rules() -> None:
    model = Perceptron()
    handle = fa.attach(model, {"fc1": fa.LocalGreedy(), "fc2": fa.DKP()}, example_inputs=x)
    heads = ["feedalign.act1", "feedalign.act1_bias"]
    assert named(model, handle.parameter_groups(feedback_lr=0.1)) == [
        {"params": OWN + heads},
        {"params": ["feedalign.act2"], "lr": 0.1},
    ]


def test_a_removed_rule_has_no_groups() -> None:
    handle = fa.attach(Perceptron(), fa.FDFA(), example_inputs=x)
    handle.remove()
    with pytest.raises(fa.errors.AttachError, match="removed"):
        handle.parameter_groups()


@pytest.mark.parametrize("rule", LEARNED, **names)
def test_what_is_left_out_is_the_optimizers_default(rule: fa.Rule) -> None:
    handle = fa.attach(Perceptron(), rule, example_inputs=x)
    optimizer = torch.optim.AdamW(handle.parameter_groups(feedback_lr=1e-4, feedback_decay=1e-6))
    own, feedback = optimizer.param_groups
    assert (own["lr"], own["weight_decay"]) == (optimizer.defaults["lr"], optimizer.defaults["weight_decay"])
    assert (feedback["lr"], feedback["weight_decay"]) == (1e-4, 1e-6)
    assert own["betas"] == feedback["betas"] == optimizer.defaults["betas"]


def by_hand(model: nn.Module, optimizer: type[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """Two optimizers, one for each part."""
    parts = dict(model.named_parameters())
    own = [p for name, p in parts.items() if "feedalign" not in name]
    return [optimizer(own, lr=0.05), optimizer([p for n, p in parts.items() if "feedalign" in n], lr=0.2)]


@pytest.mark.parametrize("rule", LEARNED, **names)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("make", [Perceptron, Functional])
def test_groups_train_as_two_optimizers_would(
    rule: fa.Rule, optimizer: type[torch.optim.Optimizer], make: type[nn.Module]
) -> None:
    model, plain = attached(make, rule, x), attached(make, rule, x)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    grouped = optimizer(fa.handle_of(model).parameter_groups(lr=0.05, feedback_lr=0.2))
    for one, optimizers in ((model, [grouped]), (plain, by_hand(plain, optimizer))):
        for _ in range(3):
            one.zero_grad()
            step(one, x, y)
            for each in optimizers:
                each.step()
    assert_same_gradients(dict(model.named_parameters()), dict(plain.named_parameters()), tolerance=0)
    assert not any(torch.equal(p, start[name]) for name, p in model.named_parameters())
