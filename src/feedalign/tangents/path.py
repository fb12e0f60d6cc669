"""Which module calls a tangent passes on its way to the output, read off the forward on the example inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn
from torch.autograd.graph import Node

from feedalign.blocks import layer_of
from feedalign.probe import Call, OutputSite, Probe
from feedalign.pushforward import DROPOUTS, own_term_of, pushforward_of
from feedalign.tangents.carrier import CallKey

# Operations between modules that keep the order of all numbers: a tangent is reshaped as its value is.
_ORDERED = ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Alias", "Clone")
_VIEWS = {f"{op}Backward{n}" for op in _ORDERED for n in range(3)}


def without_views(node: Node | None) -> Node | None:
    """Return the node below all operations that only reshape."""
    while node is not None and node.name() in _VIEWS:
        node = node.next_functions[0][0]
    return node


@dataclass(frozen=True)
class Path:
    """The calls that a tangent passes, and where each takes it from.

    Attributes:
        sources: For each call, the call whose tangent comes in; None: none does.
        at_output: The call whose tangent is the output's.
        marks: Feedback points among them that are no modules with a derivative of their own, e.g. whole blocks.
        reshaped: Calls (None: the output) between which and their source a tensor is reshaped, and perhaps copied.
    """

    sources: Mapping[CallKey, CallKey | None]
    at_output: CallKey
    marks: frozenset[CallKey]
    reshaped: frozenset[CallKey | None]


class UnknownPathError(Exception):
    """Tangents cannot be carried by hand; the message says where."""


def find_path(
    model: nn.Module,
    probe: Probe,
    site: OutputSite,
    cuts: Collection[CallKey],
    perturbed: Collection[CallKey],
    parameters: Collection[str],
) -> Path | str:
    """Follow tangents back from the output.

    Args:
        model: The model.
        probe: Its forward on the example inputs.
        site: Where the error is taken.
        cuts: Calls at which the graph is cut.
        perturbed: Those among them whose activations are perturbed.
        parameters: Names of perturbed parameters; empty for rules that perturb activations.

    Returns:
        The path, or why there is none that can be followed by hand.
    """
    try:
        return _Follower(model, probe, cuts, perturbed, parameters).follow(site)
    except UnknownPathError as unknown:
        return str(unknown)


class _Follower:
    def __init__(
        self,
        model: nn.Module,
        probe: Probe,
        cuts: Collection[CallKey],
        perturbed: Collection[CallKey],
        parameters: Collection[str],
    ) -> None:
        self.modules = dict(model.named_modules())
        self.calls, self.cuts, self.perturbed, self.parameters = probe.calls, set(cuts), set(perturbed), set(parameters)
        nodes = [call.node for call in self.calls if _key(call) in self.perturbed]
        self.origins = {id(node) for node in nodes} | {i for i, n in probe.parameters.items() if n in self.parameters}
        self.sources: dict[CallKey, CallKey | None] = {}
        self.marks: set[CallKey] = set()
        self.reshaped: set[CallKey | None] = set()

    def follow(self, site: OutputSite) -> Path:
        what = f"the output (at {site.module!r})" if site.module else "the model's output"
        end = site.order if site.before else len(self.calls)
        at_output = self._producer(site.node, end, what, None)
        if at_output is None:
            raise UnknownPathError(f"{what} does not depend on any trainable module")
        waiting = [at_output]
        while waiting:
            position = waiting.pop()
            call = self.calls[position]
            if _key(call) not in self.sources:
                source = self._source(call, position)
                self.sources[_key(call)] = None if source is None else _key(self.calls[source])
                waiting += [] if source is None else [source]
        self._refuse_missing()
        return Path(self.sources, _key(self.calls[at_output]), frozenset(self.marks), frozenset(self.reshaped))

    def _source(self, call: Call, position: int) -> int | None:
        """The call whose tangent comes into this one."""
        module = self.modules[call.module]
        if not self._is_known(module):
            self.marks.add(_key(call))
            return self._producer(call.node, position, f"{call.module!r}", _key(call))
        if self.parameters and self._perturbs(call.module) and own_term_of(module) is None:
            raise UnknownPathError(f"no derivative by the parameters of {_name(call.module, module)} is known by hand")
        if isinstance(module, DROPOUTS) and getattr(module, "inplace", False):
            raise UnknownPathError(f"{_name(call.module, module)} works in place")
        if len(call.inputs) != 1:
            raise UnknownPathError(f"{_name(call.module, module)} takes several tensors or keywords")
        what = f"the input of {call.module!r}"
        source = self._producer(_input_node(call, module), position, what, _key(call))
        if source is not None and self._starts(module):
            raise UnknownPathError(f"no derivative of {_name(call.module, module)} is known by hand")
        return source

    def _producer(self, node: Node | None, end: int, what: str, taker: CallKey | None) -> int | None:
        """The last call before `end` that made a node's tensor; None for one that depends on nothing perturbed."""
        earlier = [i for i in range(end - 1, -1, -1) if self._carries(self.calls[i])]
        while node is not None:
            made = next((i for i in earlier if self.calls[i].node is node), None)
            if made is not None:
                return made
            if not self._is_perturbed(node):
                return None
            if node.name() not in _VIEWS:
                raise UnknownPathError(f"{what} is made by an operation outside the modules ({node.name()})")
            self.reshaped.add(taker)
            node = node.next_functions[0][0]
        return None

    def _is_perturbed(self, node: Node) -> bool:
        """Whether a value depends on anything that is perturbed."""
        waiting, seen = [node], {id(node): node}
        while waiting:
            at = waiting.pop()
            if id(at) in self.origins or id(getattr(at, "variable", None)) in self.origins:
                return True
            children = [child for child, _ in at.next_functions if child is not None and id(child) not in seen]
            seen |= {id(child): child for child in children}
            waiting += children
        return False

    def _carries(self, call: Call) -> bool:
        return _key(call) in self.cuts or self._is_known(self.modules[call.module])

    def _is_known(self, module: nn.Module) -> bool:
        if module._forward_hooks or module._forward_pre_hooks:
            return False  # they may put anything in the place of what the module returns
        return isinstance(module, DROPOUTS) or pushforward_of(module) is not None or self._starts(module)

    def _starts(self, module: nn.Module) -> bool:
        """Whether a tangent can start in a module that none can pass, as in an embedding."""
        return bool(self.parameters) and pushforward_of(module) is None and own_term_of(module) is not None

    def _perturbs(self, module: str) -> bool:
        return any(layer_of(name) == module for name in self.parameters)

    def _refuse_missing(self) -> None:
        lost = [module for module, index in self.perturbed if (module, index) not in self.sources]
        lost += [layer_of(name) for name in self.parameters if layer_of(name) not in {m for m, _ in self.sources}]
        if lost:
            raise UnknownPathError(f"{_name(lost[0], self.modules[lost[0]])} is not on a chain of known modules")


def _input_node(call: Call, module: nn.Module) -> Node | None:
    """The node of what came into a call; an in-place module has left its own on the tensor, above the one before."""
    node = call.input_nodes[0]
    if node is not None and call.output is call.inputs[0] and getattr(module, "inplace", False):
        return node.next_functions[0][0]
    return node


def _key(call: Call) -> CallKey:
    return call.module, call.index


def _name(name: str, module: nn.Module) -> str:
    return f"{name!r} ({type(module).__name__})"
