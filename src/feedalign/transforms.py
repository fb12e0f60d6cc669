"""What surrounds a running forward: function transforms, a backward pass, compiled code.

Torch has no public way to ask; each question is asked in one place, here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from feedalign.errors import CheckpointingError, ExportError

_dynamo = torch._C._dynamo.eval_frame
_Function = TypeVar("_Function", bound=Callable[..., object])


def inside_transform() -> bool:
    """Whether a `torch.func` transform (vmap, grad, ...) is running: values cannot be looked at."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_plain() -> bool:
    """Whether what runs is neither being compiled nor transformed."""
    return not torch.compiler.is_compiling() and not inside_transform()


def is_watched() -> bool:
    """Whether somebody sees every operation that runs, as `make_fx` does to write a program down."""
    return torch._C._len_torch_dispatch_stack() > 0


def outside_batched_gradients() -> AbstractContextManager[None]:
    """Let random numbers be drawn inside `torch.autograd.grad(is_grads_batched=True)`, which refuses them."""
    key = torch._C._parse_dispatch_key("VmapMode")
    assert key is not None
    guard: AbstractContextManager[None] = torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key))
    return guard


def forget_compiled_code() -> None:
    """Throw compiled code away: torch does not notice hooks that come or go, and would run on without the rule."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def runs_eagerly(function: _Function) -> _Function:
    """Let a function and all it calls run as they are when compiled code meets them.

    What `torch.compiler.disable` does, without its import of Dynamo, which takes seconds.

    Args:
        function: The function.

    Returns:
        The same function.
    """
    skip = _dynamo._FrameAction.SKIP
    _dynamo.set_code_exec_strategy(getattr(function, "__code__"), _dynamo._FrameExecStrategy(skip, skip))  # noqa: B009
    return function


def refuse_export() -> None:
    """Raise ExportError if the model that runs is being exported, or traced.

    Raises:
        ExportError: It is: what the rule does would become a part of the program, and what it can learn would not.
    """
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None:
        raise ExportError(
            "The model is being exported with its rule attached: the program would hold the feedback and what the rule "
            "draws, and could not be trained. Remove the rule first with handle.remove(), or export under "
            "torch.no_grad(), where the rule stands aside."
        )


def inside_compiled() -> bool:
    """Whether code is being compiled, or runs eagerly inside a call that torch.compile covers, fallen back from it."""
    if torch.compiler.is_compiling():
        return True
    # Dynamo is told to let the question run as it is: it would warn that it cannot trace it.
    leave_alone = _dynamo._FrameExecStrategy(_dynamo._FrameAction.SKIP, _dynamo._FrameAction.DEFAULT)
    _dynamo.set_code_exec_strategy(_is_dynamo_listening.__code__, leave_alone)
    return _is_dynamo_listening()


def _is_dynamo_listening() -> bool:
    callback = _dynamo.get_eval_frame_callback()
    return callback is not None and callback is not False


def keeps_apart() -> bool:
    """Whether what a forward saves for its backward is handed to someone, as activation checkpointing asks for."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def inside_checkpointing() -> bool:
    """Whether activation checkpointing (not re-entrant) will run again what runs now."""
    hooks: object = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return isinstance(hooks, tuple) and getattr(hooks[0], "__qualname__", "").startswith("_checkpoint_hook.")


def node_of(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    """Put a node into the graph; where nothing is compiled or transformed without what torch looks up for these.

    In a small network that takes longer than the node's own work: `Function.apply` binds the arguments to the
    signature of `forward` anew at every call.

    Args:
        function: The node's class, with a `setup_context` of its own.
        arguments: Of its `forward`, all in order.

    Returns:
        What its `forward` returns.
    """
    apply = super(torch.autograd.Function, function).apply if is_plain() else function.apply  # type: ignore[misc]
    made: Tensor = apply(*arguments)
    return made


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for a batch of them under `torch.func.vmap`, so that its values cannot be looked at."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def inside_backward() -> bool:
    """Whether a backward pass is running, as it is while activation checkpointing recomputes; False when compiling."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def refuse_reentrant_checkpointing(module: str) -> None:
    """Raise CheckpointingError if a module that runs without gradients does so inside re-entrant checkpointing.

    Args:
        module: The module's name.

    Raises:
        CheckpointingError: It does.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise CheckpointingError(
                f"{module!r} runs inside re-entrant activation checkpointing, which hides it from any rule; use "
                "torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        frame = frame.f_back
