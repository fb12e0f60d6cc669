"""Which layers each signal reaches, and through which weights, read off the autograd graph of the example forward."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from torch import nn
from torch.autograd.graph import Node

from feedalign.linear_like import own_parameters
from feedalign.probe import Probe
from feedalign.recurrent.local_steps import LocalSteps
from feedalign.recurrent.point import LayerSteps

_PRODUCTS = {f"{op}Backward0" for op in ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "MkldnnLinear")}
_STEPS = f"{LocalSteps.__name__}Backward"
_RESHAPES = {f"{op}Backward0" for op in ("T", "Transpose", "Permute", "View", "UnsafeView", "Expand", "Unsqueeze")}


@dataclass(frozen=True)
class Block:
    """The parameters that one signal reaches before it meets the next cut.

    Attributes:
        parameters: All of them, in the model's order.
        direct: Those of layers that it reaches without passing through another layer.
        via: For each layer that it reaches through the true weights of others, on some path: these others.
        nodes: The graph nodes of the block, parameters aside.
    """

    parameters: tuple[str, ...]
    direct: tuple[str, ...]
    via: Mapping[str, tuple[str, ...]]
    nodes: tuple[Node, ...] = field(repr=False)

    def live(self) -> set[int]:
        """Identities of the nodes that lead to a leaf; the others lie behind a cut, where no graph will be."""
        own = {id(node): node for node in self.nodes}
        found: dict[int, bool] = {}
        waiting = list(self.nodes)
        while waiting:
            node = waiting[-1]
            children = [child for child, _ in node.next_functions if child is not None]
            inner = [child for child in children if id(child) in own]
            unknown = [child for child in inner if id(child) not in found]
            if id(node) in found or not unknown:
                waiting.pop()
                is_leaf = any(hasattr(child, "variable") for child in children)
                found.setdefault(id(node), is_leaf or any(found[id(child)] for child in inner))
            else:
                waiting += unknown
        return {identity for identity, leads in found.items() if leads}


@dataclass(frozen=True)
class _Layer:
    """A product with weights: its name and where its input comes in."""

    name: str
    inputs: tuple[Node, ...]


class Graph:
    """The graph of the example forward, to be walked from signals down to parameters.

    Args:
        model: The model.
        probe: The forward on the example inputs.
    """

    def __init__(self, model: nn.Module, probe: Probe) -> None:
        self.names = probe.parameters
        self._modules: dict[int, _Layer] = {}
        self._inside: dict[int, Node] = {}
        # A recurrent module that runs step by step is told by the nodes of its layers.
        weighted = [call for call in probe.calls if _is_layer(model.get_submodule(call.module))]
        owners = {call.module for call in weighted}
        for call in weighted:
            is_composite = any(name.startswith(f"{call.module}.") for name in owners)
            if not is_composite:
                for result in call.results:
                    self._modules.setdefault(id(result), _Layer(call.module, call.sources))
                below = [child for result in call.results for child, _ in result.next_functions]
                inside = self._walk(below, {id(node) for node in call.sources})[1]
                self._inside |= {id(node): node for node in inside}

    def block(self, root: Node | None, cuts: Iterable[Node], gated: Collection[str] = ()) -> Block:
        """Return what a gradient at `root` reaches without crossing a cut.

        Args:
            root: Graph node at which the signal enters.
            cuts: Graph nodes of feedback points; the walk stops there.
            gated: Layers whose input gradient is made with feedback weights instead of their own.

        Returns:
            The block.
        """
        stops = {id(node) for node in cuts if node is not root}
        reached, nodes = self._walk([root], stops)
        direct, _ = self._walk([root], stops, stop_at_layers=True)
        below = self._below_each(nodes)
        via: dict[str, list[str]] = {}
        for layer in self._layers_among(nodes):
            if layer.name in gated:
                continue
            # An input that is not among the nodes lies behind a cut within the layer.
            for name in layer_names(self._in_bits([below.get(id(node), 0) for node in layer.inputs])):
                if name != layer.name and layer.name not in via.setdefault(name, []):
                    via[name].append(layer.name)
        inner = tuple(node for node in nodes if not hasattr(node, "variable"))
        crossings = {name: tuple(crossed) for name, crossed in via.items() if crossed}
        return Block(self._in_order(reached), self._in_order(direct), crossings, inner)

    def below(self, name: str, cuts: Iterable[Node]) -> list[str]:
        """Return the trainable layers right below one: reached without passing through another such layer, or a cut.

        Args:
            name: The layer above.
            cuts: Graph nodes of feedback points; the walk stops there.

        Returns:
            Names of layers.
        """
        stops = {id(node) for node in cuts}
        inputs = [node for layer in self._modules.values() if layer.name == name for node in layer.inputs]
        reached: set[str] = set()
        while inputs:
            found, nodes = self._walk(inputs, stops, stop_at_layers=True)
            reached |= found
            stops |= {id(node) for node in nodes}
            frozen = [layer for layer in self._layers_among(nodes) if not self._own(layer, nodes)]
            inputs = [node for layer in frozen for node in layer.inputs]
        return layer_names(self._in_order(reached))

    def is_layer(self, node: Node) -> bool:
        """Whether a node is the output of a product with weights, a module's or one with a bare parameter."""
        return self._layer_at(node) is not None

    def _own(self, layer: _Layer, nodes: Iterable[Node]) -> set[str]:
        """Trainable parameters of a layer whose output is among the nodes."""
        inputs = {id(node) for node in layer.inputs}
        outputs = [node for node in nodes if self._layer_at(node) == layer]
        return self._walk(outputs, inputs)[0]

    def _below_each(self, nodes: list[Node]) -> dict[int, int]:
        """For each node of a block the parameters below it, a bit for each, by the node's identity."""
        own = {id(node) for node in nodes}
        numbers = {parameter: number for number, parameter in enumerate(self.names)}
        found: dict[int, int] = {}
        waiting = list(nodes)
        while waiting:
            node = waiting[-1]
            children = [child for child, _ in node.next_functions if child is not None and id(child) in own]
            unknown = [child for child in children if id(child) not in found]
            if id(node) in found or not unknown:
                waiting.pop()
                number = numbers.get(id(getattr(node, "variable", None)))
                bits = 0 if number is None else 1 << number
                found.setdefault(id(node), reduce(or_, (found[id(child)] for child in children), bits))
            else:
                waiting += unknown
        return found

    def _in_bits(self, several: Iterable[int]) -> list[str]:
        """Names of the parameters whose bits are set, in the model's order."""
        bits = reduce(or_, several, 0)
        return [name for number, name in enumerate(self.names.values()) if bits >> number & 1]

    def _in_order(self, reached: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in self.names.values() if name in reached)

    def _layer_at(self, node: Node) -> _Layer | None:
        """The layer whose output this node makes: a module's, or one written as a function of a bare parameter."""
        if id(node) in self._modules:
            return self._modules[id(node)]
        is_step = node.name() == _STEPS
        if not is_step and (node.name() not in _PRODUCTS or id(node) in self._inside):
            return None
        children = [child for child, _ in node.next_functions if child is not None]
        weights = [leaf for child in children if (leaf := _weight(child)) is not None and id(leaf) in self.names]
        if not weights:
            return None
        return _Layer(layer_of(self.names[id(weights[0])]), tuple(c for c in children if _weight(c) is None))

    def _layers_among(self, nodes: Iterable[Node]) -> list[_Layer]:
        """Layers of a block; a product inside a module's own call counts as that module."""
        layers = [layer for node in nodes if (layer := self._layer_at(node)) is not None]
        return [layer for layer in layers if layer.inputs]

    def _walk(
        self, roots: Iterable[Node | None], stops: set[int], *, stop_at_layers: bool = False
    ) -> tuple[set[str], list[Node]]:
        """Parameters and nodes that gradients at the roots reach."""
        reached: set[str] = set()
        # Holds the nodes themselves: a node let go would lend its id to another.
        seen: dict[int, Node] = {}
        waiting = list(roots)
        while waiting:
            node = waiting.pop()
            if node is None or id(node) in seen or id(node) in stops:
                continue
            seen[id(node)] = node
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) in self.names:
                reached.add(self.names[id(leaf)])
            layer = self._layer_at(node) if stop_at_layers else None
            if layer is None:
                waiting.extend(child for child, _ in node.next_functions)
            else:
                inputs = {id(source) for source in layer.inputs}
                reached |= self._walk([c for c, _ in node.next_functions], inputs | stops)[0]
        return reached, list(seen.values())


def _is_layer(module: nn.Module) -> bool:
    if any(isinstance(child, LayerSteps) for child in module.children()):
        return False
    return any(parameter.dim() > 1 for parameter in own_parameters(module))


def _weight(node: Node | None) -> object:
    """The parameter behind an operand of a product, perhaps transposed; None for anything else."""
    while node is not None and node.name() in _RESHAPES:
        node = node.next_functions[0][0]
    return getattr(node, "variable", None)


def overlap(blocks: Iterable[Block]) -> bool:
    """Tell whether any part of the graph belongs to two blocks, so that none of them can be freed alone."""
    nodes = [identity for block in blocks for identity in block.live()]
    return len(set(nodes)) < len(nodes)


def leading_to(roots: Iterable[Node | None]) -> dict[int, Node]:
    """Return all graph nodes that lead to some, these among them.

    Args:
        roots: The nodes; None is passed over.

    Returns:
        The nodes by their identities, which stay valid as long as the nodes are held.
    """
    found: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node is not None and id(node) not in found:
            found[id(node)] = node
            waiting += [child for child, _ in node.next_functions]
    return found


def layer_names(parameters: Iterable[str]) -> list[str]:
    """Return the modules that own the given parameters, once each, in order."""
    return list(dict.fromkeys(layer_of(name) for name in parameters))


def layer_of(parameter: str) -> str:
    """Return the layer that a parameter belongs to; a parametrized weight lies two modules deeper."""
    layer, found, _ = parameter.rpartition("parametrizations.")
    return layer.rstrip(".") if found else parameter.rpartition(".")[0]
