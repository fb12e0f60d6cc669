"""Tangents carried as torch's dual tensors: for every model whose operations have forward-mode derivatives."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from feedalign.errors import CheckpointingError, CompiledModelError, ForwardModeError
from feedalign.nested import named_tensors
from feedalign.tangents.carrier import CallKey, Carrier
from feedalign.transforms import inside_checkpointing, inside_compiled, inside_transform

# Torch numbers nested levels; it allows one.
_LEVEL = 0


class DualCarrier(Carrier):
    """Joins tangents to the activations themselves.

    Args:
        model: The model.
        why: Why tangents are not carried by hand.
    """

    def __init__(self, model: nn.Module, why: str) -> None:
        _import_quietly()
        self.model, self.why = model, why
        self.is_running = False
        self.replaced: list[tuple[dict[str, Any], str, nn.Parameter]] = []

    def __getstate__(self) -> dict[str, Any]:
        """A copy taken inside a forward starts one of its own."""
        if self.replaced:
            raise ForwardModeError(
                "The model is copied inside its own forward, where its perturbed parameters stand in the places of the "
                "true ones. Copy it between two forwards."
            )
        return {**self.__dict__, "is_running": False}

    def begin(self, directions: Mapping[str, Tensor]) -> None:
        """See `Carrier`.

        Args:
            directions: See there.

        Raises:
            CompiledModelError: The model runs compiled, where torch loses tangents without a word.
            ForwardModeError: The forward runs inside another forward-mode derivative or function transform.
        """
        self.end()
        self._refuse_compiled()
        if inside_transform() or forward_ad._current_level >= 0:
            raise ForwardModeError(
                f"Tangents travel as dual tensors in this model, because {self.why}; they cannot be used inside a "
                "torch.func transform or another forward-mode derivative."
            )
        forward_ad.enter_dual_level()
        self.is_running = True
        for name, direction in directions.items():
            owner, _, own = name.rpartition(".")
            parameter = self.model.get_submodule(owner)._parameters[own]
            assert parameter is not None
            self._replace(parameter, forward_ad.make_dual(parameter.detach(), direction[0]))

    def _refuse_compiled(self) -> None:
        if inside_compiled():
            raise CompiledModelError(
                f"Tangents travel as dual tensors in this model, because {self.why}; compiled code loses them. Run it, "
                "and every part of it, without torch.compile, or use modules whose tangents are carried by hand (see "
                "handle.describe())."
            )

    def _replace(self, parameter: nn.Parameter, dual: Tensor) -> None:
        """Put a dual tensor in the place of a parameter wherever it stands, as tied weights stand in two places."""
        for module in self.model.modules():
            held: dict[str, Any] = module._parameters
            for own, found in list(held.items()):
                if found is parameter:
                    self.replaced.append((held, own, parameter))
                    held[own] = dual

    def end(self) -> None:
        """See `Carrier`."""
        for held, own, parameter in self.replaced:
            held[own] = parameter
        self.replaced = []
        if self.is_running:
            self.is_running = False
            forward_ad.exit_dual_level(level=_LEVEL)

    def arrive(self, call: CallKey, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Carrier`."""
        # A part of the model may be compiled on its own.
        self._refuse_compiled()
        self.refuse_checkpointing(call[0], activation)
        return split(activation)

    def refuse_checkpointing(self, module: str, output: Tensor) -> None:
        """Raise if activation checkpointing will run again what made a tangent, where there is no tangent any more.

        Args:
            module: The module's name.
            output: What it returned.

        Raises:
            CheckpointingError: It will; torch would notice in the backward that other tensors are saved.
        """
        if not inside_checkpointing():
            return
        tangent = forward_ad.unpack_dual(output).tangent
        if tangent is not None and tangent.requires_grad:
            raise CheckpointingError(
                f"Tangents travel as dual tensors in this model, because {self.why}; on their way to {module!r} more "
                "is saved for the backward than activation checkpointing would save again. Leave checkpointing out, "
                "or use modules whose tangents are carried by hand (see handle.describe())."
            )

    def leave(self, call: CallKey, activation: Tensor, tangent: Tensor | None) -> Tensor:
        """See `Carrier`."""
        del call
        self._refuse_compiled()
        # A copy: who changes the activation in place changes its tangent too, and the perturbation is needed again.
        return activation if tangent is None else forward_ad.make_dual(activation, tangent.clone())

    def reach_output(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Carrier`."""
        return split(output)


class DualHook:
    """Forward hook of a layer that tangents pass: a part without feedback points may be checkpointed, too."""

    def __init__(self, carrier: DualCarrier, layer: str) -> None:
        self.carrier, self.layer = carrier, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Look at what the layer returned."""
        del module, args
        if self.carrier.is_running and not torch.compiler.is_compiling():
            for _, tensor in named_tensors(output):
                self.carrier.refuse_checkpointing(self.layer, tensor)


def _import_quietly() -> None:
    """Import what torch imports at the first dual tensor: a deprecation warning of its own would be an error there."""
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        import torch._decomp.decompositions_for_jvp  # noqa: F401


def split(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the value of a dual tensor and its tangent without a graph."""
    value, tangent = forward_ad.unpack_dual(tensor)
    return value, None if tangent is None else tangent.detach()
