"""Layer-wise feedback: the input gradient of a layer, made with a feedback weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from feedalign.errors import CheckpointingError, ExampleInputsError
from feedalign.hooks import refuse_outside
from feedalign.linear_like import Adjoint, forward_weight
from feedalign.rules.base import LayerwiseRule
from feedalign.transforms import inside_backward, node_of

if TYPE_CHECKING:
    from feedalign.circuit import Circuit


class Reroute(torch.autograd.Function):
    """Identity on a layer's output; its backward sends the gradient to the layer's input through the feedback.

    The layer itself runs on a detached input, so the product with its true weight is never formed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(adjoint: Adjoint, output: Tensor, source: Tensor, feedback: Tensor) -> Tensor:  # noqa: ARG004
        """Return the layer's output."""
        return output.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the feedback weight and the input's shape."""
        del output
        ctx.adjoint, _, source, feedback = inputs
        ctx.shape, ctx.dtype = source.shape, source.dtype
        ctx.save_for_backward(feedback)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient to the layer, and the fed-back one to its input."""
        (feedback,) = ctx.saved_tensors
        fed_back = ctx.adjoint(grad, feedback.to(grad.dtype), ctx.shape).to(ctx.dtype)
        return None, grad, fed_back, None


class Gate:
    """The two hooks around one linear-like layer."""

    def __init__(self, circuit: Circuit, name: str, key: str, rule: LayerwiseRule, adjoint: Adjoint) -> None:
        self.circuit, self.name, self.key, self.rule, self.adjoint = circuit, name, key, rule, adjoint

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
        weight = forward_weight(module)
        feedback = self.rule.feedback_weight(weight, self.circuit.store.drawn(self.key, weight))
        return node_of(Reroute, self.adjoint, output, source, feedback)
