"""From a blueprint to a running rule: feedback is drawn, the store registered, hooks set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from feedalign.assign import Candidate
from feedalign.blocks import layer_names, overlap
from feedalign.blueprint import Blueprint
from feedalign.circuit import Circuit
from feedalign.delivery import Site, bias_key
from feedalign.errors import AttachError
from feedalign.feedback import Draw, Projection
from feedalign.handle import Handle
from feedalign.hooks import OutputHook, PointHook
from feedalign.layerwise import Gate
from feedalign.linear_like import adjoint_of, forward_weight
from feedalign.perturbing import carry_hooks, perturber_for
from feedalign.placement import Placement, error_axis_of, place
from feedalign.receivers import DirectReceiver, HeadReceiver, Receiver, SlopeReceiver, WeightReceiver
from feedalign.recurrent.point import LayerSteps
from feedalign.recurrent.receiver import place_steps, refuse_time_first, step_receiver
from feedalign.removable import Removable
from feedalign.report import report
from feedalign.rules.base import DirectRule, EstimatingRule, LayerwiseRule, LearnedRule, Perturbing, Rule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.store import CHILD_NAME, FeedbackStore, key_of
from feedalign.supply import Source, supply
from feedalign.tangents.path import without_views
from feedalign.transforms import forget_compiled_code
from feedalign.untrained import FeedbackWatch


def build(plan: Blueprint, source: Source, draws: Generator) -> Handle:
    """Build a rule into a model.

    Everything that can fail comes before the model is changed.

    Args:
        plan: The model read, its rules assigned.
        source: Where feedback comes from; None: each rule's own draw.
        draws: The generator to draw with.

    Returns:
        The handle.

    Raises:
        AttachError: The feedback given does not fit the rules or layers.
    """
    projection = source if isinstance(source, Projection) else None
    if projection is not None:
        _refuse_projection(plan)
    placements = _placements(plan)
    if source is not None and not placements and not any(_is_drawn(gate.rule) for gate in plan.gated.values()):
        names = ", ".join(type(rule).__name__ for rule in plan.rules.values())
        raise AttachError(f"feedback= is given, but {names} takes none: leave it out.")
    keys: dict[str, str] = {}
    for name in [*placements, *plan.gated]:
        keys[name] = key_of(name, set(keys.values()))
    store = _fill(plan, source, draws, placements, keys)
    sites = _sites(plan, placements, keys, projection)
    called = {(site.module, site.index) for site in sites}
    modules = {site.module for site in sites}
    silent = {(c.module, c.index) for c in plan.probe.calls if c.module in modules} - called
    weights = _weights(plan)
    perturber = perturber_for(plan, store)
    error_axis = error_axis_of(plan.site.signature)
    can_stream = _can_stream(plan)
    averages = [s.key for s in sites if isinstance(s.rule, EstimatingRule) and s.rule.keeps_average]
    watch = FeedbackWatch(plan.model, store, averages, plan.output_block.direct)
    circuit = Circuit(
        plan.model, store, sites, frozenset(silent), list(plan.gated), can_stream, weights, perturber, error_axis, watch
    )
    description, fires = report(plan, placements, store, keys, source, perturber)
    host = _host(plan)
    host.add_module(CHILD_NAME, store)
    hooks = _hook(plan, circuit, keys)
    for forward in plan.recurrent:
        forward.circuit = circuit
    hooks += plan.recurrent
    forget_compiled_code()
    rules = tuple(dict.fromkeys(plan.rules.values()))
    signature = plan.site.signature
    num_outputs = signature.features() if len(signature.shape) > 1 else 1
    points = {layer: c.label for c in plan.candidates for layer in layer_names(c.block.direct)}
    store.handle = Handle(circuit, rules, host, hooks, num_outputs, description, fires, points, _last_pair(plan))
    return store.handle


def _refuse_projection(plan: Blueprint) -> None:
    learners = [type(rule).__name__ for rule in plan.rules.values() if rule.learns_feedback]
    if plan.gated or learners:
        why = f"fa.{learners[0]} learns matrices of its own" if learners else "layer-wise rules need weights"
        raise AttachError(f"fa.Projection stands for error @ feedback of direct rules with fixed feedback; {why}.")


def _last_pair(plan: Blueprint) -> tuple[str, str] | None:
    """The feedback point right below the layer that makes the output, and this layer."""
    for call in plan.probe.calls:
        if call.node is None or without_views(call.node) is not without_views(plan.site.node):
            continue
        if adjoint_of(plan.model.get_submodule(call.module)) is not None and len(call.inputs) == 1:
            below = without_views(call.input_nodes[0])
            for candidate in plan.candidates:
                if candidate.cuts and candidate.call.node is below:
                    return candidate.label, call.module
    return None


def _is_drawn(rule: LayerwiseRule) -> bool:
    return rule.draws_feedback and not rule.redraws


def _host(plan: Blueprint) -> nn.Module:
    """The model itself; where its forward runs over its children (nn.Sequential), the layer that makes the output."""
    if not plan.probe.runs_over_children:
        return plan.model
    layers = layer_names(plan.output_block.direct)
    modules = [
        plan.model.get_submodule(name) for name in layers or [call.module for call in reversed(plan.probe.calls)]
    ]
    return next((module for module in modules if not any(module.children())), plan.model)


def _can_stream(plan: Blueprint) -> bool:
    """Whether the graph of each streaming point can be freed before any other signal needs a part of it."""
    streaming = [c.block for c in plan.candidates if isinstance(c.rule, DirectRule) and c.rule.streams]
    others = [c.block for c in plan.candidates if c.cuts and c.block not in streaming]
    return not overlap([*streaming, *others, plan.output_block])


def _placements(plan: Blueprint) -> dict[str, Placement]:
    placements = {}
    for candidate in plan.candidates:
        rule, label, activation = candidate.rule, candidate.label, candidate.call.signature
        assert activation is not None
        if isinstance(rule, DirectRule) or (isinstance(rule, LocalGreedy) and not plan.is_last(candidate)):
            point = plan.model.get_submodule(candidate.call.module)
            if isinstance(point, LayerSteps):
                placements[label], _ = place_steps(plan.site.signature, activation, rule.positions, point, label)
            else:
                placements[label] = place(plan.site.signature, activation, rule.positions, label)
    return placements


def _fill(
    plan: Blueprint, source: Source, draws: Generator, placements: dict[str, Placement], keys: dict[str, str]
) -> FeedbackStore:
    store = FeedbackStore()
    matrices = {} if isinstance(source, Projection) else _draw(plan, source, draws, placements)
    rule_at = {candidate.label: candidate.rule for candidate in plan.candidates}
    for name, matrix in matrices.items():
        _hold(store, keys[name], matrix, rule_at.get(name))
    redrawn = [keys[name] for name, gate in plan.gated.items() if gate.rule.redraws]
    store.redraw_at_every_forward(redrawn)
    if redrawn or any(isinstance(rule, (Perturbing, WeightRule)) for rule in plan.rules.values()):
        store.start_clock(int(torch.randint(2**62, (), generator=draws)))
    reference = next((p for p in plan.model.parameters() if p.is_floating_point()), None)
    if reference is not None:
        store.to(device=reference.device, dtype=reference.dtype)
    return store


def _hold(store: FeedbackStore, key: str, matrix: Tensor, rule: Rule | None) -> None:
    """Keep what was drawn, as a parameter where the user's optimizer trains it."""
    if isinstance(rule, LocalGreedy):
        store.learn(key, matrix)
        store.learn(bias_key(key), torch.zeros(len(matrix)))
    elif isinstance(rule, LearnedRule) and not (isinstance(rule, EstimatingRule) and rule.keeps_average):
        store.learn(key, matrix)
    else:
        store.keep(key, matrix)


def _draw(
    plan: Blueprint,
    source: Draw | Mapping[str, Tensor] | None,
    draws: Generator,
    placements: dict[str, Placement],
) -> dict[str, Tensor]:
    """Feedback for each rule in turn, so that a shared draw sees all of a rule's shapes at once."""
    wanted: dict[Rule, dict[str, tuple[int, ...]]] = {rule: {} for rule in plan.rules.values()}
    for candidate in plan.candidates:
        if candidate.label in placements:
            placement = placements[candidate.label]
            wanted[candidate.rule][candidate.label] = (placement.num_outputs, placement.num_features)
    for name, gate in plan.gated.items():
        if _is_drawn(gate.rule):
            wanted[gate.rule][name] = tuple(forward_weight(plan.model.get_submodule(name)).shape)
    if isinstance(source, Mapping):
        return supply({name: shape for shapes in wanted.values() for name, shape in shapes.items()}, source, draws)
    matrices: dict[str, Tensor] = {}
    for rule, shapes in wanted.items():
        if shapes and isinstance(rule, (DirectRule, LayerwiseRule, LocalGreedy)):
            matrices |= supply(shapes, source or rule.default_draw, draws)
    return matrices


def _sites(
    plan: Blueprint, placements: dict[str, Placement], keys: dict[str, str], projection: Projection | None
) -> list[Site]:
    sites: list[Site] = []
    for candidate in plan.candidates:
        if candidate.cuts:
            label, call = candidate.label, candidate.call
            receiver = _receiver(plan, candidate, placements.get(label), projection)
            key = keys.get(label) or key_of(label, set(keys.values()) | {site.key for site in sites})
            sites.append(Site(key, call.module, call.index, candidate.rule, receiver, candidate.block.parameters))
    return sites


def _weights(plan: Blueprint) -> list[WeightReceiver]:
    rules = [rule for rule in plan.rules.values() if isinstance(rule, WeightRule)]
    return [WeightReceiver(name, rule) for rule in rules for name in plan.output_block.parameters]


def _receiver(
    plan: Blueprint, candidate: Candidate, placement: Placement | None, projection: Projection | None
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
        return DirectReceiver(label, rule, placement, projection)
    if isinstance(rule, LocalGreedy) and placement is not None:
        return HeadReceiver(label, rule, placement)
    return SlopeReceiver(label, rule) if isinstance(rule, SlopeRule) else None


def _hook(plan: Blueprint, circuit: Circuit, keys: dict[str, str]) -> list[Removable]:
    model, site = plan.model, plan.site
    hooks: list[Removable] = [model.register_forward_pre_hook(circuit.open, prepend=True)]
    hooks += carry_hooks(plan, circuit.perturber)
    hooks += [
        model.get_submodule(module).register_forward_hook(PointHook(circuit, module))
        for module in dict.fromkeys(s.module for s in circuit.sites)
    ]
    for name, gate in plan.gated.items():
        hooks += _gate(model.get_submodule(name), circuit, name, keys[name], gate.rule)
    maker = model.get_submodule(site.module)
    at_output = OutputHook(circuit, site.index)
    if site.before:
        hooks.append(maker.register_forward_pre_hook(at_output.before))
    else:
        hooks.append(maker.register_forward_hook(at_output.after))
    hooks.append(model.register_forward_hook(circuit.close))
    hooks.append(model.register_forward_hook(circuit.finish, always_call=True))
    return hooks


def _gate(layer: nn.Module, circuit: Circuit, name: str, key: str, rule: LayerwiseRule) -> list[Removable]:
    adjoint = adjoint_of(layer)
    assert adjoint is not None
    gate = Gate(circuit, name, key, rule, adjoint)
    return [
        layer.register_forward_pre_hook(gate.enter, with_kwargs=True),
        layer.register_forward_hook(gate.leave),
    ]
