"""Streaming: each layer's gradient is made the moment its activation exists, and its graph is freed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from feedalign.errors import StreamingError, TargetsError
from feedalign.ranks import inside_distributed
from feedalign.recurrent.receiver import StepReceiver
from feedalign.transforms import inside_transform

if TYPE_CHECKING:
    from feedalign.receivers import DirectReceiver


@dataclass
class Stream:
    """Targets of the coming forward, and what is needed to notice gradients that were thrown away.

    Attributes:
        num_outputs: C.
        rows: Class indices `[rows]`, or targets `[rows, C]`; None: none were given since the last forward.
        scale: The factor on each row, `[rows, 1]` or one number.
        made: The gradients that this forward has made, by parameter.
        versions: Version of each streamed gradient as the latest forward left it.
    """

    num_outputs: int
    rows: Tensor | None = None
    scale: Tensor | float = 1.0
    made: dict[nn.Parameter, weakref.ref[Tensor]] = field(default_factory=dict)
    versions: dict[nn.Parameter, int] = field(default_factory=dict)

    def give(self, targets: Tensor, scale: float | Tensor | None) -> None:
        """Take the targets of the coming forward.

        Args:
            targets: Class indices of any integer dtype, `[N]` or `[N, positions...]`, or zeros and ones
                `[..., C]` of a floating dtype.
            scale: Factor of the loss on each sample: one number, or a tensor of the shape of the indices. None:
                one over the number of rows, which is right for a cross-entropy averaged over them.

        Raises:
            TargetsError: Targets or scale are of the wrong type or shape, or outside the classes.
        """
        rows = as_rows(targets, self.num_outputs)
        if scale is not None and not isinstance(scale, (int, float, Tensor)):
            raise TargetsError(f"scale is {type(scale).__name__}; give one number or one per target, as a tensor.")
        if isinstance(scale, Tensor) and scale.dim() > 0:
            if scale.numel() != rows.shape[0]:
                raise TargetsError(
                    f"scale has {scale.numel()} entries for {rows.shape[0]} targets; give one number or one per target."
                )
            scale = scale.detach().reshape(-1, 1)
        if scale is not None and not bool(((number := torch.as_tensor(scale)) >= 0).all() and number.isfinite().all()):
            raise TargetsError("scale holds numbers below zero or not finite; it is the loss's factor on each sample.")
        self.scale = 1.0 / max(rows.shape[0], 1) if scale is None else scale
        self.rows = rows

    def begin(self) -> None:
        """Check that this forward has targets and can stream at all."""
        if self.rows is None:
            raise TargetsError(
                "No targets for this forward: call handle.targets(y) before every training forward, or "
                "handle.targets(None) to go back to learning from the error; a forward that is not to learn, as in "
                "evaluation, runs under torch.no_grad()."
            )
        if inside_transform():
            raise StreamingError(
                "Streaming makes gradients inside the forward, which torch.func transforms cannot see; call "
                "handle.targets(None) and let the rule learn from the error."
            )
        if inside_distributed():
            raise StreamingError(
                "Streaming makes gradients inside the forward, before DistributedDataParallel averages them over "
                "ranks; call handle.targets(None) and let the rule learn from the error."
            )

    def teach(
        self,
        receiver: DirectReceiver,
        activation: Tensor,
        feedback: Tensor | None,
        valid: Tensor | None = None,
        clock: Tensor | None = None,
    ) -> None:
        """Differentiate one block with its teaching signal `-scale * Y @ feedback` and free its graph.

        Args:
            receiver: The feedback point.
            activation: Its activation, still with its graph.
            feedback: What is held for it; None where a projection stands for it.
            valid: Which steps of a sequence count, `[N, T]`; None: all.
            clock: Seed and count of the forward, for rules whose limits draw.

        Raises:
            TargetsError: There are not as many targets as the activation has rows.
        """
        assert self.rows is not None
        with torch.no_grad():
            signal = receiver.received(self.signal(receiver, activation, feedback, valid), clock)
        torch.autograd.backward(activation, signal)

    def note(self, parameters: Sequence[nn.Parameter]) -> None:
        """Remember the gradients that were made, to notice if they are thrown away."""
        for parameter in parameters:
            if parameter.grad is not None:
                self.made[parameter] = weakref.ref(parameter.grad)
                self.versions[parameter] = parameter.grad._version

    def signal(
        self, receiver: DirectReceiver, activation: Tensor, feedback: Tensor | None, valid: Tensor | None = None
    ) -> Tensor:
        """Return the teaching signal of an activation; arguments as for `teach`."""
        self._refuse_uneven(receiver, tuple(activation.shape))
        assert self.rows is not None
        if isinstance(receiver, StepReceiver) and receiver.sums_steps:
            sums = self.sums(receiver, tuple(activation.shape), activation.dtype, valid)
            return receiver.project(sums, feedback, activation.shape, activation.dtype)
        if feedback is not None and self.rows.dim() == 1:
            rows, matrix = self.rows.to(feedback.device), receiver.own(receiver.used(feedback))
            if isinstance(self.scale, Tensor) or matrix.shape[0] > rows.shape[0]:
                picked = matrix.index_select(0, rows).mul_(-self.scale)
            else:
                # Scaling C rows and then picking N of them writes the large tensor once.
                picked = (matrix * -self.scale).index_select(0, rows)
            return receiver.placement.deliver(picked.to(activation.dtype), activation.shape)
        vector = self._targets(activation.dtype) * -self.scale
        return receiver.signal(vector, feedback, activation.shape, activation.dtype)

    def sums(
        self, receiver: StepReceiver, shape: tuple[int, ...], dtype: torch.dtype, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return what targets of single steps send to a recurrent layer, before projection; see `StepReceiver.sums`.

        Args:
            receiver: The layer's feedback point.
            shape: Of the layer's states, `[N, T, D]`.
            dtype: Their dtype.
            valid: Which steps count, `[N, T]`; None: all.
        """
        self._refuse_uneven(receiver, shape)
        vector = self._targets(dtype) * -self.scale
        laid = vector.reshape(*receiver.as_output(shape)[:2], self.num_outputs)
        return receiver.sums(receiver.aligned(laid), valid)

    def _targets(self, dtype: torch.dtype) -> Tensor:
        """Targets `[rows, C]`."""
        assert self.rows is not None
        targets = self.rows if self.rows.dim() > 1 else nn.functional.one_hot(self.rows, self.num_outputs)
        return targets.to(dtype)

    def _refuse_uneven(self, receiver: DirectReceiver, shape: tuple[int, ...]) -> None:
        assert self.rows is not None
        num_rows = receiver.placement.num_rows(shape)
        if self.rows.shape[0] != num_rows:
            raise TargetsError(
                f"{self.rows.shape[0]} targets were given, but feedback point {receiver.point!r} has {num_rows} rows "
                f"(activation of shape {shape}): one target for each is needed."
            )

    def end(self, output: Tensor) -> None:
        """Forget the targets; at the output's backward, look whether the streamed gradients are still there."""
        self.rows = None
        made, self.made = self.made, {}
        if output.requires_grad and made:
            output.register_hook(_LossDetector(made, self.versions))


class _LossDetector:
    """Tensor hook that notices `zero_grad()` between the forward and the backward."""

    def __init__(self, made: dict[nn.Parameter, weakref.ref[Tensor]], versions: dict[nn.Parameter, int]) -> None:
        self.made, self.versions = made, versions

    def __call__(self, error: Tensor) -> None:
        del error
        for parameter, made in self.made.items():
            grad = parameter.grad
            # Gone or another tensor: zero_grad(). The same, changed since and all zero: zero_grad(set_to_none=False).
            if grad is None or made() is not grad or self._was_zeroed(grad, self.versions[parameter]):
                raise StreamingError(
                    "Gradients that streaming made in the forward were thrown away before the optimizer saw them: call "
                    "optimizer.zero_grad() before the forward, not between the forward and loss.backward()."
                )

    @staticmethod
    def _was_zeroed(grad: Tensor, version: int) -> bool:
        return grad._version != version and not bool(grad.any())


def as_rows(targets: object, num_outputs: int) -> Tensor:
    """Check targets and flatten them to class indices `[rows]` or to `[rows, C]`.

    Args:
        targets: As given to `Handle.targets`.
        num_outputs: C.

    Returns:
        The flattened targets.

    Raises:
        TargetsError: They are of the wrong type or shape, or outside the classes.
    """
    if not isinstance(targets, Tensor):
        raise TargetsError(
            f"Targets are {type(targets).__name__}; give a tensor of class indices or of zeros and ones."
        )
    targets = targets.detach()
    if targets.is_floating_point() and targets.numel() and not bool(((targets >= 0) & (targets <= 1)).all()):
        raise TargetsError(
            f"Targets of {targets.dtype} run from {float(targets.min()):g} to {float(targets.max()):g}; give class "
            "indices of an integer dtype, or zeros and ones (fractions between them count as soft targets)."
        )
    if targets.is_floating_point() or targets.dtype == torch.bool:
        if num_outputs == 1:
            return targets.reshape(-1, 1)
        if targets.dim() < 2 or targets.shape[-1] != num_outputs:
            raise TargetsError(
                f"Targets of shape {tuple(targets.shape)} and dtype {targets.dtype} do not fit {num_outputs} "
                f"outputs: give class indices (an integer dtype) or zeros and ones of shape [..., {num_outputs}]."
            )
        return targets.flatten(0, -2)
    rows = targets.reshape(-1).long()
    last = max(num_outputs - 1, 1)
    if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) > last):
        raise TargetsError(
            f"Targets run from {int(rows.min())} to {int(rows.max())}, but the output has classes 0 to {last}. "
            "To leave samples out, give any valid class and a scale of 0 for them."
        )
    return rows if num_outputs > 1 else rows.unsqueeze(-1)
