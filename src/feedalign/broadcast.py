"""The one autograd node: the error comes in at the output, a teaching signal goes out to every feedback point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedalign.arrival import Arrival, Tap
from feedalign.errors import ErrorFormError
from feedalign.placement import FeatureAxis
from feedalign.receivers import Receiver
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

# The node's arguments before those of receivers: plan, counts, output, tangent, perturbation of the output.
FIRST = 5


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
        at_output: Tensor | None,  # noqa: ARG004
        *tensors: Tensor,  # noqa: ARG004
    ) -> Tensor:
        """Return the output; `tensors` are, receiver by receiver, what is held, kept and valid, then its tap."""
        # Detached rather than returned as it is: torch would take it for a view and refuse in-place operations.
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what is held and kept, the taps' shapes and, for receivers that read them, activations and output."""
        del output
        plan, counts, value, tangent, at_output = inputs[:FIRST]
        saved: list[Tensor | None] = list(inputs[FIRST:])
        forms, place = [], -1
        for (num_held, num_kept, num_valid), is_read in zip(counts, plan.reads, strict=True):
            place += num_held + num_kept + num_valid + 1
            tap = inputs[FIRST + place]
            forms.append((tap.shape, tap.dtype))
            if not is_read:
                saved[place] = None
        ctx.plan, ctx.counts, ctx.forms = plan, counts, forms
        # A copy: the user may still change the output in place, e.g. divide it by a temperature.
        seen = value.clone() if plan.reads_output else None
        ctx.save_for_backward(seen, tangent, at_output, *saved)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        """Return the error to the output, a gradient to learned feedback and a teaching signal to each tap."""
        plan: Plan = ctx.plan
        arrival, at_output, taps = arrived(ctx, error)
        plan.check(arrival.features(), arrival.seen())
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        gradients: list[Tensor | None] = []
        for receiver, tap, (num_held, num_kept, num_valid) in zip(plan.receivers, taps, ctx.counts, strict=True):
            first = FIRST + len(gradients)
            trains = True in wanted[first : first + num_held]
            gradients += receiver.feedback_gradients(arrival, tap) if trains else (None,) * num_held
            gradients += (None,) * (num_kept + num_valid)
            gradients.append(receiver.teach(arrival, tap) if wanted[FIRST + len(gradients)] else None)
        if plan.at_output is not None and at_output is not None:
            error = plan.at_output.teach(arrival, Tap((), (at_output,), None, None, error.shape, error.dtype))
        return None, None, error, None, None, *gradients


def arrived(ctx: Any, error: Tensor) -> tuple[Arrival, Tensor | None, list[Tap]]:
    """Sort what a node saved.

    Args:
        ctx: The node.
        error: What has come to it.

    Returns:
        What all receivers are sent, the perturbation of the output, and each receiver's tensors.
    """
    output, tangent, at_output, *saved = ctx.saved_tensors
    arrival = Arrival(error, output, tangent, ctx.plan.num_perturbations, ctx.plan.error_axis)
    taps, place = [], 0
    for (num_held, num_kept, num_valid), (shape, dtype) in zip(ctx.counts, ctx.forms, strict=True):
        kept = place + num_held
        valid = kept + num_kept
        tap = valid + num_valid
        steps = saved[valid] if num_valid else None
        taps.append(Tap(saved[place:kept], saved[kept:valid], steps, saved[tap], shape, dtype))
        place = tap + 1
    return arrival, at_output, taps


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
    tensors: list[Tensor] = []
    for tap, held, kept, valid in deliveries:
        counts.append((len(held), len(kept), int(valid is not None)))
        tensors += (*held, *kept, tap) if valid is None else (*held, *kept, valid, tap)
    return node_of(Broadcast, plan, tuple(counts), output, tangent, at_output, *tensors)
