"""What teaching signals cost: the receivers' own functions, run once on zeros, their products counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from feedalign.arrival import Arrival, Tap
from feedalign.broadcast import FIRST, Broadcast, Plan, arrived
from feedalign.layerwise import Reroute
from feedalign.measure.cost.movement import Kind, Movement, reading, writing
from feedalign.measure.cost.products import Products, Term, num_bytes, storage_of
from feedalign.measure.cost.recording import Recording
from feedalign.receivers import Receiver, WeightReceiver
from feedalign.recurrent.local_steps import LocalSteps
from feedalign.rules.base import EstimatingRule, LearnedRule

Work = tuple[int, Movement]
NOTHING: Work = (0, Movement())


class _Counted(Products):
    """Adds up products and what they read."""

    def __init__(self, recording: Recording, others: Kind, feedback: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording, self.others = recording, others
        self.macs, self.moved = 0, Movement()
        # Held, or another tensor would be told by the same memory.
        self.feedback = {storage_of(tensor): tensor for tensor in feedback}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `Products`; what is made of feedback alone, converted or in another dtype, is feedback."""
        out = super().__torch_dispatch__(func, types, args, kwargs)
        given = _tensors((args, kwargs))
        if given and all(self._kind(tensor) == "feedback" for tensor in given):
            self.feedback |= {storage_of(tensor): tensor for tensor in _tensors(out)}
        return out

    def found(self, name: str, terms: tuple[Term, ...], args: Sequence[Any], out: Any) -> None:
        """See `Products`."""
        del name, out
        self.macs += sum(term.macs for term in terms)
        for place in {place for term in terms for place in (term.left, term.right) if place is not None}:
            self.moved += reading(self._kind(args[place]), num_bytes(args[place]))

    def _kind(self, tensor: Tensor) -> Kind:
        if storage_of(tensor) in self.recording.feedback or storage_of(tensor) in self.feedback:
            return "feedback"
        return "weights" if storage_of(tensor) in self.recording.parameters else self.others


@dataclass(frozen=True)
class Taught:
    """What one receiver's signal costs.

    Attributes:
        receiver: The receiver.
        macs: Products that make its signal and learn its feedback.
        moved: What they move.
        kept: What is kept for them of the forward.
    """

    receiver: Receiver
    macs: int
    moved: Movement
    kept: tuple[Tensor, ...]


def is_broadcast(node: Node) -> bool:
    """Whether a node is that where the error is turned into signals."""
    return _is(node, Broadcast)


def of_broadcast(node: Any, recording: Recording, streaming: frozenset[str]) -> list[Taught]:
    """Return what the signals of a broadcast node cost, receiver by receiver.

    Args:
        node: The node.
        recording: The forward that it is from.
        streaming: Points whose signals are rows of their feedback, picked by the targets before the output exists.

    Returns:
        One entry for each receiver that the backward teaches.
    """
    plan: Plan = node.plan
    error = _zeros(node._input_metadata[0])
    found, first = [], FIRST
    with torch.no_grad():
        arrival, _, taps = arrived(node, error)
        for receiver, tap, counts in zip(plan.receivers, taps, node.counts, strict=True):
            trains = any(node.needs_input_grad[first : first + counts[0]])
            first += sum(counts) + 1
            if not node.needs_input_grad[first - 1]:
                continue
            if receiver.point in streaming:
                size = tap.shape.numel() * tap.dtype.itemsize
                work = (0, reading("feedback", size) + writing("errors", size))
            else:
                work = _taught(receiver, arrival, tap, recording, trains=trains)
            found.append(Taught(receiver, *work, tuple(tap.kept)))
    return found


def _taught(receiver: Receiver, arrival: Arrival, tap: Tap, recording: Recording, *, trains: bool) -> Work:
    """Products and movement of one receiver: what it gathers in the forward, its signal, its feedback's gradients."""
    signal, macs, moved = _run(recording, lambda: receiver.teach(arrival, tap), "errors")
    of_weight = isinstance(receiver, WeightReceiver)
    moved += writing("weights" if of_weight else "errors", _size([signal]))
    moved += reading("weights" if of_weight else "activations", _size(tap.kept))
    if isinstance(receiver.rule, EstimatingRule):
        draws = torch.zeros((arrival.num_perturbations * tap.shape[0], *tap.shape[1:]), dtype=tap.dtype)
        drawn = draws.to(arrival.error.device)
        gathered, more, read = _run(
            recording, lambda: receiver.gather(drawn, arrival.tangent, tap.valid), "activations"
        )
        macs, moved = macs + more, moved + read + writing("feedback", _size([gathered]))
    if trains:
        grads, more, read = _run(recording, lambda: receiver.feedback_gradients(arrival, tap), "errors")
        macs, moved = macs + more, moved + read
        if isinstance(receiver.rule, LearnedRule) or tap.held:
            moved += writing("feedback", _size(grads))
    return macs, moved


def of_gate(node: Any, recording: Recording) -> Work | None:
    """Return what a layer's feedback weight costs, if a node is that of one."""
    if not _is(node, Reroute):
        return None
    grad = _zeros(node._input_metadata[0])
    with torch.no_grad():
        feedback = node.back.feedback(node.saved_tensors)
        product = partial(node.back.adjoint, grad, feedback.to(grad.dtype), node.shape)
        made, macs, moved = _run(recording, product, "errors", [feedback])
    if storage_of(feedback) not in recording.feedback:
        # Made of the weight at each backward, and so written first.
        moved += writing("feedback", num_bytes(feedback))
    return macs, moved + writing("errors", _size([made]))


def of_steps(node: Any, recording: Recording) -> Work | None:
    """Return what the local backward of a recurrent layer costs, what it makes again included, if this is its node."""
    if not _is(node, LocalSteps):
        return None
    signal = _zeros(node._input_metadata[0])
    others = (None,) * (len(node._input_metadata) - 1)
    made, macs, moved = _run(recording, lambda: LocalSteps.backward(node, signal, *others), "activations")
    of_input, *of_weights = made[2:]
    moved += reading("errors", num_bytes(signal)) + writing("errors", _size([of_input]))
    return macs, moved + writing("weights", _size(of_weights))


def is_foreign(node: Node) -> bool:
    """Whether a node is an `autograd.Function` of somebody else, whose backward may multiply anything."""
    is_python = isinstance(node, torch.autograd.function.BackwardCFunction)
    return is_python and not any(_is(node, known) for known in (Broadcast, Reroute, LocalSteps))


def _is(node: Node, function: type[torch.autograd.Function]) -> bool:
    return getattr(type(node), "_forward_cls", None) is function


def _run(
    recording: Recording, work: Callable[[], Any], others: Kind, feedback: Sequence[Tensor] = ()
) -> tuple[Any, int, Movement]:
    with _Counted(recording, others, feedback) as counted:
        made = work()
    return made, counted.macs, counted.moved


def _zeros(metadata: Any) -> Tensor:
    return torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def _tensors(of: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(of) if isinstance(leaf, Tensor)]


def _size(tensors: Iterable[Any]) -> int:
    return sum(map(num_bytes, _tensors(list(tensors))))


def edges_of(node: Any, points: frozenset[str]) -> list[tuple[Node, int]]:
    """Return the edges of a broadcast node that lead to some receivers.

    Args:
        node: The node.
        points: Names of the receivers' points.
    """
    sizes = [sum(counts) + 1 for counts in node.counts]
    taps = accumulate(sizes, initial=len(node.next_functions) - sum(sizes) - 1)
    next(taps)
    return [(node, tap) for tap, receiver in zip(taps, node.plan.receivers, strict=True) if receiver.point in points]


def all_at(node: Any, points: frozenset[str]) -> bool:
    """Whether all receivers of a broadcast node are at some points."""
    return all(receiver.point in points for receiver in node.plan.receivers)
