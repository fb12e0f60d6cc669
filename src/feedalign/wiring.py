"""Where feedback goes: how the error meets each feedback point, and what receives it there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedalign.assign import Candidate
from feedalign.blueprint import Blueprint
from feedalign.delivery import Site
from feedalign.errors import AttachError
from feedalign.feedback import Projection, SharedSlice
from feedalign.placement import Placement, place
from feedalign.probe import Call
from feedalign.receivers import DirectReceiver, HeadReceiver, Receiver, SlopeReceiver
from feedalign.recurrent.point import LayerSteps
from feedalign.recurrent.receiver import place_steps, refuse_time_first, step_receiver
from feedalign.report import is_drawn
from feedalign.rules.base import DirectRule, EstimatingRule, LearnedRule, Perturbing, Rule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.sharing import Share, SharingReceiver, shares_of
from feedalign.store import Held, key_of
from feedalign.supply import Source


@dataclass(frozen=True)
class Wiring:
    """Where feedback goes, settled without drawing any.

    Attributes:
        placements: How the error meets each activation that has a matrix, by the point's name.
        keys: Names in the store, by the names of points and gated layers.
        sites: The feedback points.
        holds: What the store will hold: `"buffers"`, `"parameters"`, both or nothing.
        shares: Points whose matrix is a part of another point's.
    """

    placements: dict[str, Placement]
    keys: dict[str, str]
    sites: list[Site]
    holds: frozenset[Held]
    shares: dict[str, Share]


def wire(plan: Blueprint, source: Source) -> Wiring:
    """Settle where feedback goes.

    Args:
        plan: The model read, its rules assigned.
        source: Where feedback comes from; None: each rule's own draw.

    Returns:
        The wiring.

    Raises:
        AttachError: The feedback given does not fit the rules.
        AmbiguousShapeError: Shapes do not tell how the error meets an activation.
    """
    projection = source if isinstance(source, Projection) else None
    if projection is not None:
        _refuse_projection(plan)
    placements = _placements(plan)
    if source is not None and not placements and not any(is_drawn(gate.rule) for gate in plan.gated.values()):
        names = ", ".join(type(rule).__name__ for rule in plan.rules.values())
        raise AttachError(f"feedback= is given, but {names} takes none: leave it out.")
    keys: dict[str, str] = {}
    for name in [*placements, *plan.gated]:
        keys[name] = key_of(name, set(keys.values()))
    shares = _shares(plan, placements, source)
    sites = _sites(plan, placements, keys, shares, projection)
    return Wiring(placements, keys, sites, _held(plan, placements, projection), shares)


def _shares(plan: Blueprint, placements: dict[str, Placement], source: Source) -> dict[str, Share]:
    """Shared slices are held once: not where each point learns its own, and not at the steps of a recurrent layer."""
    shares: dict[str, Share] = {}
    for rule in dict.fromkeys(plan.rules.values()):
        if not isinstance(rule, DirectRule) or rule.learns_feedback:
            continue
        draw = source or rule.default_draw
        if isinstance(draw, SharedSlice):
            plain = [c.label for c in plan.candidates if c.rule == rule and not _is_recurrent(plan, c.call)]
            shares |= shares_of({label: placements[label] for label in plain if label in placements}, draw)
    return shares


def _is_recurrent(plan: Blueprint, call: Call) -> bool:
    return isinstance(plan.model.get_submodule(call.module), LayerSteps)


def _held(plan: Blueprint, placements: dict[str, Placement], projection: Projection | None) -> frozenset[Held]:
    """What the store will hold: matrices, heads and weights, and the clock of rules that draw in the forward."""
    with_matrix = [candidate.rule for candidate in plan.candidates if candidate.label in placements]
    learned = [keeps_as_parameter(rule) for rule in with_matrix] if projection is None else []
    gates = [gate.rule for gate in plan.gated.values()]
    is_clocked = has_clock(plan)
    is_late = any(isinstance(rule, DirectRule) and rule.limits.delay for rule in with_matrix)
    has_buffers = is_clocked or is_late or not all(learned) or any(map(is_drawn, gates))
    kinds: dict[Held, bool] = {"buffers": has_buffers, "parameters": any(learned)}
    return frozenset(kind for kind, is_held in kinds.items() if is_held)


def keeps_as_parameter(rule: Rule) -> bool:
    """Whether the user's optimizer trains what is drawn for a rule."""
    if isinstance(rule, EstimatingRule) and rule.keeps_average:
        return False
    return isinstance(rule, (LocalGreedy, LearnedRule))


def has_clock(plan: Blueprint) -> bool:
    """Whether a rule draws in every forward: perturbations, what its limits draw, or feedback."""
    return any(map(_draws_in_forward, plan.rules.values())) or any(gate.rule.redraws for gate in plan.gated.values())


def _draws_in_forward(rule: Rule) -> bool:
    limited = isinstance(rule, DirectRule) and rule.limits.draws
    return limited or isinstance(rule, (Perturbing, WeightRule))


def _refuse_projection(plan: Blueprint) -> None:
    learners = [type(rule).__name__ for rule in plan.rules.values() if rule.learns_feedback]
    if any(isinstance(rule, DirectRule) and rule.limits.feedback is not None for rule in plan.rules.values()):
        raise AttachError(
            "fa.Limits(feedback=...) converts a matrix, and the one of fa.Projection is not here: leave it out."
        )
    if plan.gated or learners:
        why = f"fa.{learners[0]} learns matrices of its own" if learners else "layer-wise rules need weights"
        raise AttachError(f"fa.Projection stands for error @ feedback of direct rules with fixed feedback; {why}.")


def _placements(plan: Blueprint) -> dict[str, Placement]:
    placements = {}
    for candidate in plan.candidates:
        rule, label = candidate.rule, candidate.label
        if isinstance(rule, DirectRule) or (isinstance(rule, LocalGreedy) and not plan.is_last(candidate)):
            placements[label] = placement_at(plan, candidate.call, rule, label)
    return placements


def placement_at(plan: Blueprint, call: Call, rule: DirectRule | LocalGreedy, label: str) -> Placement:
    """Settle how the error is projected onto what a call returns.

    Args:
        plan: The model read.
        call: The call.
        rule: The rule that teaches there.
        label: The point's name, for messages.

    Returns:
        The placement.

    Raises:
        AmbiguousShapeError: The shapes do not tell.
    """
    activation, point = call.signature, plan.model.get_submodule(call.module)
    assert activation is not None
    if isinstance(point, LayerSteps):
        return place_steps(plan.site.signature, activation, rule.positions, point, label)[0]
    return place(plan.site.signature, activation, rule.positions, label)


def _sites(
    plan: Blueprint,
    placements: dict[str, Placement],
    keys: dict[str, str],
    shares: dict[str, Share],
    projection: Projection | None,
) -> list[Site]:
    sites: list[Site] = []
    for candidate in plan.candidates:
        if candidate.cuts:
            label, call = candidate.label, candidate.call
            share = shares.get(label)
            receiver = _receiver(plan, candidate, placements.get(label), projection, share)
            if isinstance(receiver, DirectReceiver):
                receiver = replace(receiver, place=len(sites) + 1)
            key = keys.get(label) or key_of(label, set(keys.values()) | {site.key for site in sites})
            held = key if share is None else keys[share.holder]
            sites.append(Site(key, call.module, call.index, candidate.rule, receiver, candidate.block.parameters, held))
    return sites


def _receiver(
    plan: Blueprint,
    candidate: Candidate,
    placement: Placement | None,
    projection: Projection | None,
    share: Share | None,
) -> Receiver | None:
    rule, label, activation = candidate.rule, candidate.label, candidate.call.signature
    point = plan.model.get_submodule(candidate.call.module)
    if isinstance(point, LayerSteps) and isinstance(rule, SlopeRule):
        assert activation is not None
        refuse_time_first(plan.site.signature, activation, point, label, type(rule).__name__)
    if isinstance(rule, DirectRule) and isinstance(point, LayerSteps):
        assert activation is not None
        return step_receiver(plan.site.signature, activation, rule, point, label, projection)
    if isinstance(rule, DirectRule):
        assert placement is not None
        if share is not None:
            return SharingReceiver(label, rule, placement, None, share)
        return DirectReceiver(label, rule, placement, projection)
    if isinstance(rule, LocalGreedy) and placement is not None:
        return HeadReceiver(label, rule, placement)
    return SlopeReceiver(label, rule) if isinstance(rule, SlopeRule) else None
