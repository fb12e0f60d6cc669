"""From a blueprint to a running rule: feedback is drawn, the store registered, hooks set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from feedalign.blocks import layer_names, overlap
from feedalign.blueprint import Blueprint
from feedalign.circuit import Circuit
from feedalign.delivery import Site, bias_key
from feedalign.feedback import Draw, Projection
from feedalign.handle import Handle
from feedalign.hooks import LayerHook, OutputHook, PointHook
from feedalign.late import LateGradients, child_path, delays_of
from feedalign.layerwise import OF_LAYERS, Gate, Return
from feedalign.linear_like import adjoint_of, forward_weight
from feedalign.perturbing import carry_hooks, perturber_for
from feedalign.placement import Placement, error_axis_of
from feedalign.receivers import WeightReceiver
from feedalign.removable import Removable
from feedalign.report import is_drawn, report
from feedalign.rules.base import DirectRule, EstimatingRule, LayerwiseRule, Rule, WeightRule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.store import CHILD_NAME, FeedbackStore
from feedalign.suitability import refuse_unkept
from feedalign.supply import Source, supply
from feedalign.tangents.path import without_views
from feedalign.transforms import forget_compiled_code
from feedalign.untrained import FeedbackWatch
from feedalign.wiring import Wiring, has_clock, keeps_as_parameter, wire


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
        AttachError: The feedback given does not fit the rules or layers, or the model would lose it.
    """
    wiring = wire(plan, source)
    store = FeedbackStore()
    perturber = perturber_for(plan, store)
    refuse_unkept(plan.model, wiring.holds)
    placements, keys, sites = wiring.placements, wiring.keys, wiring.sites
    _fill(store, plan, source, draws, wiring)
    called = {(site.module, site.index) for site in sites}
    modules = {site.module for site in sites}
    silent = {(c.module, c.index) for c in plan.probe.calls if c.module in modules} - called
    averages = [s.key for s in sites if isinstance(s.rule, EstimatingRule) and s.rule.keeps_average]
    host = _host(plan)
    late = _late(plan, store, sites, child_path(host, plan.model))
    circuit = Circuit(
        plan.model,
        store,
        sites,
        silent=frozenset(silent),
        gated=list(plan.gated),
        can_stream=_can_stream(plan),
        weights=_weights(plan),
        perturber=perturber,
        error_axis=error_axis_of(plan.site.signature),
        watch=FeedbackWatch(plan.model, store, averages, plan.output_block.direct, 0 if late is None else late.longest),
        late=late,
        unlearned=_unlearned(plan, sites),
    )
    description, fires = report(plan, placements, source, perturber)
    host.add_module(CHILD_NAME, store)
    hooks = _hook(plan, circuit, keys)
    for forward in plan.recurrent:
        forward.circuit = circuit
    hooks += plan.recurrent
    if late is not None:
        hooks.append(late)
    forget_compiled_code()
    rules = tuple(dict.fromkeys(plan.rules.values()))
    signature = plan.site.signature
    num_outputs = signature.features() if len(signature.shape) > 1 else 1
    points = {layer: c.label for c in plan.candidates for layer in layer_names(c.block.direct)}
    store.handle = Handle(circuit, rules, host, hooks, num_outputs, description, fires, points, _last_pair(plan))
    return store.handle


def _late(plan: Blueprint, store: FeedbackStore, sites: list[Site], prefix: str) -> LateGradients | None:
    """What keeps gradients until they are due; None where none is late."""
    delays = delays_of(plan.model, sites, plan.output_block.parameters, prefix)
    if not delays:
        return None
    late = LateGradients(store, delays)
    learned = {f"{prefix}.{key}": parameter for key, parameter in store.named_parameters()}
    late.hold(dict(plan.model.named_parameters()) | learned)
    return late


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


def _fill(
    store: FeedbackStore,
    plan: Blueprint,
    source: Source,
    draws: Generator,
    wiring: Wiring,
) -> None:
    keys = wiring.keys
    matrices = {} if isinstance(source, Projection) else _draw(plan, source, draws, wiring.placements)
    rule_at = {candidate.label: candidate.rule for candidate in plan.candidates}
    for name, matrix in matrices.items():
        share = wiring.shares.get(name)
        if share is None or share.holder == name:
            _hold(store, keys[name], matrix, rule_at.get(name))
    if has_clock(plan):
        store.start_clock(int(torch.randint(2**62, (), generator=draws)))
    reference = next((p for p in plan.model.parameters() if p.is_floating_point()), None)
    if reference is not None:
        store.to(device=reference.device, dtype=reference.dtype)


def _hold(store: FeedbackStore, key: str, matrix: Tensor, rule: Rule | None) -> None:
    """Keep what was drawn, as a parameter where the user's optimizer trains it."""
    if isinstance(rule, LocalGreedy):
        store.learn(key, matrix)
        store.learn(bias_key(key), torch.zeros(len(matrix)))
    elif rule is not None and keeps_as_parameter(rule):
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
        if is_drawn(gate.rule):
            wanted[gate.rule][name] = tuple(forward_weight(plan.model.get_submodule(name)).shape)
    if isinstance(source, Mapping):
        return supply({name: shape for shapes in wanted.values() for name, shape in shapes.items()}, source, draws)
    matrices: dict[str, Tensor] = {}
    for rule, shapes in wanted.items():
        if shapes and isinstance(rule, (DirectRule, LayerwiseRule, LocalGreedy)):
            matrices |= supply(shapes, source or rule.default_draw, draws)
    return matrices


def _unlearned(plan: Blueprint, sites: list[Site]) -> list[str]:
    """Parameters behind a cut where no signal is sent, and reached from nowhere else."""
    taught = {name for site in sites if site.receiver is not None for name in site.parameters}
    taught |= set(plan.output_block.parameters)
    return [name for site in sites if site.receiver is None for name in site.parameters if name not in taught]


def _weights(plan: Blueprint) -> list[WeightReceiver]:
    rules = [rule for rule in plan.rules.values() if isinstance(rule, WeightRule)]
    return [WeightReceiver(name, rule) for rule in rules for name in plan.output_block.parameters]


def _hook(plan: Blueprint, circuit: Circuit, keys: dict[str, str]) -> list[Removable]:
    model, site = plan.model, plan.site
    hooks: list[Removable] = [model.register_forward_pre_hook(circuit.open, prepend=True)]
    hooks += carry_hooks(plan, circuit.perturber)
    hooks += [
        model.get_submodule(module).register_forward_hook(PointHook(circuit, module))
        for module in dict.fromkeys(s.module for s in circuit.sites)
    ]
    for place, (name, gate) in enumerate(plan.gated.items(), OF_LAYERS):
        hooks += _gate(model.get_submodule(name), circuit, name, keys[name], gate.rule, place)
    for layer in layer_names(receiver.point for receiver in circuit.weights):
        if layer:
            hooks.append(model.get_submodule(layer).register_forward_pre_hook(LayerHook(circuit, layer)))
    maker = model.get_submodule(site.module)
    at_output = OutputHook(circuit, site.index)
    if site.before:
        hooks.append(maker.register_forward_pre_hook(at_output.before))
    else:
        hooks.append(maker.register_forward_hook(at_output.after, with_kwargs=True))
    hooks.append(model.register_forward_hook(circuit.close))
    hooks.append(model.register_forward_hook(circuit.finish, always_call=True))
    return hooks


def _gate(layer: nn.Module, circuit: Circuit, name: str, key: str, rule: LayerwiseRule, place: int) -> list[Removable]:
    adjoint = adjoint_of(layer)
    assert adjoint is not None
    gate = Gate(circuit, name, key, Return(rule, adjoint, place))
    return [
        layer.register_forward_pre_hook(gate.enter, with_kwargs=True),
        layer.register_forward_hook(gate.leave),
    ]
