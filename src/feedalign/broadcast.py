"""The one autograd node: the error comes in at the output, a teaching signal goes out to every feedback point."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from feedalign.errors import ErrorFormError, FeedbackShapeError
from feedalign.feedback import Projection
from feedalign.placement import Placement, features_last
from feedalign.rules.base import DirectRule
from feedalign.transforms import is_batched


@dataclass(frozen=True)
class Receiver:
    """A feedback point as the node sees it: its name, how signals reach it, and a device that projects for it."""

    point: str
    placement: Placement
    projection: Projection | None

    def signal(self, vector: Tensor, feedback: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the teaching signal, of the activation's shape and dtype.

        Args:
            vector: What the rule broadcasts, `[..., C]`.
            feedback: `[C, D]`; None where a projection stands for it.
            shape: The activation's shape.
            dtype: The activation's dtype, in which the product is computed.

        Returns:
            The teaching signal.

        Raises:
            FeedbackShapeError: The user's projection returned another shape than `[rows, D]`.
        """
        rows = self.placement.rows(vector)
        if self.projection is None:
            assert feedback is not None
            return self.placement.deliver(rows.to(dtype) @ feedback.to(dtype), shape)
        projected = self.projection.project(rows, self.point)
        wanted = (rows.shape[0], self.placement.num_features)
        if tuple(projected.shape) != wanted:
            raise FeedbackShapeError(
                f"The projection returned shape {tuple(projected.shape)} for feedback point {self.point!r}; it takes "
                f"{tuple(rows.shape)} there and returns [rows, features] = {wanted}."
            )
        return self.placement.deliver(projected.to(dtype), shape)


@dataclass
class Plan:
    """What the node delivers: receivers in the order of the taps, grouped by rule."""

    receivers: tuple[Receiver, ...]
    groups: tuple[tuple[DirectRule, tuple[int, ...]], ...]
    num_backwards: int = field(default=0, compare=False)

    @property
    def reads_output(self) -> bool:
        """Whether any rule needs the output beside the error."""
        return any(rule.reads_output for rule, _ in self.groups)

    def features_last(self, tensor: Tensor) -> Tensor:
        """Bring the error, or the output, to `[..., C]`, as rules take it."""
        return features_last(tensor, self.receivers[0].placement.error_axis)

    def check(self, error: Tensor, output: Tensor | None) -> None:
        """Let each rule look at the error: in eager code at backward 1, 2, 4, 8 ..., since looking waits for a GPU.

        Args:
            error: dL/dy, features last.
            output: y, features last; None where no rule reads it.

        Raises:
            ErrorFormError: A rule cannot be computed from this error. Compiled code raises RuntimeError instead.
        """
        compiling = torch.compiler.is_compiling()
        if not compiling and (is_batched(error) or not self._is_due()):
            return
        for rule, _ in self.groups:
            required = rule.requirement(error, output)
            if required is None:
                continue
            holds, otherwise = required
            if compiling:
                torch._assert_async(holds, otherwise)
            elif not bool(holds):
                raise ErrorFormError(otherwise)

    def _is_due(self) -> bool:
        self.num_backwards += 1
        return self.num_backwards & (self.num_backwards - 1) == 0


class Broadcast(torch.autograd.Function):
    """Identity on the output; its backward turns the error into one teaching signal per tap.

    It has no `jvp` and takes part in `torch.func.vmap`, and so compiles with `fullgraph=True`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, num_feedback: int, output: Tensor, *tensors: Tensor) -> Tensor:  # noqa: ARG004
        """Return the output; `tensors` are the feedback matrices, then the taps."""
        # Detached rather than returned as it is: torch would take it for a view and refuse in-place operations.
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the feedback, the taps' shapes and, for rules that read it, the output."""
        del output
        plan, num_feedback, value, *tensors = inputs
        ctx.plan, ctx.num_feedback = plan, num_feedback
        taps = tensors[num_feedback:]
        ctx.shapes, ctx.dtypes = [tap.shape for tap in taps], [tap.dtype for tap in taps]
        # A copy: the user may still change the output in place, e.g. divide it by a temperature.
        ctx.save_for_backward(value.clone() if plan.reads_output else None, *tensors[:num_feedback])

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        """Return the error to the output and a teaching signal to each tap."""
        plan: Plan = ctx.plan
        output, *feedback = ctx.saved_tensors
        features = plan.features_last(error)
        seen = None if output is None else plan.features_last(output)
        plan.check(features, seen)
        signals: list[Tensor | None] = [None] * len(plan.receivers)
        first_tap = 3 + ctx.num_feedback
        held = iter(feedback)
        matrices = [next(held) if receiver.projection is None else None for receiver in plan.receivers]
        for rule, members in plan.groups:
            vector = rule.broadcast(features, seen)
            for i in members:
                if ctx.needs_input_grad[first_tap + i]:
                    signals[i] = plan.receivers[i].signal(vector, matrices[i], ctx.shapes[i], ctx.dtypes[i])
        return None, None, error, *[None] * ctx.num_feedback, *signals


# Torch binds arguments to this signature at every call; made once, it is not worked out anew each time.
Broadcast.forward.__signature__ = inspect.signature(Broadcast.forward)  # type: ignore[attr-defined]


def broadcast(plan: Plan, output: Tensor, feedback: list[Tensor], taps: list[Tensor]) -> Tensor:
    """Pass the output through the node.

    Args:
        plan: What is delivered to whom.
        output: The tensor at which the error is taken.
        feedback: A matrix `[C, D]` for each receiver without a projection.
        taps: The activations at the feedback points, one for each receiver.

    Returns:
        The output, now the root of every layer's teaching signal.
    """
    result: Tensor = Broadcast.apply(plan, len(feedback), output, *feedback, *taps)  # type: ignore[no-untyped-call]
    return result
