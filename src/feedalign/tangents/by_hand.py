"""Tangents carried by hand: hooks compute each module's directional derivative beside its forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from feedalign.errors import PointNotFiredError
from feedalign.pushforward import DROPOUTS, own_term_of, pushforward_of
from feedalign.pushforward.pooling import taken_at
from feedalign.removable import Removable
from feedalign.tangents.carrier import CallKey, Carrier
from feedalign.tangents.path import Path
from feedalign.transforms import is_plain, refuse_reentrant_checkpointing


class Carried(NamedTuple):
    """What left a call: its tangent (None: zero), and marks of the value that flows on (None: it has none to tell)."""

    tangent: Tensor | None
    marks: Marks | None


class Marks(NamedTuple):
    """By what a tensor is known again, without keeping it alive."""

    address: int
    version: int
    layout: tuple[int, ...]

    @staticmethod
    def of(value: Tensor) -> Marks | None:
        """Return them; None in code that is compiled or transformed."""
        if not is_plain():
            return None
        return Marks(value.data_ptr(), value._version, (*value.shape, *value.stride()))

    def fit(self, value: Tensor, *, is_reshaped: bool, is_changed: bool) -> bool:
        """Tell whether a tensor that arrives is this one.

        Args:
            value: What arrives.
            is_reshaped: It may have been reshaped, and so perhaps copied, on the way.
            is_changed: The module that takes it has already changed it in place.
        """
        found = Marks.of(value)
        if found is None:
            return True
        if is_reshaped and found.address != self.address:
            return True  # a copy
        is_fresh = is_changed or found.version == self.version
        return is_fresh and found.address == self.address and (is_reshaped or found.layout == self.layout)


class HandCarrier(Carrier):
    """Keeps tangents in a table by call.

    Args:
        path: The calls that tangents pass.
        num_perturbations: K.
        cuts: The graph is cut after every call, because no gradient runs through it.
    """

    def __init__(self, path: Path, num_perturbations: int, cuts: bool) -> None:
        self.path, self.num_perturbations, self.cuts = path, num_perturbations, cuts
        self.num_takers = Counter([*path.sources.values(), path.at_output])
        self._forget({})

    def _forget(self, directions: Mapping[str, Tensor]) -> None:
        self.directions = dict(directions)
        self.table: dict[CallKey, Carried] = {}
        self.counts: dict[str, int] = {}
        self.num_taken: dict[CallKey, int] = {}
        self.is_running = False

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no tensors of a running forward."""
        return {**self.__dict__, "directions": {}, "table": {}, "counts": {}, "num_taken": {}, "is_running": False}

    def begin(self, directions: Mapping[str, Tensor]) -> None:
        """See `Carrier`."""
        self._forget(directions)
        self.is_running = True

    def end(self) -> None:
        """See `Carrier`."""
        self._forget({})

    def arrive(self, call: CallKey, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Carrier`."""
        if call in self.path.marks:
            return activation, self.taken(call, activation)
        carried = self.table.get(call)
        return activation, None if carried is None else carried.tangent

    def leave(self, call: CallKey, activation: Tensor, tangent: Tensor | None) -> Tensor:
        """See `Carrier`."""
        self.table[call] = Carried(tangent, Marks.of(activation))
        return activation

    def reach_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Carrier`."""
        return output, self._taken_from(self.path.at_output, output, None)

    def taken(self, call: CallKey, value: Tensor, *, is_changed: bool = False) -> Tensor | None:
        """Return the tangent of what comes into a call, `[K * N, ...]`; it may have been changed in place by it."""
        source = self.path.sources.get(call)
        return None if source is None else self._taken_from(source, value, call, is_changed=is_changed)

    def _taken_from(
        self, source: CallKey, value: Tensor, taker: CallKey | None, *, is_changed: bool = False
    ) -> Tensor | None:
        carried = self.table.get(source)
        is_reshaped = taker in self.path.reshaped
        is_lost = carried is None or (
            carried.marks is not None and not carried.marks.fit(value, is_reshaped=is_reshaped, is_changed=is_changed)
        )
        if carried is None or is_lost:
            raise PointNotFiredError(
                f"This forward took another path than the one on the example inputs: what {source[0]!r} returned did "
                "not arrive, as it was, where its tangent was to go. Attach with example inputs that take the same "
                "path; layers that are replaced, and hooks and operations that change activations, must be there "
                "before attach(). If a trainer converts the model's output, as mixed precision does, name the module "
                "that makes it: attach(..., output=...)."
            )
        # The last taker takes it away: a tangent lives no longer than it is needed.
        self.num_taken[source] = self.num_taken.get(source, 0) + 1
        if self.num_taken[source] == self.num_takers[source]:
            del self.table[source]
        if carried.tangent is None:
            return None
        tangent, shape = carried.tangent, (self.num_perturbations * value.shape[0], *value.shape[1:])
        return tangent if tangent.shape == shape else tangent.reshape(shape)


class CarryHook:
    """The hooks on one module that tangents pass.

    Args:
        carrier: The carrier.
        name: The module's name.
        own_names: Its own names of its perturbed parameters, by the names under which their directions are drawn.
    """

    def __init__(self, carrier: HandCarrier, name: str, own_names: Mapping[str, str]) -> None:
        self.carrier, self.name, self.own_names = carrier, name, dict(own_names)

    def set_on(self, module: nn.Module) -> list[Removable]:
        """Register the hooks."""
        return [module.register_forward_hook(self.leave)]

    @property
    def is_running(self) -> bool:
        """Whether a tangent is on its way."""
        return self.carrier.is_running and torch.is_grad_enabled()

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: compute the tangent of what the module returned."""
        carrier = self.carrier
        if not self.is_running:
            if carrier.is_running and not torch.compiler.is_compiling():
                refuse_reentrant_checkpointing(self.name)
            return None
        index = carrier.counts.get(self.name, 0)
        carrier.counts[self.name] = index + 1
        call = (self.name, index)
        if call not in carrier.path.sources:
            return None
        if not args:
            raise PointNotFiredError(
                f"{self.name!r} was called with keywords in this forward, and not so on the example inputs; call it "
                "alike."
            )
        tangent = carrier.taken(call, args[0], is_changed=output is args[0])
        has_own_term = bool(carrier.directions and self.own_names)
        if tangent is not None or has_own_term:
            with torch.no_grad():
                if tangent is not None:
                    tangent = self.pushed(module, args[0].detach(), output.detach(), tangent)
                if has_own_term:
                    tangent = self._with_own_term(module, args[0], output, tangent)
        if carrier.cuts:
            output = output.detach()
        carrier.table[call] = Carried(tangent, Marks.of(output))
        return output

    def pushed(self, module: nn.Module, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
        """Return the tangent behind the module, `[K * N, ...]`."""
        push = pushforward_of(module)
        assert push is not None
        return push(module, source, output, tangent)

    def _with_own_term(self, module: nn.Module, source: Tensor, output: Tensor, tangent: Tensor | None) -> Tensor:
        own_term = own_term_of(module)
        assert own_term is not None
        terms = []
        for k in range(self.carrier.num_perturbations):
            directions = {own: self.carrier.directions[name][k] for name, own in self.own_names.items()}
            terms.append(own_term(module, source.detach(), output.detach(), directions))
        term = torch.cat(terms) if len(terms) > 1 else terms[0]
        return term if tangent is None else tangent + term


class DropoutHook(CarryHook):
    """Reads the mask of dropout by handing it ones; no other number is drawn than without it."""

    source: Tensor | None = None
    mask: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies carry no tensors of a running forward."""
        return {**self.__dict__, "source": None, "mask": None}

    def set_on(self, module: nn.Module) -> list[Removable]:
        """Register the hooks."""
        return [module.register_forward_pre_hook(self.enter), *super().set_on(module)]

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Pre-hook: of ones, dropout returns its mask."""
        self.source = args[0] if self.is_running and module.training else None
        return None if self.source is None else (torch.ones_like(args[0]), *args[1:])

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: drop, and compute the tangent."""
        if self.source is None:
            return super().leave(module, args, output)
        source, self.source, self.mask = self.source, None, output
        dropped = super().leave(module, (source,), source * output)
        self.mask = None
        return dropped

    def pushed(self, module: nn.Module, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
        """See `CarryHook`."""
        del module, output
        if self.mask is None:
            return tangent
        shape = (self.carrier.num_perturbations, *source.shape)
        return (tangent.reshape(shape) * self.mask).flatten(0, 1)


class MaxPoolHook(CarryHook):
    """Has max pooling return the places of its maxima too, instead of looking for them a second time."""

    places: Tensor | None = None
    has_asked = False

    def __getstate__(self) -> dict[str, Any]:
        """Copies carry no tensors of a running forward."""
        return {**self.__dict__, "places": None, "has_asked": False}

    def set_on(self, module: nn.Module) -> list[Removable]:
        """Register the hooks; no other is to see the places, nor an error to leave the module changed."""
        return [
            module.register_forward_pre_hook(self.enter),
            module.register_forward_hook(self.leave, prepend=True, always_call=True),
        ]

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Pre-hook: ask for the places."""
        del args
        if self.is_running and not torch.compiler.is_compiling():
            module.return_indices, self.has_asked = True, True  # type: ignore[assignment]

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Forward hook: keep the places and compute the tangent."""
        if self.has_asked:
            module.return_indices, self.has_asked = False, False  # type: ignore[assignment]
            if isinstance(output, tuple):
                output, self.places = output
        if not isinstance(output, Tensor):
            return None  # the module raised an error
        left = super().leave(module, args, output)
        self.places = None
        return output if left is None else left

    def pushed(self, module: nn.Module, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
        """See `CarryHook`."""
        if self.places is None:
            return super().pushed(module, source, output, tangent)
        return taken_at(2 if isinstance(module, nn.MaxPool2d) else 3, self.places, tangent, output)


def hook_for(carrier: HandCarrier, name: str, module: nn.Module, own_names: Mapping[str, str]) -> CarryHook:
    """Return the hooks for a module."""
    kind = CarryHook
    if isinstance(module, DROPOUTS):
        kind = DropoutHook
    elif isinstance(module, (nn.MaxPool2d, nn.MaxPool3d)):
        kind = MaxPoolHook
    return kind(carrier, name, own_names)
