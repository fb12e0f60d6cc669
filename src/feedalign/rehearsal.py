"""One forward of a rule that uses dual tensors, so that operations without forward-mode derivatives show at once."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.func import functional_call

from feedalign.errors import FeedalignError, ForwardModeError
from feedalign.handle import Handle
from feedalign.probe import Inputs, as_arguments, left_as_found, training
from feedalign.removable import Removable


def rehearse(handle: Handle, example_inputs: Inputs) -> None:
    """Run the attached model once on the example inputs and leave it as it was; take the rule away if it cannot run.

    Args:
        handle: Of the attached model.
        example_inputs: As for `attach`.

    Raises:
        ForwardModeError: An operation of the model has no forward-mode derivative.
    """
    model = handle.model
    args, kwargs = as_arguments(example_inputs)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with _Innermost(model) as running:
        try:
            with left_as_found(model), torch.enable_grad(), training(model):
                functional_call(model, buffers, args, dict(kwargs))
        except (FeedalignError, Warning):
            handle.remove()
            raise
        except Exception as error:
            handle.remove()
            where = running.name
            if handle.is_gated(where):
                raise ForwardModeError(
                    f"{where!r} has layer-wise feedback, which directional derivatives cannot pass as dual tensors. "
                    "Give the layers above and below it rules that agree: direct ones, or layer-wise ones alone."
                ) from error
            kind = type(model.get_submodule(where)).__name__
            place = f"{where!r} ({kind})" if where else f"The forward of the model itself ({kind})"
            raise ForwardModeError(
                f"{place} cannot carry a directional derivative: {_first_sentence(error)} {_way_out(error)} Otherwise "
                "replace the module, or use a rule that needs no tangents, such as fa.DKP()."
            ) from error
    handle.forget_forward()


def _way_out(error: Exception) -> str:
    said = str(error)
    if "mkldnn_rnn" in said:
        return "Recurrent layers can under torch.backends.mkldnn.flags(enabled=False), at attach and in training."
    if "attention" in said:
        return (
            "Fused attention (scaled_dot_product_attention) has no forward-mode derivative, its MATH kernel has: "
            "attach and train under torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH). A model of "
            "Transformers made with attn_implementation='eager' needs no such context."
        )
    return "Torch may have other kernels for it that can."


def _first_sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


class _Innermost:
    """Knows which module is running."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.stack, self.hooks = model, [""], list[Removable]()

    @property
    def name(self) -> str:
        return self.stack[-1]

    def __enter__(self) -> Self:
        for name, module in self.model.named_modules():
            if name:
                self.hooks.append(module.register_forward_pre_hook(_Push(self.stack, name)))
                self.hooks.append(module.register_forward_hook(_Pop(self.stack)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self.hooks:
            hook.remove()


class _Push:
    def __init__(self, stack: list[str], name: str) -> None:
        self.stack, self.name = stack, name

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        del module, args
        self.stack.append(self.name)


class _Pop:
    def __init__(self, stack: list[str]) -> None:
        self.stack = stack

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        del module, args, output
        self.stack.pop()
