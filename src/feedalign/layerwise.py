"""Layer-wise feedback: the input gradient of a layer, made with a feedback weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from feedalign.errors import CheckpointingError, ExampleInputsError
from feedalign.hooks import refuse_outside
from feedalign.linear_like import Adjoint, forward_weight
from feedalign.perturbation import magnitude
from feedalign.rules.base import LayerwiseRule
from feedalign.transforms import inside_backward, node_of

if TYPE_CHECKING:
    from feedalign.circuit import Circuit

OF_LAYERS = 2**32
"""Place at which something is drawn for the first layer; those of perturbations and limits come before."""


@dataclass(frozen=True)
class Return:
    """How an error goes back through one layer.

    Attributes:
        rule: Makes the feedback weight.
        adjoint: The product with it.
        place: Number under which something is drawn for the layer at every forward.
    """

    rule: LayerwiseRule
    adjoint: Adjoint
    place: int

    def kept(self, weight: Tensor, held: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return what the feedback weight is made of in the backward.

        Args:
            weight: The forward weight, `[out, in, ...]`.
            held: Nothing, the matrix that was drawn once, or the clock of the forward.

        Returns:
            The weight, and what is held. Of rules without weight transport the feedback itself: weights may then change
            between forward and backward.
        """
        return (weight, *held) if self.rule.weight_transport else (self._made(weight, *held),)

    def feedback(self, kept: Sequence[Tensor]) -> Tensor:
        """Return the feedback weight, of the forward weight's shape; see `kept`."""
        return self._made(*kept) if self.rule.weight_transport else kept[0]

    def _made(self, weight: Tensor, held: Tensor | None = None) -> Tensor:
        if held is not None and self.rule.redraws:
            held = magnitude(weight, held, self.place)
        return self.rule.feedback_weight(weight, held)


class Reroute(torch.autograd.Function):
    """Identity on a layer's output; its backward sends the gradient to the layer's input through the feedback.

    The layer itself runs on a detached input, so the product with its true weight is never formed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(back: Return, output: Tensor, source: Tensor, *kept: Tensor) -> Tensor:  # noqa: ARG004
        """Return the layer's output."""
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the feedback weight is made of, and the input's shape."""
        del output
        ctx.back, _, source, *kept = inputs
        ctx.shape, ctx.dtype = source.shape, source.dtype
        ctx.save_for_backward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient to the layer, and the fed-back one to its input.

        Feedback that is made of the weight is made here, one layer after the other in the same memory.
        """
        kept = ctx.saved_tensors
        feedback = ctx.back.feedback(kept).to(grad.dtype)
        fed_back = ctx.back.adjoint(grad, feedback, ctx.shape).to(ctx.dtype)
        return None, grad, fed_back, *(None for _ in kept)


class Gate:
    """The two hooks around one linear-like layer."""

    def __init__(self, circuit: Circuit, name: str, key: str, back: Return) -> None:
        self.circuit, self.name, self.key, self.back, self.rule = circuit, name, key, back, back.rule

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand the layer a detached input and keep the true one."""
        del module
        if not self.circuit.listening:
            self.circuit.refuse_hidden(self.name)
            return None
        if self.rule.redraws:
            refuse_outside(self.circuit, self.name)
        self.circuit.count(self.name)
        source = args[0] if args else kwargs.get("input")
        if not isinstance(source, Tensor):
            raise ExampleInputsError(f"Layer {self.name!r} was called without a tensor as its first argument.")
        self.circuit.sources[self.key] = source
        if args:
            return (source.detach(), *args[1:]), kwargs
        return args, {**kwargs, "input": source.detach()}

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Join the output to the true input through the feedback weight."""
        del args
        source = self.circuit.sources.pop(self.key, None)
        if source is None or not source.requires_grad:
            return None
        if self.rule.redraws and inside_backward():
            raise CheckpointingError(
                f"{type(self.rule).__name__} draws anew at every forward, and activation checkpointing runs the "
                f"forward of {self.name!r} again in the backward, with another draw. Leave checkpointing out, or use "
                "fa.FRSF()."
            )
        kept = self.back.kept(forward_weight(module), self._held())
        return node_of(Reroute, self.back, output, source, *kept)

    def _held(self) -> tuple[Tensor, ...]:
        """What the feedback weight is made of beside the weight: a matrix, the clock of the forward, or nothing."""
        store = self.circuit.store
        if self.rule.redraws:
            return (store.clock(),)
        return (store.feedback(self.key),) if self.rule.draws_feedback else ()
