"""Models with more than one result: where the error may be taken, and what becomes of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from check.pretrained import WIDTH, gpt2, words


class ActorCritic(nn.Module):
    """Returns a value and an action squashed to an interval, which is made first."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act = nn.Linear(8, 16), nn.ReLU()
        self.value, self.action, self.squash = nn.Linear(16, 1), nn.Linear(16, 4), nn.Tanh()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.body(x))
        action = self.squash(self.action(h))
        return self.value(h), action


class ActionFirst(ActorCritic):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, action = super().forward(x)
        return action, value


class ValueIsRead(ActorCritic):
    """The action depends on the value."""

    def __init__(self) -> None:
        super().__init__()
        self.action = nn.Linear(17, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.body(x))
        value = self.value(h)
        return value, self.action(torch.cat([h, value], -1))


class Dueling(ActorCritic):
    """The second result is the sum of what two modules make."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.body(x))
        value, advantage = self.value(h), self.action(h)
        return value, value + advantage - advantage.mean(-1, keepdim=True)


class WithFeatures(ActorCritic):
    """Returns an activation beside the result."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.body(x))
        return self.action(h), h


def states() -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def results_after(model: nn.Module, arguments: dict[str, Any]) -> list[bool]:
    """Which results have a gradient once a rule is attached."""
    with fa.attach(model, fa.DFA(), example_inputs=states(), **arguments):
        return [result.requires_grad for result in model(states())]


@pytest.mark.parametrize("make", [ActorCritic, ActionFirst, ValueIsRead, Dueling, WithFeatures])
def test_a_suggestion_leaves_every_result_its_gradient_or_says_which_has_none(make: type[ActorCritic]) -> None:
    found = fa.check(make(), states())
    assert found.suggestions
    for suggestion in found.suggestions:
        alive = results_after(make(), suggestion.arguments)
        told = "\n".join(fa.check(make(), states(), **suggestion.arguments).notes)
        for number, is_alive in enumerate(alive):
            assert is_alive != (f"a loss on '[{number}]', returned beside the output, has no gradient" in told)
        assert all(alive) or "then has no gradient" in suggestion.why or make is WithFeatures


@pytest.mark.parametrize("make", [ActorCritic, ActionFirst])
def test_an_activation_on_the_way_to_another_result_is_no_point_by_default(make: type[ActorCritic]) -> None:
    model = make()
    with fa.attach(model, fa.DFA(), example_inputs=states(), output="value") as handle:
        assert {row.point for row in handle.describe().rows} == {"act", "output"}
        value, action = sorted(model(states()), key=lambda result: result.shape[1])
        value.sum().backward(retain_graph=True)
        assert model.action.weight.grad is None
        action.sum().backward()
        assert model.action.weight.grad is not None


def test_the_module_that_makes_the_first_result_is_offered_though_others_read_it() -> None:
    found = fa.check(ValueIsRead(), states())
    assert list(dict.fromkeys(suggestion.output for suggestion in found.suggestions)) == ["value", "action"]
    assert found.assumed is found.suggestions[0]
    assert found.assumed.why.endswith("'[0]'")


def test_a_result_that_several_modules_make_is_to_pass_one() -> None:
    found = fa.check(Dueling(), states())
    assert [suggestion.output for suggestion in found.suggestions] == ["value"]
    assert any(note.startswith("no single module makes '[1]': for a loss on it let it pass") for note in found.notes)


def test_layers_behind_the_output_are_taught_by_the_loss_itself() -> None:
    model = gpt2()
    model.lm_head.weight = nn.Parameter(torch.randn(40, WIDTH))
    ids = {"input_ids": words()}
    points = ["transformer.drop", "transformer.h.?"]
    found = fa.check(model, ids, points=points, output="transformer.ln_f")
    assert found.ok
    assert found.layer("lm_head") == fa.LayerCheck("lm_head", ("error",), why="behind the output, in 'logits'")
    assert any(note.startswith("a loss on 'logits' passes the output") for note in found.notes)
    fa.attach(model, fa.DFA(), example_inputs=ids, points=points, output="transformer.ln_f")
    model(**ids).logits.square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())
