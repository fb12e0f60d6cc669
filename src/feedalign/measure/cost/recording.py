"""One forward, recorded: its products with the layers they belong to, and the graph that it left."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from feedalign.measure.cost.products import MAKE_SCORES_AGAIN, Products, Term, num_bytes, storage_of
from feedalign.nested import named_tensors
from feedalign.probe import Inputs, as_arguments

Call = tuple[str, int]


@dataclass(frozen=True)
class Operand:
    """A tensor that an operation multiplies.

    Attributes:
        num_bytes: Its size.
        parameter: Name of the parameter that it is, or is a view of; None for others.
    """

    num_bytes: int
    parameter: str | None


@dataclass(frozen=True)
class Product:
    """An operation made of products.

    Attributes:
        row: The layer that it is counted for.
        name: Of the operation.
        terms: Its products.
        operands: By their places among its arguments.
        out_bytes: Size of what it returned.
        sequence: Number of its graph node; None where it has none.
    """

    row: str
    name: str
    terms: tuple[Term, ...]
    operands: Mapping[int, Operand]
    out_bytes: int
    sequence: int | None

    @property
    def macs(self) -> int:
        """All of its products."""
        return sum(term.macs for term in self.terms)

    @property
    def made_again(self) -> int:
        """Products of its forward that its backward makes again."""
        return self.terms[0].macs if self.name in MAKE_SCORES_AGAIN else 0


@dataclass
class Recording:
    """What a forward showed.

    Attributes:
        parameters: Names of parameters by what tells their memory.
        inputs: What tells the memory of the user's inputs.
        feedback: What tells the memory of feedback.
        held: Tensors of the forward that nothing else may hold; the memory of one let go would be told as another's.
        products: In the order of the forward.
        uncounted: By row, operations whose products nobody counted.
        rows: Where in the graph the nodes of each row begin.
        calls: For each call of a module the graph nodes of what it returned.
        outputs: Graph nodes of what the model returned.
    """

    parameters: dict[int, str]
    inputs: set[int]
    feedback: set[int]
    held: list[Tensor] = field(repr=False)
    products: list[Product] = field(default_factory=list)
    uncounted: dict[str, dict[str, None]] = field(default_factory=dict)
    rows: list[tuple[int, str]] = field(default_factory=list)
    calls: dict[Call, tuple[Node, ...]] = field(default_factory=dict)
    outputs: tuple[Node, ...] = ()

    def row_of(self, node: Node) -> str:
        """Return the layer that a graph node belongs to: the latest that had begun when it was made."""
        place = bisect_right(self.rows, node._sequence_nr(), key=lambda start: start[0])
        return self.rows[max(place - 1, 0)][1] if self.rows else ""


class Recorder(Products):
    """Writes a recording while a model runs.

    Args:
        recording: What is written.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording
        self.running: list[str] = []
        self.counts: dict[str, int] = {}

    def found(self, name: str, terms: tuple[Term, ...], args: Sequence[Any], out: Any) -> None:
        """See `Products`."""
        places = {place for term in terms for place in (term.left, term.right) if place is not None}
        tensors = {place: args[place] for place in sorted(places)}
        has_node = torch.is_grad_enabled() and any(
            isinstance(arg, Tensor) and arg.requires_grad for arg in [*args, *tensors.values()]
        )
        sequence = _next_number() - 1 if has_node else None
        row = self.running[-1] if self.running else ""
        if sequence is not None:
            # Products of a rule, between the modules, have no nodes.
            self._begin(row, sequence)
        parameters = self.recording.parameters
        operands = {
            place: Operand(num_bytes(tensor), parameters.get(storage_of(tensor))) for place, tensor in tensors.items()
        }
        made = sum(num_bytes(tensor) for tensor in tree_leaves(out)[:1] if isinstance(tensor, Tensor))
        self.recording.products.append(Product(row, name, terms, operands, made, sequence))

    def missed(self, name: str) -> None:
        """See `Products`."""
        row = self.running[-1] if self.running else ""
        self.recording.uncounted.setdefault(row, {})[name] = None

    def _begin(self, row: str, number: int) -> None:
        rows = self.recording.rows
        if not rows or rows[-1][1] != row:
            rows.append((number, row))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Follow which module runs; its hooks stand closer to the modules' forwards than those of a rule.

        Args:
            model: The model.
        """
        hooks = []
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(self._enter(name)))
            hooks.append(module.register_forward_hook(self._leave(name), prepend=True, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: object) -> None:
            del args
            self.running.append(name)
            if next(module.parameters(recurse=False), None) is not None:
                self._begin(name, _next_number())

        return enter

    def _leave(self, name: str) -> Any:
        def leave(module: nn.Module, args: object, output: object) -> None:
            del module, args
            if self.running and self.running[-1] == name:
                self.running.pop()
            index = self.counts.get(name, 0)
            self.counts[name] = index + 1
            self.recording.calls[name, index] = _nodes(output)

        return leave


def record(model: nn.Module, inputs: Inputs, feedback: nn.Module | None) -> Recording:
    """Run a model once, with gradients, and record it; buffers are left as they were.

    Args:
        model: The model.
        inputs: As for `attach(example_inputs=...)`.
        feedback: The module that holds feedback, if a rule is attached.

    Returns:
        The recording.
    """
    args, kwargs = as_arguments(inputs)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    prefix = next((name for name, module in model.named_modules() if module is feedback), None)
    store = set() if feedback is None else {f"{prefix}.{name}".lstrip(".") for name in feedback.state_dict()}
    named: dict[str, Tensor] = dict(model.named_parameters())
    recording = Recording(
        {storage_of(p): name for name, p in named.items() if name not in store},
        {storage_of(tensor) for _, tensor in named_tensors((args, dict(kwargs)))},
        {storage_of(held) for name, held in {**named, **buffers}.items() if name in store},
        list(buffers.values()),
    )
    recording.parameters |= {storage_of(b): name for name, b in buffers.items() if name not in store}
    recorder = Recorder(recording)
    with torch.enable_grad(), recorder.watching(model), recorder:
        output = functional_call(model, buffers, args, dict(kwargs))
    recording.outputs = _nodes(output)
    return recording


def reached_from(roots: Iterable[Node], without: Iterable[tuple[Node, int]] = ()) -> dict[int, Node]:
    """Return the graph nodes that a backward passes, by their numbers; leaves are left out.

    Args:
        roots: Where it begins.
        without: Edges that it does not take.
    """
    barred = {(id(node), edge) for node, edge in without}
    seen: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        for edge, (child, _) in enumerate(node.next_functions):
            if child is not None and (id(node), edge) not in barred:
                waiting.append(child)
    return {node._sequence_nr(): node for node in seen.values() if not hasattr(node, "variable")}


def leaves_of(nodes: Iterable[Node]) -> list[Tensor]:
    """Return the parameters and other leaves that a backward over these nodes gives gradients to."""
    children = [child for node in nodes for child, _ in node.next_functions if child is not None]
    return list({id(child): child.variable for child in children if hasattr(child, "variable")}.values())


def _nodes(output: object) -> tuple[Node, ...]:
    nodes = (tensor.grad_fn for _, tensor in named_tensors(output))
    return tuple(node for node in nodes if node is not None)


def _next_number() -> int:
    """Number that the next graph node of this thread will have."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number
