"""Which layers each teaching signal reaches, read off the autograd graph of the example forward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn
from torch.autograd.graph import Node

from feedalign.linear_like import own_parameters
from feedalign.probe import Call, Probe


@dataclass(frozen=True)
class Block:
    """The parameters that one signal reaches before it meets the next cut.

    Attributes:
        direct: Those of layers that it reaches without passing through another layer's weights, in order.
        through: Those that it reaches only through the true weights of a layer in between: exact backprop.
        nodes: The graph nodes of the block, parameters aside.
    """

    direct: tuple[str, ...]
    through: tuple[str, ...]
    nodes: tuple[Node, ...] = field(repr=False)

    @property
    def parameters(self) -> tuple[str, ...]:
        """All parameters that the signal reaches."""
        return self.direct + self.through


def block_of(model: nn.Module, probe: Probe, root: Node | None, cuts: Iterable[Node]) -> Block:
    """Return the parameters that a gradient at `root` reaches without crossing a cut.

    Args:
        model: The model.
        probe: The forward on the example inputs.
        root: Graph node at which the signal enters.
        cuts: Graph nodes of feedback points; the walk stops there.

    Returns:
        The block.
    """
    stops = {id(node) for node in cuts if node is not root}
    every, nodes = _reached(root, stops, probe, {})
    direct, _ = _reached(root, stops, probe, _layers(model, probe))
    names = [name for name in probe.parameters.values() if name in every]
    return Block(tuple(n for n in names if n in direct), tuple(n for n in names if n not in direct), nodes)


def _layers(model: nn.Module, probe: Probe) -> dict[int, Call]:
    """Calls of modules with a weight matrix of their own, by the graph node of what they returned."""
    modules = dict(model.named_modules())
    found: dict[int, Call] = {}
    for call in probe.calls:
        if call.node is not None and any(p.dim() > 1 for p in own_parameters(modules[call.module])):
            found.setdefault(id(call.node), call)
    return found


_PRODUCTS = {f"{op}Backward0" for op in ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "MkldnnLinear")}
_RESHAPES = {f"{op}Backward0" for op in ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "Unsqueeze")}


def _is_weight(node: Node | None) -> bool:
    """Whether an operand of a product is a parameter, perhaps transposed: a layer written as a function."""
    while node is not None and node.name() in _RESHAPES:
        node = node.next_functions[0][0]
    return hasattr(node, "variable")


def _reached(
    root: Node | None, stops: set[int], probe: Probe, layers: dict[int, Call]
) -> tuple[set[str], tuple[Node, ...]]:
    """Walk the graph; at a node of `layers`, take the layer's own parameters and do not walk into its input."""
    reached: set[str] = set()
    # Holds the nodes themselves: a node let go would lend its id to another.
    seen: dict[int, Node] = {}
    waiting: list[Node | None] = [root]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen or id(node) in stops:
            continue
        seen[id(node)] = node
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) in probe.parameters:
            reached.add(probe.parameters[id(leaf)])
        call = layers.get(id(node))
        if call is not None:
            inputs = {id(source) for source in call.input_nodes if source is not None}
            reached |= _reached(node, inputs, probe, {})[0]
            continue
        children = [child for child, _ in node.next_functions if child is not None]
        weights = [child for child in children if _is_weight(child)] if layers and node.name() in _PRODUCTS else []
        waiting.extend(weights or children)
    return reached, tuple(node for node in seen.values() if not hasattr(node, "variable"))


def overlap(blocks: Iterable[Block]) -> bool:
    """Whether any part of the graph belongs to two blocks, so that one of them cannot be freed before the other."""
    nodes = [id(node) for block in blocks for node in block.nodes]
    return len(set(nodes)) < len(nodes)
