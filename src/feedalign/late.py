"""Gradients that arrive late: what a backward pass makes is kept, and what an earlier one made comes in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from feedalign.errors import AttachError, DelayError
from feedalign.ranks import inside_distributed, is_in_pieces
from feedalign.rules.base import DirectRule, LearnedRule
from feedalign.store import CHILD_NAME, FeedbackStore, key_of
from feedalign.transforms import inside_compiled, inside_transform

if TYPE_CHECKING:
    from feedalign.delivery import Site

_WAITING, _COUNT = "late", "late_count"
_WAY_OUT = "Attach the rule with fa.Limits(delay=0)"


class LateGradients:
    """Tensor hooks that put the gradient of an earlier backward pass in the place of each new one.

    They are set in every forward, on the parameters as they are then, so that copies of a model have their own. What
    they write into is taken in the forward too: a measurement on copies of the buffers leaves the model's alone.

    Args:
        store: Holds the gradients under way.
        delays: By name in the model, after how many backward passes each parameter's gradients arrive.
    """

    def __init__(self, store: FeedbackStore, delays: Mapping[str, int]) -> None:
        self.store, self.delays = store, dict(delays)
        self.keys: dict[str, tuple[str, str]] = {}
        self.is_paused = False
        self._hooks: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles set hooks of their own."""
        return {**self.__dict__, "_hooks": []}

    def hold(self, named: Mapping[str, nn.Parameter]) -> None:
        """Make room in the store for what will be under way."""
        taken = {key for key, _ in self.store.named_buffers()} | {key for key, _ in self.store.named_parameters()}
        for name, delay in self.delays.items():
            parameter = named[name].detach()
            waiting = key_of(f"{_WAITING}_{name}", taken)
            count = key_of(f"{_COUNT}_{name}", taken | {waiting})
            taken |= {waiting, count}
            self.keys[name] = waiting, count
            self.store.keep(waiting, torch.zeros((delay, *parameter.shape), dtype=parameter.dtype).to(parameter.device))
            self.store.keep(count, torch.zeros(1, dtype=torch.int64, device=parameter.device))

    @property
    def longest(self) -> int:
        """After how many backward passes the last of the first gradients arrives."""
        return max(self.delays.values())

    def buffers(self) -> set[str]:
        """Return the names in the store of what is under way."""
        return {key for pair in self.keys.values() for key in pair}

    def refuse(self, model: nn.Module) -> None:
        """Raise where hooks cannot hold gradients back.

        Args:
            model: The attached model.

        Raises:
            DelayError: The forward is compiled, runs under `torch.func`, or is that of one process among several.
                Code compiled with `fullgraph=True` raises torch's own error.
        """
        if inside_compiled():
            raise DelayError(
                "A delayed error is kept by hooks on the weights, outside of compiled code, so the model cannot be "
                f"compiled: run it as it is. {_WAY_OUT} to compile it."
            )
        if inside_transform():
            raise DelayError(
                "A delayed error waits from one backward pass to the next, which torch.func transforms do not know: "
                f"call loss.backward(). {_WAY_OUT} under torch.func."
            )
        if inside_distributed() or is_in_pieces(model):
            raise DelayError(
                "Each process has delayed gradients of its own under way, and buffers, which processes share, hold "
                f"them: train in one process. {_WAY_OUT} for several."
            )

    def expect(self, model: nn.Module) -> None:
        """Set the hooks for the backward passes to come."""
        self.remove()
        for name in self.delays:
            module, _, local = name.rpartition(".")
            parameter = model.get_submodule(module)._parameters.get(local)
            if parameter is None or not parameter.requires_grad:
                continue
            if not isinstance(parameter, nn.Parameter):
                raise DelayError(
                    f"{name} is not the model's own parameter in this forward, as under functional_call: gradients of "
                    f"others cannot wait for the next backward pass. {_WAY_OUT}, or run the model itself."
                )
            waiting, count = map(self.store.feedback, self.keys[name])
            self._hooks.append(parameter.register_hook(_Exchange(self, name, waiting, count)))

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Exchange:
    """Tensor hook of one parameter."""

    def __init__(self, late: LateGradients, name: str, waiting: Tensor, count: Tensor) -> None:
        self.late, self.name, self.waiting, self.count = late, name, waiting, count

    @torch.no_grad()
    def __call__(self, gradient: Tensor) -> Tensor | None:
        """Keep a gradient and return the one that is due."""
        if self.late.is_paused:
            return None
        if gradient.is_sparse:
            raise DelayError(_too_sparse(self.name))
        # A place in a ring, told without waiting for the device.
        place = self.count % len(self.waiting)
        due = self.waiting.index_select(0, place)[0]
        self.waiting.index_copy_(0, place, gradient.detach().unsqueeze(0))
        self.count.add_(1)
        return due


def delays_of(model: nn.Module, sites: Sequence[Site], at_once: Sequence[str], prefix: str) -> dict[str, int]:
    """Settle whose gradients arrive how late.

    Args:
        model: The model.
        sites: The feedback points.
        at_once: Names of the parameters that the output's own error reaches.
        prefix: Name in the model of the feedback module.

    Returns:
        Passes by name of parameter; learned feedback among them.

    Raises:
        AttachError: A parameter is taught by several errors that come at different times, or its gradient is sparse.
    """
    found: dict[str, int] = {}
    for site in sites:
        delay = site.rule.limits.delay if isinstance(site.rule, DirectRule) else 0
        for name in site.parameters:
            if found.setdefault(name, delay) != delay:
                _refuse_two_times(name, f"{found[name]} and {delay} backward passes late")
        if delay and isinstance(site.rule, LearnedRule):
            found[f"{prefix}.{site.key}"] = delay
    late = {name: delay for name, delay in found.items() if delay}
    for name in [name for name in late if name in set(at_once)]:
        _refuse_two_times(name, f"at once, and {late[name]} backward passes late")
    for module_name, module in model.named_modules():
        is_sparse = isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
        if is_sparse and (name := f"{module_name}.weight".lstrip(".")) in late:
            raise AttachError(_too_sparse(name))
    return late


def _too_sparse(name: str) -> str:
    return f"The gradient of {name} is sparse, and cannot wait: make its module sparse=False. {_WAY_OUT} to keep it so."


def _refuse_two_times(name: str, times: str) -> NoReturn:
    raise AttachError(
        f"{name} would be taught {times}, and its gradient is one sum, of which no part can wait. Cut every path to it "
        "by points of one rule (see handle.describe() without the delay), or give all rules one delay."
    )


def child_path(host: nn.Module, model: nn.Module) -> str:
    """Return the name of the feedback module in a model.

    Args:
        host: The module that will hold it.
        model: The model.
    """
    name = next(name for name, module in model.named_modules() if module is host)
    return f"{name}.{CHILD_NAME}" if name else CHILD_NAME
