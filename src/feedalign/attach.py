"""`attach`: read the model off one example forward, check that the rule can work there, and build it in."""

from __future__ import annotations

from typing import cast

from torch import Generator, nn

from feedalign.assign import Rules, as_rules, assign, find_calls, refuse_pointless
from feedalign.blocks import Graph
from feedalign.blueprint import Blueprint
from feedalign.build import build
from feedalign.errors import UncutPathError
from feedalign.handle import Handle
from feedalign.points import OUTPUT_LINKS, Points
from feedalign.probe import Inputs, find_output, run
from feedalign.recurrent.install import stepwise
from feedalign.recurrent.stepwise import StepwiseForward
from feedalign.recurrent.support import (
    refuse_half_cut,
    refuse_loops,
    refuse_separate_tangents,
    refuse_unread_sequences,
    refuse_untaught_states,
    take_back_uncut,
)
from feedalign.rehearsal import rehearse
from feedalign.rules.base import Link, PointRule, Rule
from feedalign.suitability import leaks, mend, refuse_dead, refuse_unattachable, refuse_unbounded
from feedalign.supply import Feedback, as_feedback, generator_for


def attach(
    model: nn.Module,
    rule: Rules,
    *,
    example_inputs: Inputs,
    points: Points | None = None,
    output: str | None = None,
    feedback: Feedback | None = None,
    generator: Generator | None = None,
    strict: bool = False,
) -> Handle:
    """Attach a learning rule to a model, in place. The training loop stays as it is.

    The model runs once on the example inputs, in training mode; its buffers, gradients and the random state are left
    as they were. Parameters stay the very same objects, so an optimizer made before works as one made after does, but
    for rules that learn feedback or heads: these are new parameters, for an optimizer made after.

    Args:
        model: Any module. Attach before `torch.compile` and before wrapping in DistributedDataParallel.
        rule: A rule, or a mapping of globs to rules: `{"conv*": fa.Shallow(), "fc*": fa.DRTP()}`. A glob matches a
            layer by its own name or by that of the feedback point that teaches it; the first that matches counts.
        example_inputs: What the model is called with in training: a tensor, a tuple of positional arguments, or a dict
            of keyword arguments. Shapes of feedback are read from it; the batch size may change later.
        points: Where teaching signals enter: names or globs (`*` crosses dots), types, or a predicate
            `(name, module) -> bool`. None: every non-linearity module and `fa.FeedbackPoint` but the one that makes the
            output and those that lead to other results of the model alone. Layer-wise rules need none; for them it says
            where `fa.measure.alignment` reads signals.
        output: Name of the module at whose output the loss's error is taken, for models that compute their loss inside
            `forward`. None: what the model returns; where a softmax, sigmoid or other non-linearity stands last, its
            input.
        feedback: How feedback is drawn: a draw such as `fa.Orthogonal()`, a preset (`"nokland2016"`, `"launay2020"`,
            `"frenkel2021"`, `"bacho2024"`), tensors by point or layer name (`[C, D]`), or `fa.Projection(callable)`.
            None: the rule's own draw, Kaiming uniform for most.
        generator: CPU generator to draw with. None: a fresh one with seed 0, so that every rank and run draws the same.
        strict: Refuse models in which exact backprop still reaches layers around the rule.

    Returns:
        The handle: `describe()`, `remove()`, `parameter_groups()`, `targets(y)`; usable as a context manager.

    Raises:
        AttachError: The model or an argument does not allow it; its subclasses and FeedbackShapeError say why.
        ForwardModeError: The rule needs directional derivatives, and a part of the model has none.
    """
    refuse_unattachable(model)
    rules = as_rules(rule)
    source = as_feedback(feedback)
    draws = generator_for(generator)
    with stepwise(model, rules, points) as recurrent:
        plan, graph = read_model(model, rules, example_inputs, points, output, recurrent)
        refuse_unsuited(plan, graph, strict=strict)
        handle = build(plan, source, draws)
    if handle.uses_dual_tensors:
        rehearse(handle, example_inputs)
    return handle


def read_model(
    model: nn.Module,
    rules: dict[str, Rule],
    example_inputs: Inputs,
    points: Points | None,
    output: str | None,
    recurrent: list[StepwiseForward],
) -> tuple[Blueprint, Graph]:
    """Run the model on the example inputs and assign the rules.

    Args:
        model: The model.
        rules: Globs to rules.
        example_inputs: As for `attach`.
        points: As for `attach`.
        output: As for `attach`.
        recurrent: The recurrent modules that run step by step; those that no rule cuts get their own forward back.

    Returns:
        The model read, and the graph that it was read off.

    Raises:
        AttachError: The inputs, the points, the output or the rules do not fit the model.
    """
    plan, graph = _read(model, rules, example_inputs, points, output, recurrent)
    if take_back_uncut(plan):
        plan, graph = _read(model, rules, example_inputs, points, output, recurrent)
    return plan, graph


def _read(
    model: nn.Module,
    rules: dict[str, Rule],
    example_inputs: Inputs,
    points: Points | None,
    output: str | None,
    recurrent: list[StepwiseForward],
) -> tuple[Blueprint, Graph]:
    """Read the model once."""
    for forward in recurrent:
        forward.forget_nodes()
    probe = run(model, example_inputs)
    site = find_output(model, probe, output)
    link = cast("Link | None", OUTPUT_LINKS.get(site.link) if site.link else None)
    rules = {glob: one.for_output(link) if isinstance(one, PointRule) else one for glob, one in rules.items()}
    graph = Graph(model, probe)
    candidates, gated = assign(model, probe, graph, find_calls(model, probe, site, points), rules)
    cuts = [c.call.node for c in candidates if c.cuts and c.call.node is not None]
    block = graph.block(site.node, cuts, gated)
    return Blueprint(model, probe, site, rules, candidates, gated, block, recurrent), graph


def refuse_unsuited(plan: Blueprint, graph: Graph, *, strict: bool) -> None:
    """Raise if a rule cannot work on a model.

    Args:
        plan: The model read, its rules assigned.
        graph: The graph that it was read off.
        strict: Refuse paths of exact backprop, too.

    Raises:
        AttachError: It cannot; its subclasses say why.
        UncutPathError: With `strict`, exact backprop reaches layers around the rule.
    """
    refuse_pointless(plan.model, plan.rules, plan.candidates, plan.probe)
    refuse_dead(plan.model, plan.candidates)
    refuse_unbounded(plan.model, plan.candidates)
    refuse_separate_tangents(plan)
    refuse_half_cut(plan)
    refuse_unread_sequences(plan)
    refuse_untaught_states(plan, graph)
    refuse_loops(plan)
    uncut = leaks(plan)
    if strict and uncut:
        raise UncutPathError(
            f"Exact backprop still reaches {', '.join(list(uncut)[:6])} around the rule. {mend(plan)} Or attach "
            "without strict=True and look at handle.describe()."
        )
