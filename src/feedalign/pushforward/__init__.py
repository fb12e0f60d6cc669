"""Directional derivatives of one call of a module, written by hand: a tangent beside the forward pass.

Most cost about as much as the module's own forward; none needs a graph or dual tensors, and all can be compiled.
Modules that are not known give None; their callers fall back on `torch.autograd.forward_ad`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from feedalign.linear_like import is_transformers_conv1d
from feedalign.pushforward.activations import ACTIVATIONS, UNKNOWN_WHEN
from feedalign.pushforward.directions import Pushforward
from feedalign.pushforward.linear import LINEAR, transformers_conv1d
from feedalign.pushforward.normalization import NORMALIZATIONS
from feedalign.pushforward.own import OWN_TERMS, TRANSFORMERS_CONV1D, OwnTerm
from feedalign.pushforward.pooling import MAX_POOLING

__all__ = ["DROPOUTS", "OwnTerm", "Pushforward", "own_term_of", "pushforward_of"]

_PUSHFORWARDS = {**ACTIVATIONS, **LINEAR, **MAX_POOLING, **NORMALIZATIONS}

DROPOUTS: tuple[type[nn.Module], ...] = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Modules whose mask, drawn during the call, is to be read off source and output: no pushforward is given for them."""

# Parametrizations that give the same weight at each reading. Spectral norm moves its buffers at each reading in
# training, and a user's own may draw noise.
_REPEATABLE = (parametrizations._WeightNorm, parametrizations._Orthogonal)

_Known = TypeVar("_Known")


def pushforward_of(module: nn.Module) -> Pushforward | None:
    """Return the directional derivative of a module's calls.

    Args:
        module: The module, in the mode (training or evaluation) of the call.

    Returns:
        `(module, source x [N, ...], output y [N, ...], tangent dx [K*N, ...]) -> dy [K*N, ...]`, with K >= 1
        directions one after the other in the batch, or None for a module that is not known: of another type, a
        subclass with a forward of its own, random in this mode, or in place in a way that loses the slope. It never
        writes to its arguments, to buffers or to the generators; dy may be a view of dx.
    """
    kind = _kind(module, _PUSHFORWARDS)
    if kind is None:
        return transformers_conv1d if is_transformers_conv1d(module) and _keeps_its_forward(module) else None
    if getattr(module, "return_indices", False) or not _weight_is_repeatable(module):
        return None
    unknown_when = UNKNOWN_WHEN.get(kind)
    return None if unknown_when is not None and unknown_when(module) else _PUSHFORWARDS[kind]


def own_term_of(module: nn.Module) -> OwnTerm | None:
    """Return the tangent that a change of a module's own parameters, `weight` and `bias`, makes at its output.

    Args:
        module: The module.

    Returns:
        `(module, source x [N, ...], output y [N, ...], directions) -> dy [N, ...]`, see `OwnTerm`, or None for a
        module that is not known or whose weight is made from other parameters.
    """
    if not module._parameters.keys() <= {"weight", "bias"} or parametrize.is_parametrized(module):
        return None
    kind = _kind(module, OWN_TERMS)
    if kind is None:
        return TRANSFORMERS_CONV1D if is_transformers_conv1d(module) and _keeps_its_forward(module) else None
    # It scales gradients by how often a row is read: the weight's gradient is then not the derivative's transpose.
    return None if getattr(module, "scale_grad_by_freq", False) else OWN_TERMS[kind]


def _kind(module: nn.Module, known: Mapping[type[nn.Module], _Known]) -> type[nn.Module] | None:
    """Return the known type whose forward the module runs."""
    if not _keeps_its_forward(module):
        return None
    for kind in type(module).__mro__:
        if kind in known:
            return kind if _runs_as(type(module), kind) else None
    return None


def _keeps_its_forward(module: nn.Module) -> bool:
    """Whether no forward has been put on the module itself, over that of its type."""
    return "forward" not in module.__dict__


def _runs_as(kind: Any, known: Any) -> bool:
    same_forward = kind.forward is known.forward
    return same_forward and getattr(kind, "_conv_forward", None) is getattr(known, "_conv_forward", None)


def _weight_is_repeatable(module: nn.Module) -> bool:
    if not parametrize.is_parametrized(module):
        return True
    return all(
        isinstance(part, _REPEATABLE)
        for parametrization in module.parametrizations.values()  # type: ignore[operator]
        for part in parametrization
    )
