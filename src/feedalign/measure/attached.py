"""What measurements are given: an attached model, a module around it, or the handle."""

from __future__ import annotations

from torch import nn

from feedalign.errors import AttachError, WrappedModelError
from feedalign.handle import Handle, handle_of
from feedalign.ranks import refuse_in_pieces
from feedalign.store import FeedbackStore


def attached(given: nn.Module | Handle) -> tuple[nn.Module, Handle]:
    """Return the model to measure, and the handle of its rule.

    Args:
        given: A model with a rule attached to it or to a part of it, or the handle.

    Returns:
        The model that was given, or the handle's own; and the handle.

    Raises:
        AttachError: It is neither, no rule is attached, several are, or the handle's rule was removed.
        WrappedModelError: The model is sharded, or wrapped in DataParallel.
    """
    model, handle = attached_or_plain(given)
    return model, handle_of(model) if handle is None else handle


def attached_or_plain(given: nn.Module | Handle) -> tuple[nn.Module, Handle | None]:
    """Return the model to measure, and the handle of its rule; None where none is attached.

    Args:
        given: Any model, or a handle.

    Raises:
        AttachError: It is neither, holds several attached models, or the handle's rule was removed.
        WrappedModelError: The model is sharded.
    """
    found: object = given
    if not isinstance(found, (Handle, nn.Module)):
        raise AttachError(
            f"The measurement was given {type(found).__name__} for its model; give the attached torch.nn.Module, or "
            "the handle that fa.attach returned."
        )
    model = found.model if isinstance(found, Handle) else found
    if isinstance(model, nn.DataParallel):
        raise WrappedModelError(
            "DataParallel runs copies of the model in threads, which no measurement can follow: give the model inside, "
            "model.module."
        )
    refuse_in_pieces(model)
    stores = [module for module in model.modules() if isinstance(module, FeedbackStore)]
    if isinstance(found, Handle):
        if found.store not in stores:
            raise AttachError(
                "The rule of this handle was removed from its model: attach it again and give the new handle, or give "
                "the model itself, as it is now."
            )
        return model, found
    if len(stores) > 1:
        names = [prefix_in(model, store.handle).rstrip(".") or type(model).__name__ for store in stores]
        raise AttachError(
            f"{type(model).__name__} holds {len(stores)} attached models, {', '.join(map(repr, names))}: a measurement "
            "sets one rule aside and would take the other's gradients for backprop's. Measure each on its own, by its "
            "handle, or attach one mixture of rules to the whole: fa.attach(model, {'layer*': rule, ...})."
        )
    return model, stores[0].handle if stores else None


def points_in(model: nn.Module, handle: Handle) -> dict[str, str]:
    """Return the point at which each layer's signal can be read, by the layer's name, under the names of a model.

    Args:
        model: The attached model, or a module around it.
        handle: The handle.
    """
    prefix = prefix_in(model, handle)
    return {prefix + layer: prefix + point for layer, point in handle.points.items()}


def prefix_in(model: nn.Module, handle: Handle) -> str:
    """Return what stands before the names of the attached model's layers in a model: nothing, where it is that model.

    Args:
        model: The attached model, or a module around it.
        handle: The handle.
    """
    name = next(name for name, module in model.named_modules() if module is handle.model)
    return f"{name}." if name else ""
