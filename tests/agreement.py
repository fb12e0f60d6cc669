"""One step of an attached model, and its comparison with the equations by hand."""

from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.rules import DirectRule, LayerwiseRule
from problems import Problem, by_hand
from reference import brsf, perceptron
from reference.losses import error_at_output

Gradients = Mapping[str, Tensor | None]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """What every parameter holds in `.grad`."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def gradients_after(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Gradients of this loss alone, through the backward that a user calls."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return gradients(model)


def assert_agree(found: Gradients, expected: Gradients, tolerance: float | None = None) -> None:
    """Raise AssertionError unless every gradient is there where one is expected, and equal."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        have = found[name]
        if wanted is None or have is None:
            assert have is None, f"{name} has a gradient and should have none"
            assert wanted is None, f"{name} has no gradient"
            continue
        allowed = TOLERANCE[have.dtype] if tolerance is None else tolerance
        torch.testing.assert_close(
            have.double(), wanted.double(), rtol=allowed, atol=allowed, msg=lambda text, name=name: f"{name}: {text}"
        )


def rule_for(rule: type[fa.Rule], problem: Problem) -> fa.Rule:
    """The rule, told what nothing in a network with a linear last layer tells: that its loss is a sigmoid's."""
    if rule not in (fa.DRTP, fa.SignDFA):
        return rule()
    options = {"link": "sigmoid"} if problem.loss == "binary_cross_entropy" else {}
    if rule is fa.DRTP and problem.nonlinearity == "relu":
        options["allow_unbounded"] = True
    return rule(**options)


def feedback_for(rule: fa.Rule, problem: Problem) -> dict[str, Tensor] | None:
    """Feedback to give to `attach`; None for rules that draw none, or draw it at every forward."""
    if isinstance(rule, DirectRule):
        return problem.direct_feedback()
    if isinstance(rule, LayerwiseRule) and rule.draws_feedback and not rule.redraws:
        return problem.layerwise_feedback()
    return None


def expected_gradients(
    rule: fa.Rule, problem: Problem, model: nn.Module, feedback: list[Tensor], scale: Tensor
) -> Gradients:
    """Gradients by the equations of the rule's own file under `reference`."""
    net = by_hand(model, problem.nonlinearity)
    passed = perceptron.forward(net, problem.inputs().double())
    error = error_at_output(problem.loss, passed.output, problem.target_rows(), scale)
    case = perceptron.Case(net, passed, error, problem.target_rows(), scale, feedback)
    equations = import_module(f"reference.{rule.name.replace('-', '_')}")
    return perceptron.gradients(case, equations.signals(case))


def compare(
    rule: fa.Rule,
    problem: Problem,
    *,
    num_samples: int | None = None,
    weights: Tensor | None = None,
    factor: float = 1.0,
    streaming: bool = False,
) -> None:
    """Take one step and raise AssertionError unless its gradients are those of the equations.

    Args:
        rule: The rule.
        problem: Network, data and loss.
        num_samples: Samples in the step, where they differ from those on which the rule is attached.
        weights: A weight for each sample's loss.
        factor: A factor on the whole loss.
        streaming: Give the targets before the forward.
    """
    model, given = problem.model(), feedback_for(rule, problem)
    handle = fa.attach(model, rule, example_inputs=problem.inputs(), feedback=given)
    step = problem if num_samples is None else problem.with_samples(num_samples)
    scale = torch.full((step.num_samples, 1), factor * step.scale(), dtype=torch.float64)
    scale = scale if weights is None else scale * weights[:, None]
    feedback = [matrix.double() for matrix in (given or {}).values()]
    if isinstance(rule, LayerwiseRule):
        feedback = [brsf.NONE, *feedback]
    if isinstance(rule, fa.BRSF):
        feedback = brsf.magnitudes(by_hand(model, "").weights, int(handle.store.seed), num_forwards=1)
    if streaming:
        handle.targets(step.targets(), scale=scale.flatten())
    found = gradients_after_step(model, step, weights, factor, keep=streaming)
    assert_agree(found, expected_gradients(rule, step, model, feedback, scale))


def gradients_after_step(
    model: nn.Module, problem: Problem, weights: Tensor | None = None, factor: float = 1.0, keep: bool = False
) -> dict[str, Tensor | None]:
    """Forward and backward on the problem's data; `keep` leaves alone what the forward itself put into `.grad`."""
    output = model(problem.inputs())
    loss = factor * problem.loss_of(output, weights)
    if not keep:
        return gradients_after(model, loss)
    loss.backward()
    return gradients(model)
