"""The one autograd node: the error comes in at the output, a teaching signal goes out to every feedback point."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedalign.errors import ErrorFormError
from feedalign.placement import FeatureAxis
from feedalign.receivers import Arrival, Receiver, Tap
from feedalign.rules.base import PointRule
from feedalign.transforms import is_batched, node_of


@dataclass
class Plan:
    """What the node delivers.

    Attributes:
        receivers: In the order of the taps.
        error_axis: Where the features of the output are.
        at_output: Who makes what the output layer receives; None: it receives the error itself.
        num_perturbations: K.
        num_backwards: How many errors have come, in eager code.
        rules: The rules that look at the error, once each.
        reads_output: Whether any of them needs the output beside the error.
        reads: Of each receiver, whether it needs the activation's values.
    """

    receivers: tuple[Receiver, ...]
    error_axis: FeatureAxis
    at_output: Receiver | None = None
    num_perturbations: int = 1
    num_backwards: int = field(default=0, compare=False)
    rules: tuple[PointRule, ...] = field(init=False)
    reads_output: bool = field(init=False)
    reads: tuple[bool, ...] = field(init=False)

    def __post_init__(self) -> None:
        rules = dict.fromkeys(receiver.rule for receiver in self.receivers)
        self.rules = tuple(rule for rule in rules if isinstance(rule, PointRule))
        self.reads_output = any(rule.reads_output for rule in self.rules)
        self.reads = tuple(receiver.reads_activation for receiver in self.receivers)

    def check(self, error: Tensor, output: Tensor | None) -> None:
        """Let each rule look at the error: in eager code at backward 1, 2, 4, 8 ..., since looking waits for a GPU.

        Args:
            error: dL/dy, features last.
            output: y, features last; None where no rule reads it.

        Raises:
            ErrorFormError: A rule cannot be computed from this error. Compiled code raises RuntimeError instead.
        """
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self.num_backwards += 1
            if is_batched(error) or not self._is_due():
                return
        for rule in self.rules:
            required = rule.requirement(error, output)
            if required is None:
                continue
            holds, otherwise = required
            if compiling:
                torch._assert_async(holds, otherwise)
            elif not bool(holds):
                raise ErrorFormError(otherwise)

    def _is_due(self) -> bool:
        return self.num_backwards & (self.num_backwards - 1) == 0


class Delivery(NamedTuple):
    """The tensors of one receiver in one forward.

    Attributes:
        tap: What receives: an activation with its graph, or a parameter.
        held: Feedback: a matrix, a head.
        kept: What was gathered of the perturbed forward.
        valid: Which steps of a sequence count, `[N, T]`; None: all.
    """

    tap: Tensor
    held: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    valid: Tensor | None = None


Counts = tuple[int, int, int]
"""How many tensors one receiver has that are held, that are kept, and that tell which steps count."""


class Broadcast(torch.autograd.Function):
    """Identity on the output; its backward turns the error into one teaching signal per tap.

    It has no `jvp` and takes part in `torch.func.vmap`, and so compiles with `fullgraph=True`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        plan: Plan,  # noqa: ARG004
        counts: tuple[Counts, ...],  # noqa: ARG004
        output: Tensor,
        tangent: Tensor | None,  # noqa: ARG004
        *tensors: Tensor,  # noqa: ARG004
    ) -> Tensor:
        """Return the output; `counts` tell how many tensors of each kind every receiver has.

        `tensors`: all that is held, all that is kept (that of the output last), all masks of steps, then the taps.
        """
        # Detached rather than returned as it is: torch would take it for a view and refuse in-place operations.
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what is held and kept, the taps' shapes and, for receivers that read them, activations and output."""
        del output
        plan, counts, value, tangent, *tensors = inputs
        ctx.plan, ctx.counts = plan, counts
        first_tap = sum(map(sum, counts))
        taps = tensors[first_tap:]
        ctx.first_tap = 4 + first_tap
        ctx.shapes, ctx.dtypes = [tap.shape for tap in taps], [tap.dtype for tap in taps]
        read = [tap for tap, is_read in zip(taps, plan.reads, strict=True) if is_read]
        # A copy: the user may still change the output in place, e.g. divide it by a temperature.
        seen = value.clone() if plan.reads_output else None
        ctx.save_for_backward(seen, tangent, *tensors[:first_tap], *read)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        """Return the error to the output, a gradient to learned feedback and a teaching signal to each tap."""
        plan: Plan = ctx.plan
        output, tangent, *rest = ctx.saved_tensors
        arrival = Arrival(error, output, tangent, plan.num_perturbations, plan.error_axis)
        plan.check(arrival.features(), arrival.seen())
        taps, at_output = _taps(ctx, rest, error)
        signals: list[Tensor | None] = []
        learned: list[Tensor | None] = []
        for position, (receiver, tap) in enumerate(zip(plan.receivers, taps, strict=True)):
            is_wanted = ctx.needs_input_grad[ctx.first_tap + position]
            signals.append(receiver.teach(arrival, tap) if is_wanted else None)
            first = 4 + len(learned)
            trains = any(ctx.needs_input_grad[first : first + len(tap.held)])
            learned += receiver.feedback_gradients(arrival, tap) if trains else [None] * len(tap.held)
        if plan.at_output is not None and at_output is not None:
            error = plan.at_output.teach(arrival, at_output)
        num_kept = ctx.first_tap - 4 - len(learned)
        return None, None, error, None, *learned, *[None] * num_kept, *signals


def _taps(ctx: Any, rest: list[Tensor], error: Tensor) -> tuple[list[Tap], Tap | None]:
    """Sort what was saved by receiver."""
    saved = iter(rest)
    held = [list(islice(saved, num)) for num, _, _ in ctx.counts]
    kept = [list(islice(saved, num)) for _, num, _ in ctx.counts]
    valid = [next(saved) if num else None for _, _, num in ctx.counts]
    taps = [
        Tap(held[i], kept[i], valid[i], next(saved) if is_read else None, ctx.shapes[i], ctx.dtypes[i])
        for i, is_read in enumerate(ctx.plan.reads)
    ]
    at_output = Tap([], kept[-1], None, None, error.shape, error.dtype) if len(kept) > len(taps) else None
    return taps, at_output


def broadcast(
    plan: Plan,
    output: Tensor,
    deliveries: list[Delivery],
    tangent: Tensor | None = None,
    at_output: Tensor | None = None,
) -> Tensor:
    """Pass the output through the node.

    Args:
        plan: What is delivered to whom.
        output: The tensor at which the error is taken.
        deliveries: The tensors of each receiver.
        tangent: Tangent of the output, `[K * N, ...]`.
        at_output: Perturbation of the output itself, `[K * N, ...]`, if the plan has a receiver there.

    Returns:
        The output, now the root of every layer's teaching signal.
    """
    counts: list[Counts] = []
    held: list[Tensor] = []
    kept: list[Tensor] = []
    valid: list[Tensor] = []
    taps: list[Tensor] = []
    for delivery in deliveries:
        counts.append((len(delivery.held), len(delivery.kept), int(delivery.valid is not None)))
        held += delivery.held
        kept += delivery.kept
        valid += () if delivery.valid is None else (delivery.valid,)
        taps.append(delivery.tap)
    if at_output is not None:
        counts.append((0, 1, 0))
        kept.append(at_output)
    kept += valid
    return node_of(Broadcast, plan, tuple(counts), output, tangent, *held, *kept, *taps)
