"""Which tensors must be kept until the error arrives: what the graph's nodes have saved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from feedalign.measure.cost.products import num_bytes, storage_of
from feedalign.measure.cost.recording import Recording
from feedalign.measure.cost.report import Kept

# By kind of node: looking takes longer than reading.
_NAMES: dict[str, tuple[str, ...]] = {}
_SUFFIX = re.compile(r"Backward\d*$")


def kept_by(nodes: Iterable[Node], recording: Recording, owners: dict[int, str]) -> dict[str, list[Kept]]:
    """Return what nodes keep, by the layer that keeps it first; parameters, buffers and feedback are left out.

    Args:
        nodes: Those that wait for the error.
        recording: The forward that they are from.
        owners: Layers of tensors that belong to others than their node, by what tells their memory.

    Returns:
        Tensors by layer. What two nodes save is listed once, views count as the memory they hold.
    """
    seen = {*recording.parameters, *recording.feedback}
    found: dict[str, list[Kept]] = {}
    for node in sorted(nodes, key=lambda node: node._sequence_nr()):
        for name, tensor in _saved(node):
            memory = storage_of(tensor)
            if memory in seen:
                continue
            seen.add(memory)
            # A batch may be a view of all of the user's data.
            is_input = memory in recording.inputs
            size = num_bytes(tensor) if is_input else tensor.untyped_storage().nbytes()
            if size:
                what = f"{operation_of(node)}.{name}"
                row = owners.get(memory) or recording.row_of(node)
                found.setdefault(row, []).append(Kept("input" if is_input else what, tuple(tensor.shape), size))
    return found


def operation_of(node: Node) -> str:
    """Return the name of the operation that a graph node is the backward of: `Tanh` of `TanhBackward0`."""
    return _SUFFIX.sub("", node.name().rpartition("::")[2])


def _saved(node: Any) -> list[tuple[str, Tensor]]:
    """What a node has saved, with names."""
    if hasattr(node, "saved_tensors"):
        return [("saved", tensor) for tensor in node.saved_tensors if tensor is not None]
    found = []
    for name in _names(node):
        value = getattr(node, name)
        several = value if isinstance(value, (tuple, list)) else [value]
        found += [(name.removeprefix("_saved_"), tensor) for tensor in several if isinstance(tensor, Tensor)]
    return found


def _names(node: Any) -> tuple[str, ...]:
    """Attributes of a node that are what it has saved, sizes left out."""
    kind = node.name()
    if kind not in _NAMES:
        _NAMES[kind] = tuple(name for name in dir(node) if name.startswith("_saved_") and "_sym_" not in name)
    return _NAMES[kind]
