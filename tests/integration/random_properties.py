"""What holds of any architecture under any rule: it works, or is refused with a sentence that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from attach.model_state import assert_same_state, state_of
from feedalign.errors import FeedalignError, UncutPathError
from feedalign.rules import LayerwiseRule, LearnedRule, PointRule, WeightRule
from integration.by_hand import gradients_by_hand
from integration.exact_limits import limit_of
from integration.gradients import (
    assert_same_gradients,
    direct_feedback,
    draws_recorded,
    gradients,
    layerwise_feedback,
    numbered_gradients,
    step,
)
from integration.random_models import Architecture, RandomModel, data_for

RULES: list[fa.Rule] = [rule() for rule in fa.ALL_RULES if rule is not fa.DRTP]
RULES += [fa.DRTP(allow_unbounded=True), fa.FDFA(num_perturbations=2), fa.WeightPerturbed(num_perturbations=2)]

_SHORTEST_SENTENCE = 40


def outcome_of(architecture: Architecture, rule: fa.Rule) -> list[str]:
    """Try everything; AssertionError where something does not hold.

    Returns:
        What was shown, or the name of the error with which the model was refused.
    """
    x, y = data_for(architecture)
    model = RandomModel(architecture)
    before = state_of(model)
    try:
        attached(model, rule, x)
    except FeedalignError as error:
        assert_same_state(state_of(model), before)
        return [refusal(error)]
    try:
        same_dropout(lambda: step(model, x, y))
    except FeedalignError as error:
        return [refusal(error)]
    shown = [_a_step_leaves_no_trace(architecture, rule)]
    if not architecture.is_recurrent:
        shown.append(_gradients_are_those_by_hand(architecture, rule))
    if isinstance(rule, PointRule):
        shown.append(_leaks_are_told(architecture, rule))
    if not architecture.is_recurrent and (limit := limit_of(rule)) is not None and limit(architecture, rule):
        shown.append(limit.__name__.replace("_", " "))
    return shown


def refusal(error: FeedalignError) -> str:
    """Its name; the sentence has to be one."""
    sentence = str(error)
    assert len(sentence) >= _SHORTEST_SENTENCE, sentence
    assert sentence.endswith((".", ")")), sentence
    return f"refused: {type(error).__name__}"


def attached(model: nn.Module, rule: fa.Rule, x: Tensor, **options: Any) -> fa.Handle:
    """Feedback that starts at zero would hide what is wrong with it."""
    if isinstance(rule, LearnedRule):
        options["feedback"] = fa.KaimingUniform()
    return fa.attach(model, rule, example_inputs=x, **options)


def _gradients_are_those_by_hand(architecture: Architecture, rule: fa.Rule) -> str:
    x, y = data_for(architecture)
    model, plain, untouched = (RandomModel(architecture) for _ in range(3))
    attached(model, rule, x)
    with draws_recorded() as drawn:
        same_dropout(lambda: step(model, x, y))
    found, feedback = numbered_gradients(model), _feedback_of(model)
    expected = same_dropout(lambda: gradients_by_hand(plain, rule, feedback, x, y, plain.points, drawn))
    assert all(grad is None or bool(grad.isfinite().all()) for grad in found.values())
    assert_same_gradients(found, expected, tolerance=1e-10)
    if not isinstance(rule, WeightRule):
        same_dropout(lambda: step(untouched, x, y))
        assert torch.equal(found["head.weight"], untouched.head.weight.grad), "the output layer learns as in backprop"
    return "gradients by hand"


def _feedback_of(model: nn.Module) -> Mapping[str, Tensor] | list[Tensor]:
    if not isinstance(fa.handle_of(model).rules[0], LayerwiseRule):
        return direct_feedback(model)
    return layerwise_feedback(model, [module for module in model.modules() if type(module) in {nn.Linear, nn.Conv2d}])


def _a_step_leaves_no_trace(architecture: Architecture, rule: fa.Rule) -> str:
    """Attaching changes nothing that is the user's, nor what the model returns; after removal all is as before."""
    x, y = data_for(architecture)
    model, plain = RandomModel(architecture), RandomModel(architecture)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = state_of(model)
    handle = attached(model, rule, x)
    after = state_of(model)
    assert [key for key in after.keys if key.startswith("feedalign") or ".feedalign." in key] == [
        key for key in after.keys if key not in before.keys
    ]
    assert torch.equal(after.random, before.random)
    assert all(torch.equal(after.values[name], value) for name, value in before.values.items())
    assert all(torch.equal(after.grads[name], grad) for name, grad in before.grads.items())
    handle.remove()
    assert_same_state(state_of(model), before)

    handle = attached(model, rule, x)
    returned = same_dropout(lambda: model(x))
    # Recurrent layers run step by step, which rounds otherwise than the one operation that torch has for them.
    tolerance = 1e-12 if architecture.is_recurrent else 0.0
    torch.testing.assert_close(returned, same_dropout(lambda: plain(x)), rtol=tolerance, atol=tolerance)
    model.zero_grad()
    same_dropout(lambda: step(model, x, y))
    assert all(row.fired is not False for row in handle.describe().rows)
    random = torch.get_rng_state()
    handle.remove()
    assert torch.equal(torch.get_rng_state(), random)
    assert list(model.state_dict()) == before.keys
    model.zero_grad()
    same_dropout(lambda: step(plain, x, y))
    for one in (model, plain):
        one.zero_grad()
        same_dropout(lambda one=one: step(one, x, y))
    assert_same_gradients(gradients(model), gradients(plain), tolerance=0)
    return "left as it was"


def _leaks_are_told(architecture: Architecture, rule: PointRule) -> str:
    """With no signal from any point, none but the layers at the output and those told of receive a gradient."""
    x, y = data_for(architecture)
    model = RandomModel(architecture)
    # Heads and perturbations take no feedback of zeros: a cut without a signal stands for them.
    silent = fa.Shallow() if isinstance(rule, (fa.LocalGreedy, fa.ActivityPerturbed)) else rule
    options = {} if isinstance(silent, fa.Shallow) else {"feedback": fa.Zeros()}
    handle = fa.attach(model, silent, example_inputs=x, **options)
    rows = handle.describe().rows
    same_dropout(lambda: step(model, x, y))
    told = {row.layer for row in rows if row.uncut or row.point == "output"}
    for name, parameter in model.named_parameters():
        layer = name.rpartition(".")[0]
        if parameter.grad is not None and bool(parameter.grad.any()) and "feedalign" not in name:
            assert layer in told, f"{layer} has a gradient along a path that is not told of"
    handle.remove()
    try:
        fa.attach(RandomModel(architecture), rule, example_inputs=x, strict=True)
    except UncutPathError:
        assert any(row.uncut for row in rows)
    else:
        assert not any(row.uncut for row in rows)
    return "leaks are told"


def same_dropout(run: Any) -> Any:
    """The same random numbers at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return run()
