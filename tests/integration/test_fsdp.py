"""Models sharded by `fully_shard` over two processes: one process with the whole batch learns the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import feedalign as fa
from attach.models import Perceptron, batch
from attach.sequence_models import Recurrent, tokens
from integration.gradients import (
    Gradients,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients_of_step,
    step,
)
from integration.sharded_models import (
    IN_FULL,
    NUM_SAMPLES,
    NUM_STEPS,
    RECURRENT,
    RULES,
    SHAPES,
    TRAINED,
)
from integration.transformer_blocks import Transformer, by_plain_attention, language_model, text
from integration.worlds import averaged_over_ranks, seen_by_ranks

names = {"ids": lambda rule: rule.name}
data = text(NUM_SAMPLES)
APART = (fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy)
"""Rules under which each rank draws for itself."""
BFLOAT16_TOLERANCE = 0.05


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank saw."""
    return seen_by_ranks("integration.sharded_models", tmp_path_factory)


def twice(model: nn.Module, x: Any, y: Any) -> Gradients:
    gradients_of_step(model, x, y)
    return gradients_of_step(model, x, y)


def expected_of(rule: fa.Rule, make: Callable[[], nn.Module], batch: Any = data) -> Gradients:
    """Gradients of the second step in one process."""
    with by_plain_attention(rule):
        expected = averaged_over_ranks(make, batch, twice) if isinstance(rule, APART) else twice(make(), *batch)
    assert_hidden_layers_learn(expected, rule)
    return expected


@pytest.mark.parametrize("rule", RULES, **names)
@pytest.mark.parametrize(("norm", "level"), SHAPES)
def test_blocks_sharded_one_by_one_learn_as_in_one_process(
    ranks: list[dict[str, Any]], rule: fa.Rule, norm: str, level: str
) -> None:
    expected = expected_of(rule, lambda: language_model(rule, norm, level))
    for seen in ranks:
        assert_same_gradients(seen[f"{rule.name} {norm} {level}"], expected)


@pytest.mark.parametrize("rule", RULES, **names)
def test_a_model_sharded_as_a_whole_learns_as_in_one_process(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    expected = expected_of(rule, lambda: language_model(rule, "post", "micro"))
    for seen in ranks:
        assert_same_gradients(seen[f"{rule.name} whole"], expected)


@pytest.mark.parametrize("rule", RULES, **names)
def test_layers_and_activations_sharded_one_by_one_learn_as_in_one_process(
    ranks: list[dict[str, Any]], rule: fa.Rule
) -> None:
    whole = batch(NUM_SAMPLES)
    expected = expected_of(rule, lambda: attached(Perceptron, rule, whole[0]), whole)
    for seen in ranks:
        assert_same_gradients(seen[f"{rule.name} perceptron"], expected)


@pytest.mark.parametrize("rule", RECURRENT, **names)
def test_recurrent_layers_sharded_on_their_own_learn_as_in_one_process(
    ranks: list[dict[str, Any]], rule: fa.Rule
) -> None:
    whole = tokens(NUM_SAMPLES)
    expected = expected_of(rule, lambda: attached(Recurrent, rule, tokens()[0]), whole)
    for seen in ranks:
        assert_same_gradients(seen[f"{rule.name} recurrent"], expected)


WAYS = {
    "accumulated": "micro",
    "recomputed": "micro",
    "recomputed inside": "macro",
    "kept": "micro",
    "freed": "micro",
    "without a root": "macro",
    "hybrid": "micro",
    "between others": "micro",
}


@pytest.mark.parametrize(("way", "level"), WAYS.items())
def test_the_ways_of_sharding_make_no_difference(ranks: list[dict[str, Any]], way: str, level: str) -> None:
    expected = expected_of(fa.DFA(), lambda: language_model(fa.DFA(), "pre", level))
    for seen in ranks:
        found = {name.replace(".block.", "."): grad for name, grad in seen[way].items()}
        assert_same_gradients(found, expected)


def test_what_is_left_after_removal_is_the_plain_model(ranks: list[dict[str, Any]]) -> None:
    expected = twice(Transformer(), *data)
    for seen in ranks:
        assert_same_gradients(seen["removed"], expected)


def test_two_forwards_before_one_backward_are_two_steps(ranks: list[dict[str, Any]]) -> None:
    model = language_model(fa.DFA(), "pre", "micro")
    for _ in range(2):
        step(model, *data)
    once = {name: parameter.grad for name, parameter in model.named_parameters()}
    for seen in ranks:
        assert_same_gradients(seen["two forwards"], once)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.SignDFA()], **names)
def test_a_mixed_precision_policy_learns_within_its_precision(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    expected = expected_of(rule, lambda: language_model(rule, "pre", "micro"))
    for seen in ranks:
        found = seen[f"bfloat16 {rule.name}"]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == torch.float32
            assert (found[name] - value).norm() <= BFLOAT16_TOLERANCE * value.norm(), name


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP()], **names)
def test_the_whole_state_is_that_of_one_process(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    model = language_model(rule, "post", "macro")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(NUM_STEPS):
        gradients_of_step(model, *data)
        optimizer.step()
    state = ranks[0][f"trained {rule!r}"]["state"]
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    fresh = language_model(rule, "post", "macro", generator=torch.Generator().manual_seed(5))
    fresh.load_state_dict(state)
    assert_same_gradients(twice(fresh, *data), twice(model, *data), tolerance=1e-4)


@pytest.mark.parametrize("rule", TRAINED, ids=repr)
def test_a_fresh_sharded_model_goes_on_from_the_whole_state(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    for seen in ranks:
        run = seen[f"trained {rule!r}"]
        assert_same_gradients(run["loaded"], run["goes on"])


@pytest.mark.parametrize("rule", TRAINED, ids=repr)
def test_feedback_stays_the_same_on_all_ranks(ranks: list[dict[str, Any]], rule: fa.Rule) -> None:
    first, second = (seen[f"trained {rule!r}"]["buffers"] for seen in ranks)
    assert first.keys() == second.keys()
    assert all(torch.equal(buffer, second[name]) for name, buffer in first.items())


def test_averages_move_by_what_all_ranks_drew(ranks: list[dict[str, Any]]) -> None:
    (rule,) = (rule for rule in TRAINED if isinstance(rule, fa.FDFA))
    first, second = (seen[f"trained {rule!r}"] for seen in ranks)
    assert len(first["drawn"]) == len(second["drawn"]) == 2
    assert not any(torch.equal(a, b) for a, b in zip(first["drawn"], second["drawn"], strict=True))
    start = language_model(rule, "post", "macro").state_dict()
    moved = [name for name, buffer in first["buffers"].items() if not torch.equal(buffer, start[name])]
    assert moved == [name for name in first["buffers"] if "seed" not in name]


OLDER = ("WrappedModelError", "sharded", "fully_shard")
REFUSALS = {
    "measured": ("WrappedModelError", "sharded", "in full", "get_model_state_dict"),
    "older": OLDER,
    "older inside": OLDER,
    "older after": (*OLDER, "FullyShardedDataParallel"),
    "left out": ("UntrainedFeedbackError", "optimizer"),
    "already": ("WrappedModelError", "sharded already", "Attach", "first", "then call fully_shard"),
    "part": ("WrappedModelError", "sharded already", "Attach", "first", "then call fully_shard"),
    "streaming": ("StreamingError", "fully_shard", "handle.targets(None)"),
    "uneven": ("WrappedModelError", "different feedback", "same generator"),
    "drawn apart": ("WrappedModelError", "different feedback", "same generator"),
    "stored apart": ("WrappedModelError", "learned feedback of 'act1'", "handle.store"),
    "at the end": ("WrappedModelError", "learned feedback of", "reshard_after_forward=False"),
    **{rule.name: ("WrappedModelError", f"fa.{rule.__name__}", "DistributedDataParallel") for rule in IN_FULL},
}


@pytest.mark.parametrize(("what", "words"), REFUSALS.items())
def test_what_cannot_work_is_refused(ranks: list[dict[str, Any]], what: str, words: tuple[str, ...]) -> None:
    for seen in ranks:
        assert all(word in seen["refusals"][what] for word in words), seen["refusals"][what]
