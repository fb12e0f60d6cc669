"""Modules through whose outputs every path from some layers to the output leads: points there cut all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn
from torch.autograd.graph import Node

from feedalign.blocks import Graph
from feedalign.points import is_nonlinearity
from feedalign.probe import Call


def bottlenecks(model: nn.Module, graph: Graph, root: Node | None, calls: Sequence[Call]) -> list[str]:
    """Choose modules that cut the paths from the output to the lowest layers, one between any two layers of a path.

    A call lies on all paths from the output to a layer if its graph node *dominates* that layer's. Those that dominate
    a lowest layer, which has no other trainable layer below it, are the main path: embeddings, residual blocks.

    Args:
        model: The model.
        graph: The graph of its forward on the example inputs.
        root: Graph node of the output.
        calls: Calls that can be feedback points.

    Returns:
        Names of modules, in the order in which they fire.
    """
    if root is None:
        return []
    tree = _DominatorTree(root, graph.is_layer)
    at: dict[int, list[Call]] = {}
    for call in calls:
        if call.node is not None and id(call.node) in tree.depth:
            at.setdefault(id(call.node), []).append(call)
    chosen: set[str] = set()
    for lowest in tree.lowest():
        best: dict[int, tuple[tuple[int, ...], str]] = {}
        for node in tree.above(lowest):
            for call in at.get(node, []):
                rank = (tree.num_owned[node], *_preference(model, call))
                best[tree.depth[node]] = max(best.get(tree.depth[node], ((), "")), (rank, call.module))
        chosen |= {name for _, name in best.values()}
    return list(dict.fromkeys(call.module for call in calls if call.module in chosen))


def _preference(model: nn.Module, call: Call) -> tuple[int, ...]:
    """Of calls that cut the same: activations, then whole blocks, then what has the fewest features; short names."""
    module = model.get_submodule(call.module)
    kind = 2 if is_nonlinearity(module) else 1 if any(module.children()) else 0
    size = 0 if call.signature is None else math.prod(call.signature.shape)
    return kind, -size, -call.module.count(".")


class _DominatorTree:
    """Which nodes of a graph all paths from its root to another node pass.

    Args:
        root: Where the paths start.
        is_layer: Whether a node is a product with weights.

    Attributes:
        depth: By the identity of each node, how many layers lie at most on a path down from it, its own counted.
        num_owned: How many uses of parameters it dominates.
    """

    def __init__(self, root: Node, is_layer: Callable[[Node], bool]) -> None:
        self._order = _from_the_root(root)
        self._parent: dict[int, int] = {}
        self._level = {id(root): 0}
        self.depth: dict[int, int] = {}
        self.num_owned = dict.fromkeys(map(id, self._order), 0)
        self._layers: list[int] = []
        self._read_down()
        self._read_up(is_layer)
        self._height = self.depth[id(root)]

    def _read_down(self) -> None:
        """A node's parent in the tree is the lowest node that all those above it have in common."""
        for node in self._order:
            for child in _children(node):
                self._join(id(child), id(node))

    def _join(self, child: int, above: int) -> None:
        known = self._parent.get(child)
        while known is not None and known != above:
            if self._level[known] > self._level[above]:
                known = self._parent[known]
            else:
                above = self._parent[above]
        self._parent[child], self._level[child] = above, self._level[above] + 1

    def _read_up(self, is_layer: Callable[[Node], bool]) -> None:
        for node in reversed(self._order):
            below = [self.depth[id(child)] for child in _children(node)]
            self._layers += [id(node)] if is_layer(node) else []
            self.depth[id(node)] = max(below, default=0) + is_layer(node)
            num_leaves = sum(hasattr(child, "variable") for child, _ in node.next_functions if child is not None)
            self.num_owned[id(node)] += num_leaves
            if id(node) in self._parent:
                self.num_owned[self._parent[id(node)]] += self.num_owned[id(node)]

    def lowest(self) -> list[int]:
        """Return the layers' nodes below which no other layer lies."""
        return [node for node in self._layers if self.depth[node] == 1]

    def above(self, node: int) -> list[int]:
        """Return a node and those that dominate it from the bottom up, less the layer that makes the output.

        That one need not be the root: behind its product a bias may be added, or neighbours in a graph be summed up.
        """
        found = []
        while node in self._parent:
            found += [node] if self.depth[node] < self._height else []
            node = self._parent[node]
        return found


def _from_the_root(root: Node) -> list[Node]:
    """All nodes but the leaves, each after all that lead to it."""
    finished: list[Node] = []
    seen = {id(root)}
    path = [(root, iter(_children(root)))]
    while path:
        child = next((child for child in path[-1][1] if id(child) not in seen), None)
        if child is None:
            finished.append(path.pop()[0])
        else:
            seen.add(id(child))
            path.append((child, iter(_children(child))))
    return finished[::-1]


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None and not hasattr(child, "variable")]
