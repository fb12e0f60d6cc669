"""Ways in which a rule could be silently off; the comparison with the equations by hand sees each of them."""

from collections.abc import Callable
from typing import Any

import pytest

import feedalign as fa
from agreement import compare, rule_for
from feedalign.circuit import Circuit
from feedalign.linear_like import LinearAdjoint
from feedalign.perturber import Perturber
from feedalign.placement import Placement
from feedalign.receivers import DirectReceiver, HeadReceiver, SlopeReceiver, WeightReceiver
from feedalign.rules import DirectRule, LayerwiseRule, LearnedRule, Perturbing, WeightRule
from feedalign.streaming import Stream
from problems import Problem

Patch = pytest.MonkeyPatch

DIRECT = [rule for rule in fa.ALL_RULES if issubclass(rule, DirectRule)]
LAYERWISE = [rule for rule in fa.ALL_RULES if issubclass(rule, LayerwiseRule)]
WEIGHT = [rule for rule in fa.ALL_RULES if issubclass(rule, WeightRule)]
PERTURBING = [rule for rule in fa.ALL_RULES if issubclass(rule, Perturbing)]
LEARNED = [rule for rule in fa.ALL_RULES if issubclass(rule, LearnedRule)]
# A rule, whether it streams, and where its signal is made.
SIGNALS: list[Any] = [
    *[pytest.param(rule, False, DirectReceiver, "teach", id=rule.name) for rule in DIRECT],
    *[pytest.param(rule, False, LinearAdjoint, "__call__", id=rule.name) for rule in LAYERWISE],
    *[pytest.param(rule, False, WeightReceiver, "teach", id=rule.name) for rule in WEIGHT],
    pytest.param(fa.ActivityPerturbed, False, SlopeReceiver, "teach", id="fg-a"),
    pytest.param(fa.LocalGreedy, False, SlopeReceiver, "teach", id="lg-fg-a at the last hidden layer"),
    pytest.param(fa.LocalGreedy, False, HeadReceiver, "teach", id="lg-fg-a at a head"),
    pytest.param(fa.DRTP, True, Stream, "signal", id="drtp streaming"),
]


def assert_killed(rule: type[fa.Rule], problem: Problem, streaming: bool = False) -> None:
    """The comparison that has just passed fails on an unequal gradient."""
    with pytest.raises(AssertionError, match=r"not close|has no gradient|should have none|nothing was perturbed"):
        compare(rule_for(rule, problem), problem, streaming=streaming)


def mutate(patch: Patch, owner: type, method: str, change: Callable[[Any], Any]) -> None:
    original = getattr(owner, method)
    patch.setattr(owner, method, lambda *args, **kwargs: change(original(*args, **kwargs)))


@pytest.mark.parametrize(("rule", "streaming", "owner", "method"), SIGNALS)
def test_a_signal_off_by_a_thousandth_is_seen(
    rule: type[fa.Rule], streaming: bool, owner: type, method: str, monkeypatch: Patch
) -> None:
    problem = Problem()
    compare(rule_for(rule, problem), problem, streaming=streaming)
    mutate(monkeypatch, owner, method, lambda signal: 1.001 * signal)
    assert_killed(rule, problem, streaming)


@pytest.mark.parametrize(("rule", "streaming", "owner", "method"), SIGNALS)
def test_a_lost_mean_over_the_batch_is_seen(
    rule: type[fa.Rule], streaming: bool, owner: type, method: str, monkeypatch: Patch
) -> None:
    problem = Problem()
    compare(rule_for(rule, problem), problem, streaming=streaming)
    mutate(monkeypatch, owner, method, lambda signal: len(signal) * signal)
    assert_killed(rule, problem, streaming)


@pytest.mark.parametrize("rule", [rule for rule in fa.ALL_RULES if rule is not fa.Backprop])
def test_backprop_in_the_place_of_the_rule_is_seen(rule: type[fa.Rule], monkeypatch: Patch) -> None:
    problem = Problem()
    compare(rule_for(rule, problem), problem)
    monkeypatch.setattr(Circuit, "listening", False)
    assert_killed(rule, problem)


@pytest.mark.parametrize("rule", PERTURBING)
def test_a_tangent_off_by_a_thousandth_is_seen(rule: type[fa.Rule], monkeypatch: Patch) -> None:
    problem = Problem()
    compare(rule_for(rule, problem), problem)
    mutate(monkeypatch, Perturber, "reach_output", lambda reached: (reached[0], 1.001 * reached[1]))
    assert_killed(rule, problem)


@pytest.mark.parametrize("rule", PERTURBING)
def test_directions_that_samples_swap_are_seen(rule: type[fa.Rule], monkeypatch: Patch) -> None:
    """A tangent of the right law, but of other directions than those that it is multiplied with."""
    problem = Problem()
    compare(rule_for(rule, problem), problem)
    mutate(monkeypatch, Perturber, "reach_output", lambda reached: (reached[0], reached[1].roll(1, 0)))
    assert_killed(rule, problem)


@pytest.mark.parametrize("rule", [*LEARNED, fa.LocalGreedy])
def test_a_gradient_of_learned_feedback_off_by_a_thousandth_is_seen(rule: type[fa.Rule], monkeypatch: Patch) -> None:
    problem = Problem()
    compare(rule_for(rule, problem), problem)
    owner = HeadReceiver if rule is fa.LocalGreedy else DirectReceiver
    mutate(monkeypatch, owner, "feedback_gradients", lambda made: tuple(1.001 * gradient for gradient in made))
    assert_killed(rule, problem)


@pytest.mark.parametrize("rule", [*LEARNED, fa.LocalGreedy])
def test_rows_of_another_sample_are_seen(rule: type[fa.Rule], monkeypatch: Patch) -> None:
    problem = Problem()
    compare(rule_for(rule, problem), problem)
    mutate(monkeypatch, Placement, "collect", lambda rows: rows.roll(1, 0))
    assert_killed(rule, problem)


def test_an_average_with_the_sign_of_algorithm_1_is_seen(monkeypatch: Patch) -> None:
    problem, rule = Problem(), fa.FDFA(update="ema", rate=0.01)
    compare(rule, problem)
    monkeypatch.setattr(fa.FDFA, "averaged", lambda self, b, t: (1 - self.rate) * b - self.rate * t)
    with pytest.raises(AssertionError, match="not close"):
        compare(rule, problem)


def test_the_error_itself_off_by_a_thousandth_is_seen_at_the_output_layer(monkeypatch: Patch) -> None:
    problem = Problem()
    loss_of = Problem.loss_of
    monkeypatch.setattr(Problem, "loss_of", lambda self, *args: 1.001 * loss_of(self, *args))
    assert_killed(fa.Shallow, problem)
    assert_killed(fa.Backprop, problem)
