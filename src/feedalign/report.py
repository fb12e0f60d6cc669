"""Rows of the description: every trainable layer, and what teaches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from feedalign.blocks import layer_names
from feedalign.blueprint import Blueprint
from feedalign.circuit import OUTPUT
from feedalign.describe import Description, Row
from feedalign.feedback import Projection
from feedalign.linear_like import forward_weight
from feedalign.perturber import Perturber
from feedalign.placement import Placement
from feedalign.rules.activity_perturbed import ActivityPerturbed
from feedalign.rules.base import DirectRule, LayerwiseRule, Rule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.suitability import leaks, mend
from feedalign.supply import Source
from feedalign.tangents import DualCarrier
from feedalign.tied import tied_notes

_Line = tuple[Row, str | None]


def report(
    plan: Blueprint,
    placements: dict[str, Placement],
    source: Source,
    perturber: Perturber | None,
) -> tuple[Description, tuple[str | None, ...]]:
    """Describe what teaches each layer.

    Args:
        plan: The model read, its rules assigned.
        placements: How the error reaches each point.
        source: Where feedback comes from.
        perturber: What perturbs the forward.

    Returns:
        The description, and for each row the module that must fire.
    """
    uncut = leaks(plan)
    lines: list[_Line] = []
    of_weights = [rule for rule in plan.rules.values() if isinstance(rule, WeightRule)]
    for layer in layers_in_order(plan):
        if of_weights:
            lines += _at_weights(plan, layer, of_weights[0])
            continue
        lines += _at_points(plan, layer, placements, source) + _at_output(plan, layer, uncut)
        lines += _from_gates(plan, layer)
    rules = " + ".join(dict.fromkeys(repr(rule) for rule in plan.rules.values()))
    rows, fires = tuple(row for row, _ in lines), tuple(module for _, module in lines)
    notes = (*_path_notes(plan, uncut), *side_notes(plan, perturber))
    return Description(rules, place_in_words(plan), rows, notes), fires


def place_in_words(plan: Blueprint) -> str:
    """Return where the error is taken, in words."""
    if plan.site.before:
        return f"the input of {plan.site.module!r}"
    return f"the output of {plan.site.module!r}" if plan.site.module else "the model's output"


def layers_in_order(plan: Blueprint) -> list[str]:
    """Return the layers with trainable parameters, in the order of the forward."""
    owners = layer_names(tuple(plan.probe.parameters.values()))
    order = {call.module: position for position, call in reversed(list(enumerate(plan.probe.calls)))}
    return sorted(owners, key=lambda name: order.get(name, len(order)))


def _at_weights(plan: Blueprint, layer: str, rule: WeightRule) -> list[_Line]:
    """A layer that has no part in the output is not perturbed."""
    if layer not in layer_names(plan.output_block.parameters):
        return []
    return [(Row(layer or "(model)", "-", f"{rule.name}: {rule.signal}", "-", None), OUTPUT)]


def _at_points(plan: Blueprint, layer: str, placements: dict[str, Placement], source: Source) -> list[_Line]:
    lines: list[_Line] = []
    for candidate in plan.candidates:
        is_direct, via = layer in layer_names(candidate.block.direct), candidate.block.via.get(layer, ())
        if not candidate.cuts or not (is_direct or via):
            continue
        via = shown(via)
        through = f", {'also ' if is_direct else ''}through {', '.join(via)}" if via else ""
        feedback = "-"
        if candidate.label in placements:
            placement = placements[candidate.label]
            shape = [placement.num_outputs, placement.num_features]
            feedback = f"{shape} {_origin(source, candidate.rule)}"
        signal = f"{candidate.rule.name}: {candidate.rule.signal}{_limited(candidate.rule)}{through}"
        row = Row(layer or "(model)", candidate.label, signal, feedback, None, through=via, is_direct=is_direct)
        lines.append((row, candidate.call.module))
    return lines


def _limited(rule: Rule) -> str:
    """What hardware does to the signal."""
    words = rule.limits.words if isinstance(rule, DirectRule) else ""
    return f" ({words})" if words else ""


def _delay_notes(plan: Blueprint) -> list[str]:
    """Whose gradients come late, and that at first there are none."""
    notes = []
    for rule in dict.fromkeys(plan.rules.values()):
        if isinstance(rule, DirectRule) and rule.limits.delay:
            taught = (c.block.parameters for c in plan.candidates if c.cuts and c.rule == rule)
            layers = dict.fromkeys(layer for names in taught for layer in layer_names(names))
            delay = rule.limits.delay
            num, first = (
                (f"{delay} backward passes", f"{delay} give") if delay > 1 else ("1 backward pass", "one gives")
            )
            notes.append(f"the gradients of {', '.join(shown(layers))} come {num} late: the first {first} zeros")
    return notes


def shown(layers: Iterable[str]) -> tuple[str, ...]:
    """Return layers as they are shown: parameters of the model's own have no name before theirs."""
    return tuple(layer or "(model)" for layer in layers)


def is_drawn(rule: LayerwiseRule) -> bool:
    """Whether a layer-wise rule has feedback weights that are drawn once and held."""
    return rule.draws_feedback and not rule.redraws


def _origin(source: Source, rule: Rule) -> str:
    if isinstance(source, Projection):
        return "projected by the user's device"
    assert isinstance(rule, (DirectRule, LocalGreedy))
    start = "given" if isinstance(source, dict) else repr(source or rule.default_draw)
    if isinstance(rule, LocalGreedy):
        return f"head, learned from {start}"
    return f"learned from {start}" if rule.learns_feedback else start


def _at_output(plan: Blueprint, layer: str, uncut: Mapping[str, tuple[str, ...]]) -> list[_Line]:
    name = layer or "(model)"
    is_direct = layer in layer_names(plan.output_block.direct)
    perturbed = [r for r in plan.rules.values() if isinstance(r, ActivityPerturbed) and r.output == "perturbed"]
    arrives = f"{perturbed[0].name}: {perturbed[0].signal}" if perturbed else "error"
    lines: list[_Line] = [(Row(name, "output", arrives, "-", None), None)] if is_direct else []
    if layer in uncut:
        via = shown(uncut[layer])
        signal = f"exact backprop through {', '.join(via)}, NOT CUT"
        lines.append((Row(name, "-", signal, "-", None, True, via, is_direct=False), None))
    elif layer in plan.output_block.via and not is_direct:
        via = shown(plan.output_block.via[layer])
        exact = Row(name, "-", "exact gradient from the layers above", "-", None, through=via, is_direct=False)
        lines.append((exact, None))
    return lines


def _from_gates(plan: Blueprint, layer: str) -> list[_Line]:
    """One row for each gated layer right above, whose feedback weight sends this layer its signal."""
    lines: list[_Line] = []
    for name, gate in plan.gated.items():
        if layer in gate.below:
            made = "drawn at every forward" if gate.rule.redraws else "from W"
            shape = list(forward_weight(plan.model.get_submodule(name)).shape)
            feedback = f"{f'{shape} fixed' if is_drawn(gate.rule) else made}, at {name}"
            lines.append((Row(layer, "-", f"{gate.rule.name}: {gate.rule.signal}", feedback, None), name))
    return lines


def _tangent_notes(perturber: Perturber | None) -> list[str]:
    if perturber is None or not isinstance(perturber.carrier, DualCarrier):
        return []
    return [
        f"tangents travel as dual tensors, which is slower and refuses torch.compile, because {perturber.carrier.why}"
    ]


@dataclass(frozen=True)
class Unreached:
    """Layers to which no signal comes.

    Attributes:
        unused: They do not run on the example inputs.
        hidden: They run without gradients.
        aside: They run, and no gradient leads from the output to them.
    """

    unused: tuple[str, ...]
    hidden: tuple[str, ...]
    aside: tuple[str, ...]


def unreached(plan: Blueprint) -> Unreached:
    """Return the layers to which no signal comes."""
    seen = {name for c in plan.candidates for name in c.block.parameters} | set(plan.output_block.parameters)
    reached = set(layer_names(seen))
    layers = [layer for layer in layer_names(plan.probe.parameters.values()) if layer not in reached]
    ran, hidden = {call.module for call in plan.probe.calls}, plan.probe.without_grad
    return Unreached(
        shown(layer for layer in layers if layer not in ran | hidden),
        shown(layer for layer in layers if layer in hidden - ran),
        shown(layer for layer in layers if layer in ran),
    )


def _path_notes(plan: Blueprint, uncut: Mapping[str, tuple[str, ...]]) -> list[str]:
    """What the paths of gradients leave out, and what they reach too much."""
    notes = []
    if uncut:
        notes.append(f"exact backprop still reaches {', '.join(shown(uncut))}. {mend(plan)}")
    found = unreached(plan)
    unused, hidden, aside = found.unused, found.hidden, found.aside
    if hidden:
        notes.append(f"no signal reaches {', '.join(hidden)}: run without gradients, as under torch.no_grad()")
    if unused:
        notes.append(f"no signal reaches {', '.join(unused)}: unused in the forward on the example inputs")
    if aside:
        notes.append(
            f"the output is not made with {', '.join(aside)}: a loss on what they return teaches them by exact "
            "gradients, and nothing below a feedback point"
        )
    return [*notes, *tied_notes(plan)]


def side_notes(plan: Blueprint, perturber: Perturber | None) -> list[str]:
    """Return sentences on where estimates are biased or slow, which no table shows.

    Args:
        plan: The model read, its rules assigned.
        perturber: What perturbs the forward.

    Returns:
        The sentences.
    """
    return [*_sample_notes(plan), *_cell_state_notes(plan), *_tangent_notes(perturber), *_delay_notes(plan)]


def _cell_state_notes(plan: Blueprint) -> list[str]:
    """Where a slope misses what a state does to later steps through another state, which is held constant."""
    slopes = {c.call.module for c in plan.candidates if isinstance(c.rule, SlopeRule)}
    several = [f.name for f in plan.recurrent if f.cell.num_states > 1 and slopes.intersection(f.points)]
    if not several:
        return []
    return [f"the cell states of {', '.join(several)} are held constant and not perturbed: estimates there are biased"]


def _sample_notes(plan: Blueprint) -> list[str]:
    """Where a sample's slope, of its own output only, misses what it does to other samples."""
    if not any(isinstance(r, SlopeRule) or getattr(r, "per", "") == "sample" for r in plan.rules.values()):
        return []
    modules = [(name, plan.model.get_submodule(name)) for name in dict.fromkeys(c.module for c in plan.probe.calls)]
    norms = [name for name, module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    turned = [name for name, module in modules if getattr(module, "batch_first", True) is False]
    stepwise = {name for forward in plan.recurrent for name in (forward.name, *forward.points)}
    turned = [name for name in turned if name not in stepwise]
    notes = []
    if norms:
        notes.append(f"samples meet in {', '.join(norms)}: estimates of layers below are biased in training mode")
    if turned:
        notes.append(
            f"the first size of what {', '.join(turned)} takes is time, and a slope is that of one index of the first "
            "size: estimates are biased unless samples come first (batch_first=True)"
        )
    return notes
