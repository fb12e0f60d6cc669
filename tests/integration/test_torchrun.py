"""A Transformer in two processes of torchrun, DistributedDataParallel: one process with the whole batch agrees."""

from typing import Any

import pytest
import torch

import feedalign as fa
from integration.gradients import ALL_RULES, assert_hidden_layers_learn, assert_same_gradients, gradients_of_step
from integration.transformer_blocks import by_plain_attention, language_model, text
from integration.worlds import averaged_over_ranks, seen_by_ranks
from integration.wrapped_transformer import NUM_SAMPLES, TRAINED, train

names = {"ids": lambda rule: rule.name}
x, y = text(NUM_SAMPLES)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank saw."""
    return seen_by_ranks("integration.wrapped_transformer", tmp_path_factory)


def assert_same_weights(ranks: list[dict[str, Any]], run: str, expected: dict[str, Any]) -> None:
    for seen in ranks:
        assert seen[run].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(seen[run][name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("norm", "level"), TRAINED)
def test_two_processes_and_one_have_the_same_weights_after_twenty_steps(
    ranks: list[dict[str, Any]], norm: str, level: str
) -> None:
    model = language_model(fa.DFA(), norm, level)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, lambda whole: whole)
    assert_same_weights(ranks, f"trained {norm} {level}", model.state_dict())
    still = {name for name, tensor in model.state_dict().items() if (tensor - start[name]).abs().max() < 1e-3}
    assert still == {name for name in start if name.startswith("feedalign.")}, "nothing compared with nothing"


def test_accumulation_without_synchronisation_trains_alike(ranks: list[dict[str, Any]]) -> None:
    model = language_model(fa.DFA(), "pre", "micro")
    train(model, lambda whole: whole)
    assert_same_weights(ranks, "accumulated", model.state_dict())


APART = (fa.NoisyBackprop, fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy, fa.WeightPerturbed)
"""Rules under which each rank draws for itself."""


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_looking_for_unused_parameters_or_knowing_them_changes_nothing(
    ranks: list[dict[str, Any]], rule: fa.Rule
) -> None:
    def second(model: Any, inputs: Any, labels: Any) -> Any:
        gradients_of_step(model, inputs, labels)
        return gradients_of_step(model, inputs, labels)

    with by_plain_attention(rule):
        if isinstance(rule, APART):
            expected = averaged_over_ranks(lambda: language_model(rule), (x, y), second)
        else:
            expected = second(language_model(rule), x, y)
    assert_hidden_layers_learn(expected, rule)
    for seen in ranks:
        assert_same_gradients(seen[f"unused {rule.name}"], expected)
        assert_same_gradients(seen[f"static {rule.name}"], expected)


def test_a_wrapper_that_was_not_told_of_layers_that_learn_nothing_is_refused(ranks: list[dict[str, Any]]) -> None:
    for seen in ranks:
        assert "WrappedModelError" in seen["untold"]
        assert "tokens.weight" in seen["untold"]
        assert "find_unused_parameters=True" in seen["untold"]
        assert "requires_grad_(False)" in seen["untold"]


def test_layers_frozen_before_wrapping_need_no_telling(ranks: list[dict[str, Any]]) -> None:
    frozen = gradients_of_step(language_model(fa.Shallow()), x, y)
    learns = {name for name, grad in frozen.items() if grad is not None}
    for seen in ranks:
        found = {name: grad for name, grad in seen["frozen"].items() if name in learns}
        assert_same_gradients(found, {name: frozen[name] for name in learns})
        assert all(grad is None for name, grad in seen["frozen"].items() if name not in learns)
