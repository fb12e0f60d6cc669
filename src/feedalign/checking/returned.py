"""What a model returns: its tensors by name, the modules that make them, and the layers that each one reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.autograd.graph import Node

from feedalign.blocks import Graph, layer_names, leading_to
from feedalign.blueprint import Blueprint
from feedalign.nested import named_tensors
from feedalign.probe import Call, Probe
from feedalign.report import shown


@dataclass(frozen=True)
class Beside:
    """A tensor that a model returns beside the output.

    Attributes:
        name: Its name in what the model returns, e.g. `"logits"` or `"1"`.
        layers: Layers that a loss on it reaches by exact gradients, before the output or a feedback point.
        is_behind: The loss reaches the output, and all that its error teaches.
    """

    name: str
    layers: tuple[str, ...]
    is_behind: bool

    @property
    def is_dead(self) -> bool:
        """Whether feedback points cut all its paths, so that a loss on it has no gradient."""
        return not self.layers and not self.is_behind


def beside_the_output(plan: Blueprint, graph: Graph) -> list[Beside]:
    """Return the tensors beside the output that lead a loss to layers, or would but for feedback points.

    Args:
        plan: The model read, its rules assigned.
        graph: The graph that it was read off.

    Returns:
        One for each such tensor.
    """
    cuts = [c.call.node for c in plan.candidates if c.cuts and c.call.node is not None]
    found = []
    for name, tensor in named_tensors(plan.probe.output):
        node = tensor.grad_fn
        if node is not None and node is not plan.site.node:
            beside, is_cut = _beside(plan, graph, cuts, name, node)
            found += [beside] if beside.layers or (beside.is_dead and is_cut) else []
    return found


def _beside(plan: Blueprint, graph: Graph, cuts: list[Node], name: str, node: Node) -> tuple[Beside, bool]:
    """What a loss on a tensor reaches, and whether a feedback point cuts a path of it."""
    if any(node is cut for cut in cuts):
        return Beside(name, (), is_behind=False), True
    ends = [*cuts, *([] if plan.site.node is None else [plan.site.node])]
    block = graph.block(node, ends, plan.gated)
    # The ends are alive, so that no other node has their identities.
    met = {id(child) for inner in block.nodes for child, _ in inner.next_functions}
    is_behind = id(plan.site.node) in met
    return Beside(name, shown(layer_names(block.parameters)), is_behind), any(id(cut) in met for cut in cuts)


@dataclass(frozen=True)
class Results:
    """What a model returns, for a choice of the output.

    Attributes:
        makers: The modules whose outputs are results, or what the loss is made from, each with what it makes, in words.
        unmade: Results that no single module makes.
    """

    makers: dict[str, str]
    unmade: tuple[str, ...]


def results_of(probe: Probe) -> Results:
    """Find the modules whose outputs are what a model returns, or what its loss is made from.

    Args:
        probe: The forward on the example inputs.

    Returns:
        The results; those on which others depend are left out, as are hidden states, but for the first: most models
        return their main result first.
    """
    at: dict[int, Call] = {}
    for call in probe.calls:
        if call.node is not None and call.signature is not None and call.signature.shape:
            at.setdefault(id(call.node), call)
    returned = [(name, tensor) for name, tensor in named_tensors(probe.output) if tensor.grad_fn is not None]
    results = [(name, tensor.grad_fn) for name, tensor in returned if tensor.dim()]
    losses = [(name, tensor.grad_fn) for name, tensor in returned if not tensor.dim()]
    nearest = {name: _nearest(node, at) for name, node in results}
    first = next(iter(nearest), "")
    made = [(calls[0], repr(name)) for name, calls in nearest.items() if len(calls) == 1]
    main = made[0][0] if len(nearest.get(first, ())) == 1 else None
    made += [
        (call, f"from which {name or 'the loss'} is computed") for name, node in losses for call in _nearest(node, at)
    ]
    places: dict[int, tuple[Call, str]] = {}
    for call, what in made:
        places.setdefault(id(call.node), (call, what))
    below = {id(node) for call, _ in places.values() for node in _below(call.node)}
    major = [(call.module, what) for call, what in places.values() if id(call.node) not in below]
    minor = [(call.module, what) for call, what in places.values() if id(call.node) in below and call is main]
    makers: dict[str, list[str]] = {}
    for module, what in [*minor, *major]:
        makers.setdefault(module, []).append(what)
    under = {id(child) for _, node in results for child in _below(node)}
    unmade = [n for n, node in results if len(nearest[n]) != 1 and (n == first or id(node) not in under)]
    named_makers = {module: " and ".join(several) for module, several in makers.items()}
    return Results(named_makers, tuple(unmade))


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


def _below(node: Node | None) -> list[Node]:
    """All nodes that lead to a node, itself not among them."""
    return [] if node is None else list(leading_to(child for child, _ in node.next_functions).values())
