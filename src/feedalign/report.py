"""Rows of the description: every trainable layer, and what teaches it."""

from __future__ import annotations

from feedalign.assign import layer_names
from feedalign.blueprint import Blueprint
from feedalign.describe import Description, Row
from feedalign.feedback import Projection
from feedalign.placement import Placement
from feedalign.rules.base import DirectRule
from feedalign.store import FeedbackStore
from feedalign.suitability import leaks
from feedalign.supply import Source

_Line = tuple[Row, str | None]


def report(
    plan: Blueprint,
    placements: dict[str, Placement],
    store: FeedbackStore,
    keys: dict[str, str],
    source: Source,
) -> tuple[Description, tuple[str | None, ...]]:
    """Describe what teaches each layer.

    Args:
        plan: The model read, its rules assigned.
        placements: How the error reaches each point.
        store: The feedback.
        keys: Names of points and layers to names in the store.
        source: Where feedback comes from.

    Returns:
        The description, and for each row the module that must fire.
    """
    uncut = leaks(plan)
    lines: list[_Line] = []
    for layer in _layers(plan):
        lines += _at_points(plan, layer, placements, source) + _at_output(plan, layer, uncut)
        if layer in plan.gated:
            lines = _with_gate(lines, plan, layer, store, keys)
    rules = " + ".join(dict.fromkeys(repr(rule) for rule in plan.rules.values()))
    site = plan.site
    where = (
        f"the input of {site.module!r}"
        if site.before
        else f"the output of {site.module!r}"
        if site.module
        else "the model's output"
    )
    rows, fires = tuple(row for row, _ in lines), tuple(module for _, module in lines)
    return Description(rules, where, rows, tuple(_notes(plan, uncut))), fires


def _layers(plan: Blueprint) -> list[str]:
    """Layers with trainable parameters, in the order of the forward."""
    owners = layer_names(tuple(plan.probe.parameters.values()))
    order = {call.module: position for position, call in reversed(list(enumerate(plan.probe.calls)))}
    return sorted(owners, key=lambda name: order.get(name, len(order)))


def _at_points(plan: Blueprint, layer: str, placements: dict[str, Placement], source: Source) -> list[_Line]:
    lines: list[_Line] = []
    for candidate in plan.candidates:
        if not candidate.cuts:
            continue
        signal = candidate.rule.signal
        if layer in layer_names(candidate.block.through) and layer not in layer_names(candidate.block.direct):
            signal += f", through {', '.join(layer_names(candidate.block.direct))}"
        elif layer not in layer_names(candidate.block.direct):
            continue
        feedback = "-"
        if isinstance(candidate.rule, DirectRule):
            placement = placements[candidate.label]
            shape = [placement.num_outputs, placement.num_features]
            feedback = f"{shape} {_origin(source, candidate.rule)}"
        row = Row(layer or "(model)", candidate.label, f"{candidate.rule.name}: {signal}", feedback, None)
        lines.append((row, candidate.call.module))
    return lines


def _origin(source: Source, rule: DirectRule) -> str:
    if isinstance(source, Projection):
        return "projected by the user's device"
    return "given" if isinstance(source, dict) else repr(source or rule.default_draw)


def _at_output(plan: Blueprint, layer: str, uncut: list[str]) -> list[_Line]:
    name = layer or "(model)"
    if layer in uncut and layer not in plan.gated:
        return [(Row(name, "-", "exact backprop, NOT CUT", "-", None, uncut=True), None)]
    if layer in layer_names(plan.output_block.direct):
        return [(Row(name, "output", "error", "-", None), None)]
    if layer in layer_names(plan.output_block.through):
        arrives = "what the feedback weights above send" if plan.gated else "exact gradient from the layers above"
        return [(Row(name, "-", arrives, "-", None), None)]
    return []


def _with_gate(
    lines: list[_Line], plan: Blueprint, layer: str, store: FeedbackStore, keys: dict[str, str]
) -> list[_Line]:
    """Say in a layer's rows that its input gradient is made with a feedback weight."""
    rule = plan.gated[layer]
    held = store._buffers.get(keys[layer])
    feedback = (
        f"{list(held.shape)} fixed" if held is not None else "drawn at every forward" if rule.redraws else "from W"
    )
    changed: list[_Line] = []
    for row, module in lines:
        if row.layer == layer:
            arrives = "error" if row.point == "output" else f"{rule.name}: {rule.signal}"
            row, module = Row(layer, row.point, arrives, feedback, None), layer
        changed.append((row, module))
    return changed


def _notes(plan: Blueprint, uncut: list[str]) -> list[str]:
    notes = []
    if uncut:
        notes.append(f"exact backprop still reaches {', '.join(uncut)}: no point cuts that path")
    seen = {name for c in plan.candidates for name in c.block.parameters} | set(plan.output_block.parameters)
    unreached = layer_names(tuple(name for name in plan.probe.parameters.values() if name not in seen))
    if unreached:
        notes.append(f"no signal reaches {', '.join(unreached)}: unused in the forward on the example inputs")
    return notes
