"""One forward of a training step, noted so that it can be run again without the rule, and the error that came to it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from feedalign.errors import MonitorError
from feedalign.nested import named_tensors
from feedalign.store import FeedbackStore


@dataclass
class RandomStates:
    """All random streams that a forward may draw from."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    python: Any
    numpy: Any

    @classmethod
    def now(cls, model: nn.Module) -> RandomStates:
        """Return the states of the CPU, the model's devices, Python and numpy."""
        devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
        cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
        return cls(torch.get_rng_state(), cuda, random.getstate(), np.random.get_state())  # noqa: NPY002

    def put_back(self) -> None:
        """Set the streams to these states."""
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002


@dataclass(frozen=True)
class Autocast:
    """Mixed precision as it is set for one kind of device."""

    device: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def now(cls, model: nn.Module) -> list[Autocast]:
        """Return the settings for the CPU and the model's devices."""
        kinds = sorted({"cpu", *(p.device.type for p in model.parameters())} - {"meta"})
        return [cls(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]


@dataclass(eq=False)
class Forward:
    """One forward of the user's.

    Attributes:
        args: What the model was called with; copies, since a model may change its inputs in place.
        kwargs: The same, by keyword.
        buffers: Copies of the model's buffers but the feedback, as they were before the forward.
        random_states: As they were before the forward.
        precision: Mixed precision at the forward.
        calls: How often each watched module has fired so far.
        errors: dL/d(tensor) of what the model returned, by name, from the loss alone.
        norms: Norms of the tensors it returned, by name.
        is_differentiated_twice: The backward was itself made to be differentiated.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    buffers: dict[str, Tensor]
    random_states: RandomStates
    precision: list[Autocast]
    calls: dict[str, int] = field(default_factory=dict)
    errors: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    is_differentiated_twice: bool = False

    @classmethod
    def begin(cls, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Forward:
        """Note a forward that is about to run."""
        held = {name for name, module in model.named_modules() if isinstance(module, FeedbackStore)}
        buffers = {n: b.clone() for n, b in model.named_buffers() if n.rpartition(".")[0] not in held}
        copied_args, copied_kwargs = with_tensors((args, dict(kwargs)), _copied)
        return cls(copied_args, copied_kwargs, buffers, RandomStates.now(model), Autocast.now(model))

    def watch(self, returned: object) -> Any:
        """Return what the model returned, with tensors that tell which error the loss sends to each of them.

        They are other tensors of the same values: an error that comes to one of them by way of another, as that of the
        logits does where the model returns its loss too, must not be counted twice.
        """
        seen: dict[int, Tensor] = {}

        def watched(name: str, tensor: Tensor) -> Tensor:
            if not tensor.requires_grad or tensor.is_leaf:
                return tensor
            if id(tensor) not in seen:
                self.norms[name] = _norm(tensor)
                seen[id(tensor)] = _Listen.apply(self, name, tensor)  # type: ignore[no-untyped-call]
            return seen[id(tensor)]

        return with_tensors(returned, watched)

    def again(self, model: nn.Module) -> dict[str, Tensor]:
        """Run the forward again; whoever calls puts the random states back afterwards.

        Args:
            model: The model.

        Returns:
            The tensors that it returned, by name.
        """
        with ExitStack() as stack:
            for one in self.precision:
                stack.enter_context(torch.autocast(one.device, one.dtype, one.enabled))
            self.random_states.put_back()
            buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
            returned = functional_call(model, buffers, self.args, self.kwargs)
        found = dict(named_tensors(returned))
        for name, error in self.errors.items():
            if name not in found or found[name].shape != error.shape:
                shape = tuple(found[name].shape) if name in found else "nothing"
                raise MonitorError(
                    f"Run again for backprop's gradient, the model returned {shape} where it had returned a tensor of "
                    f"shape {tuple(error.shape)}: its forward depends on more than its inputs, buffers and the random "
                    "states of torch, numpy and Python, and cannot be monitored."
                )
        return found

    def replay_error(self, found: Mapping[str, Tensor]) -> float:
        """Return how far the norms of what came back the second time are from the first, relatively."""
        worst = 0.0
        for name in self.errors:
            first, second = float(self.norms[name]), float(_norm(found[name]))
            # A nan twice is no difference.
            if not (first == second or (first != first and second != second)):
                worst = max(worst, abs(second - first) / max(abs(first), 1e-30))
        return worst


class _Listen(torch.autograd.Function):
    """Identity; its backward notes the error."""

    @staticmethod
    def forward(ctx: Any, to: Forward, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        ctx.to, ctx.name = to, name
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[None, None, Tensor]:
        """Return the error."""
        add(ctx.to.errors, ctx.name, error)
        # So it is under create_graph=True alone.
        ctx.to.is_differentiated_twice |= torch.is_grad_enabled()
        return None, None, error


def add(kept: dict[Any, Tensor], key: object, gradient: Tensor) -> None:
    """Add a copy of a gradient to what is kept under a key: it may become `.grad`, which others change in place."""
    gradient = gradient.detach()
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    kept[key] = kept[key] + gradient if key in kept else gradient.clone()


def _norm(tensor: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(tensor.detach(), dtype=torch.promote_types(tensor.dtype, torch.float32))
    return found


def _copied(name: str, tensor: Tensor) -> Tensor:
    del name
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def with_tensors(whole: Any, change: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """Return what a module takes or returns with other tensors in it; named as by `named_tensors`.

    Args:
        whole: A tensor, or tuples, lists, mappings and dataclasses of tensors; anything else stays as it is.
        change: Called with each tensor and its name.
        name: Name of the whole.

    Returns:
        The same kind of thing; the very same object where no tensor in it was changed.
    """
    if isinstance(whole, Tensor):
        return change(name, whole)
    parts: dict[Any, Any] = {}
    if isinstance(whole, Mapping):
        parts = dict(whole)
    elif isinstance(whole, (tuple, list)):
        parts = dict(zip(getattr(whole, "_fields", range(len(whole))), whole, strict=True))
    elif is_dataclass(whole) and not isinstance(whole, type):
        parts = {one.name: getattr(whole, one.name) for one in fields(whole)}
    made = {}
    for key, part in parts.items():
        place = f"[{key}]" if isinstance(key, int) else f".{key}" if name else str(key)
        made[key] = with_tensors(part, change, name + place)
    if all(made[key] is part for key, part in parts.items()):
        return whole
    return _rebuilt(whole, made)


def _rebuilt(whole: Any, parts: dict[Any, Any]) -> Any:
    if hasattr(whole, "_fields"):
        return type(whole)(*parts.values())
    if isinstance(whole, (tuple, list)):
        return type(whole)(parts.values())
    made = copy.copy(whole)
    for key, part in parts.items():
        if isinstance(whole, Mapping):
            made[key] = part
        else:
            object.__setattr__(made, key, part)
    return made


@contextmanager
def random_states_kept(model: nn.Module) -> Iterator[None]:
    """Put all random streams back at the end."""
    states = RandomStates.now(model)
    try:
        yield
    finally:
        states.put_back()
