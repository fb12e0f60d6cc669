"""DistributedDataParallel over two processes: one process with the whole batch learns the same."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from integration.distributed_worker import LIMITED, TRAINED, data_for, seeded_model
from integration.gradients import (
    ALL_RULES,
    Gradients,
    assert_hidden_layers_learn,
    assert_same_gradients,
    gradients,
    step,
)
from integration.worlds import averaged_over_ranks, seen_by_ranks

names = {"ids": lambda rule: rule.name}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank saw."""
    return seen_by_ranks("integration.distributed_worker", tmp_path_factory)


def averaged(name: str, rule: fa.Rule, run: Callable[[nn.Module, Tensor, Tensor], Any]) -> Gradients:
    """Mean of what each rank would compute on its part alone, with its own draws."""
    return averaged_over_ranks(lambda: single(name, rule), data_for(name), run)


def single(name: str, rule: fa.Rule) -> nn.Module:
    """One process with rank 0's seed."""
    return seeded_model(name, rule, seed=0)


def test_the_ranks_start_from_different_feedback() -> None:
    for rule in (fa.DFA(), fa.FA(), fa.BRSF()):
        first, second = (seeded_model("perceptron", rule, seed) for seed in (0, 1))
        pairs = zip(fa.handle_of(first).store.buffers(), fa.handle_of(second).store.buffers(), strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_every_rank_has_rank_zeros_weights_and_feedback(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    expected = single("perceptron", rule).state_dict()
    for seen in ranks:
        state = seen[f"perceptron {rule.name}"]["state"]
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], value) for key, value in expected.items())


APART = (fa.NoisyBackprop, fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy, fa.WeightPerturbed)
"""Rules under which each rank draws for itself."""
TOGETHER = [rule for rule in ALL_RULES if not isinstance(rule, APART)]
CASES = [("perceptron", rule) for rule in TOGETHER]
CASES += [
    (name, rule)
    for name in ("shared activation", "convolutional", "recurrent")
    for rule in (fa.FA(), fa.DFA(), fa.DRTP())
]


@pytest.mark.parametrize(("name", "rule"), CASES, ids=[f"{name}-{rule.name}" for name, rule in CASES])
def test_gradients_are_those_of_the_whole_batch(ranks: list[dict[str, Any]], name: str, rule: fa.Rule) -> None:
    model = single(name, rule)
    for key in ("first", "second"):
        model.zero_grad()
        step(model, *data_for(name))
        assert_hidden_layers_learn(gradients(model), rule)
        for seen in ranks:
            assert_same_gradients(seen[f"{name} {rule.name}"][key], gradients(model))


DRAWING = [("perceptron", rule) for rule in ALL_RULES if isinstance(rule, APART)]
DRAWING += [
    (name, rule)
    for name in ("functional", "recurrent")
    for rule in (fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed())
]


@pytest.mark.parametrize(("name", "rule"), DRAWING, ids=[f"{name}-{rule.name}" for name, rule in DRAWING])
def test_gradients_of_rules_that_draw_are_averaged_over_ranks(
    ranks: list[dict[str, Any]], name: str, rule: fa.Rule
) -> None:
    def second(model: nn.Module, x: Tensor, y: Tensor) -> None:
        step(model, x, y)
        model.zero_grad()
        step(model, x, y)

    for key, run in (("first", step), ("second", second)):
        expected = averaged(name, rule, run)
        assert_hidden_layers_learn(expected, rule)
        for seen in ranks:
            assert_same_gradients(seen[f"{name} {rule.name}"][key], expected)


def two_forwards(model: nn.Module, x: Tensor, y: Tensor) -> None:
    (F.cross_entropy(model(x), y) + F.cross_entropy(model(2 * x), y)).backward()


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if not isinstance(rule, fa.Shallow)], **names)
def test_two_forwards_before_one_backward_learn_alike(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    if isinstance(rule, APART):
        expected = averaged("perceptron", rule, two_forwards)
    else:
        model = single("perceptron", rule)
        two_forwards(model, *data_for("perceptron"))
        expected = gradients(model)
    for seen in ranks:
        assert_same_gradients(seen[f"two forwards {rule.name}"], expected)


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if isinstance(rule, APART)], **names)
def test_accumulation_of_rules_that_draw_is_averaged_over_ranks(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    def accumulate(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for inputs, labels in zip(x.chunk(2), y.chunk(2), strict=True):
            step(model, inputs, labels, scale=0.5)

    expected = averaged("perceptron", rule, accumulate)
    for seen in ranks:
        assert_same_gradients(seen[f"accumulated {rule.name}"], expected)


@pytest.mark.parametrize("rule", TRAINED, ids=repr)
def test_feedback_and_weights_stay_the_same_on_all_ranks(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    first, second = (seen[f"trained {rule!r}"]["state"] for seen in ranks)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    start = single("perceptron", rule).state_dict()
    assert [key for key in start if torch.equal(start[key], first[key])] == [key for key in start if "seed" in key]


@pytest.mark.parametrize("rule", [rule for rule in TRAINED if not isinstance(rule, fa.DKP)], ids=repr)
def test_each_rank_draws_for_its_own_samples(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    first, second = (seen[f"trained {rule!r}"]["drawn"] for seen in ranks)
    assert len(first) == len(second) >= 2
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_each_rank_has_noise_and_rounding_of_its_own_and_gradients_are_averaged(ranks: list[dict[str, Any]]) -> None:
    expected = averaged("perceptron", LIMITED, step)
    assert_hidden_layers_learn(expected, LIMITED)
    for seen in ranks:
        assert_same_gradients(seen["limited"]["first"], expected)
    first, second = (seen["limited, twice"][0]["drawn"] for seen in ranks)
    # For the error that is rounded, and for the noise at two points.
    assert len(first) == len(second) == 3
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_noise_and_rounding_leave_ranks_with_the_same_weights_whenever_it_is_run(ranks: list[dict[str, Any]]) -> None:
    first, *others = (run["state"] for seen in ranks for run in seen["limited, twice"])
    start = single("perceptron", LIMITED).state_dict()
    assert not any(torch.equal(start[name], first[name]) for name in start if "feedalign" not in name)
    for other in others:
        assert [key for key in first if not torch.equal(first[key], other[key])] == []


@pytest.mark.parametrize("rule", TOGETHER, **names)
def test_accumulation_without_synchronisation_learns_alike(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    model = single("perceptron", rule)
    x, y = data_for("perceptron")
    for quarter in (0, 1):  # each rank's first micro-batches together, then the second ones
        rows = torch.tensor([0, 1, 4, 5]) + 2 * quarter
        step(model, x[rows], y[rows], scale=0.5)
    for seen in ranks:
        assert_same_gradients(seen[f"accumulated {rule.name}"], gradients(model))


@pytest.mark.parametrize(("what", "words"), [
    ("streaming", ("StreamingError", "DistributedDataParallel", "handle.targets(None)")),
    ("wrapped", ("WrappedModelError", "DistributedDataParallel", "inside", "then wrap")),
    ("wrapped inside", ("WrappedModelError", "DistributedDataParallel", "inside")),
])  # fmt: skip
def test_what_cannot_work_is_refused(ranks: list[dict[str, Any]], what: str, words: tuple[str, ...]) -> None:
    for seen in ranks:
        assert all(word in seen["refusals"][what] for word in words), seen["refusals"][what]


@pytest.mark.parametrize("wrap", [DistributedDataParallel, lambda model: model], ids=["wrapped", "as it is"])
def test_the_modules_are_walked_once_at_most_in_a_forward(wrap: Callable[[nn.Module], nn.Module]) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = single("perceptron", fa.DFA())
        whole = wrap(model)
        whole(data_for("perceptron")[0])
        with mock.patch.object(model, "modules", wraps=model.modules) as walked:
            whole(data_for("perceptron")[0])
    finally:
        dist.destroy_process_group()
    assert walked.call_count == (0 if isinstance(whole, DistributedDataParallel) else 1)
