"""Activation checkpointing: recomputed blocks give the same gradients; the re-entrant kind is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from attach.models import Seeded, batch
from feedalign import errors
from integration.gradients import (
    ALL_RULES,
    DRAWS_ANEW,
    Gradients,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients,
    step,
)

x, y = batch()
names = {"ids": lambda rule: rule.name}
WITHOUT_REDRAWS = [rule for rule in ALL_RULES if not isinstance(rule, fa.BRSF)]
# Those under which a hidden layer without a gradient would be the rule's fault.
RULES = [rule for rule in ALL_RULES if not isinstance(rule, (fa.Backprop, fa.NoisyBackprop))]


class Checkpointed(Seeded):
    """Two hidden layers, of which a part is checkpointed."""

    def build(self, part: str = "block", reentrant: bool | None = None, dropout: float = 0.3) -> None:
        self.fc1, self.act1, self.fc2, self.act2 = nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh()
        self.head, self.drop = nn.Linear(7, 3), nn.Dropout(dropout)
        self.part, self.reentrant = part, reentrant

    def run(self, block: Any, x: Tensor) -> Tensor:
        return block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)

    def forward(self, x: Tensor) -> Tensor:
        if self.part == "layer":
            return self.head(self.act2(self.run(self.fc2, self.act1(self.fc1(x)))))
        if self.part == "activation":
            return self.head(self.run(self.act2, self.fc2(self.run(self.act1, self.fc1(x)))))
        return self.head(self.run(self.block, x))

    def block(self, x: Tensor) -> Tensor:
        return self.act2(self.fc2(self.drop(self.act1(self.fc1(x)))))


def seeded_step(model: nn.Module, forwards: int = 1) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        losses = [F.cross_entropy(model(x * (number + 1)), y) for number in range(forwards)]
        sum(losses).backward()


def assert_taught_or_refused(model: nn.Module, teach: Callable[[], None], expected: Gradients, *words: str) -> None:
    """Either the gradients are the expected ones, or a typed error said these words."""
    try:
        teach()
    except errors.FeedalignError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is None:
        assert_same_gradients(gradients(model), expected)
    else:
        assert all(word in refusal for word in words), refusal


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("part", ["block", "layer", "activation"])
@pytest.mark.parametrize("forwards", [1, 2])
def test_recomputed_parts_give_the_same_gradients(rule: fa.Rule, part: str, forwards: int) -> None:
    plain = attached(lambda: Checkpointed(part=part), rule, x)
    model = attached(lambda: Checkpointed(part=part, reentrant=False), rule, x)
    for _ in range(2):
        seeded_step(plain, forwards)
    assert_hidden_layers_learn(gradients(plain), rule)

    def teach() -> None:
        for _ in range(2):
            seeded_step(model, forwards)

    if isinstance(rule, fa.BRSF):
        assert_taught_or_refused(model, teach, gradients(plain), "BRSF", "draws anew", "checkpointing", "fa.FRSF()")
        return
    teach()
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("rule", WITHOUT_REDRAWS, **names)
@pytest.mark.parametrize("part", ["block", "layer", "activation"])
def test_a_copy_taken_after_a_recomputation_learns_alike(rule: fa.Rule, part: str) -> None:
    model = attached(lambda: Checkpointed(part=part, reentrant=False), rule, x)
    seeded_step(model)
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one.zero_grad()
        seeded_step(one)
    assert_same_gradients(gradients(twin), gradients(model), tolerance=0)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_whole_model_recomputed_gives_the_same_gradients(rule: fa.Rule) -> None:
    model, plain = attached(Checkpointed, rule, x), attached(Checkpointed, rule, x)
    for _ in range(2):
        seeded_step(plain)

    def teach() -> None:
        for _ in range(2):
            seeded_step(lambda inputs: checkpoint(model, inputs, use_reentrant=False))

    if isinstance(rule, DRAWS_ANEW):
        with pytest.raises(errors.CheckpointingError, match=r"draws anew at every forward.*Checkpoint parts"):
            teach()
        return
    teach()
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("part", ["block", "layer", "activation"])
def test_streaming_with_recomputed_parts_works_or_is_refused(part: str) -> None:
    plain = attached(lambda: Checkpointed(part=part, dropout=0.0), fa.DRTP(), x)
    model = attached(lambda: Checkpointed(part=part, dropout=0.0, reentrant=False), fa.DRTP(), x)
    step(plain, x, y)
    fa.handle_of(model).targets(y)
    assert_taught_or_refused(model, lambda: step(model, x, y), gradients(plain), "treaming", "checkpointing")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("rule", RULES, **names)
@pytest.mark.parametrize("part", ["block", "layer", "activation"])
@pytest.mark.parametrize("inputs_require_grad", [False, True])
def test_the_reentrant_kind_is_refused_or_teaches_all_the_same(
    rule: fa.Rule, part: str, inputs_require_grad: bool
) -> None:
    inputs = x.clone().requires_grad_(inputs_require_grad)
    plain = attached(lambda: Checkpointed(part=part, dropout=0.0), rule, x)
    step(plain, x, y)
    model = Checkpointed(part=part, dropout=0.0, reentrant=True)

    def teach() -> None:
        fa.attach(model, rule, example_inputs=inputs)
        step(model, inputs, y)

    assert_taught_or_refused(model, teach, gradients(plain), "use_reentrant=False")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("rule", RULES, **names)
@pytest.mark.parametrize("part", ["block", "layer", "activation"])
def test_the_reentrant_kind_switched_on_after_attach_is_refused(rule: fa.Rule, part: str) -> None:
    model = attached(lambda: Checkpointed(part=part, dropout=0.0), rule, x)
    plain = attached(lambda: Checkpointed(part=part, dropout=0.0), rule, x)
    step(plain, x, y)
    model.reentrant = True
    assert_taught_or_refused(model, lambda: step(model, x, y), gradients(plain), "use_reentrant=False")
