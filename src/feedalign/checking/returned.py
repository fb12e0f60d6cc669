"""What a model returns: its tensors by name, the modules that make them, and the layers that each one reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.autograd.graph import Node

from feedalign.blocks import Graph, layer_names
from feedalign.blueprint import Blueprint
from feedalign.nested import named_tensors
from feedalign.probe import Call, Probe
from feedalign.report import shown


@dataclass(frozen=True)
class Beside:
    """A tensor that a model returns beside the output.

    Attributes:
        name: Its name in what the model returns, e.g. `"logits"` or `"1"`.
        layers: Layers that a loss on it reaches by exact gradients, around the output and the feedback points.
    """

    name: str
    layers: tuple[str, ...]


def beside_the_output(plan: Blueprint, graph: Graph) -> list[Beside]:
    """Return the tensors beside the output that lead a loss to layers.

    Args:
        plan: The model read, its rules assigned.
        graph: The graph that it was read off.

    Returns:
        One for each such tensor.
    """
    cuts = [c.call.node for c in plan.candidates if c.cuts and c.call.node is not None]
    ends = [*cuts, *([] if plan.site.node is None else [plan.site.node])]
    found = []
    for name, tensor in named_tensors(plan.probe.output):
        if tensor.grad_fn is not None and not any(tensor.grad_fn is end for end in ends):
            layers = layer_names(graph.block(tensor.grad_fn, ends, plan.gated).parameters)
            found += [Beside(name, shown(layers))] if layers else []
    return found


def makers(probe: Probe) -> dict[str, str]:
    """Return the modules whose outputs are what a model returns, or what its loss is made from.

    Args:
        probe: The forward on the example inputs.

    Returns:
        Names of modules, each with what it makes, in words; what other results are made from is left out, and so is
        what the model makes with parameters of its own.
    """
    at: dict[int, Call] = {}
    for call in probe.calls:
        if call.node is not None and call.signature is not None and call.signature.shape:
            at.setdefault(id(call.node), call)
    found: dict[int, tuple[Call, str]] = {}
    returned = sorted(named_tensors(probe.output), key=lambda named: named[1].dim() == 0)
    for name, tensor in returned:
        for call in _nearest(tensor.grad_fn, at):
            what = repr(name) if tensor.dim() else f"from which {name or 'the loss'} is computed"
            found.setdefault(id(call.node), (call, what))
    below = {id(node) for call, _ in found.values() for node in _all_below(call.node)}
    made: dict[str, list[str]] = {}
    for call, what in found.values():
        if id(call.node) not in below:
            made.setdefault(call.module, []).append(what)
    return {module: " and ".join(several) for module, several in made.items()}


def _nearest(node: Node | None, at: Mapping[int, Call]) -> list[Call]:
    """The calls met first on all ways down from a node; none if parameters enter before them."""
    found, seen, waiting = [], set[int](), [node]
    kept: list[Node] = []
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        kept.append(node)
        if hasattr(node, "variable"):
            return []
        if id(node) in at:
            found.append(at[id(node)])
        else:
            waiting += [child for child, _ in node.next_functions]
    return found


def _all_below(node: Node | None) -> list[Node]:
    """All nodes that lead to a node, itself not among them."""
    found: dict[int, Node] = {}
    waiting = [] if node is None else [child for child, _ in node.next_functions]
    while waiting:
        below = waiting.pop()
        if below is not None and id(below) not in found:
            found[id(below)] = below
            waiting += [child for child, _ in below.next_functions]
    return list(found.values())
