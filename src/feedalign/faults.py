"""What can go wrong in the forward of an attached model: each fault is one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.errors import (
    ChangedActivationError,
    CheckpointingError,
    OutsideForwardError,
    PointNotFiredError,
    UntaughtLayerError,
)
from feedalign.transforms import inside_backward


def refuse_thawed(model: nn.Module, frozen: Collection[str]) -> None:
    """Refuse parameters that learn now and had no part in the reading of the model.

    Args:
        model: The attached model.
        frozen: Names of the parameters that were frozen when the rule was attached.

    Raises:
        UntaughtLayerError: One of them is trainable.
    """
    for name, parameter in model.named_parameters():
        if name in frozen and parameter.requires_grad:
            raise UntaughtLayerError(
                f"{name} was frozen when the rule was attached and is trainable now; remove the rule and "
                "attach it again, so that a feedback point teaches it."
            )


def refuse_recomputation() -> None:
    """Raise CheckpointingError where the backward runs a forward again; call it for rules that draw at every one."""
    if inside_backward():
        raise CheckpointingError(
            "Activation checkpointing runs the whole forward again in the backward, and the rule draws anew at "
            "every forward, so that it would learn from another draw. Checkpoint parts of the model, or nothing."
        )


def refuse_further_call(point: str, index: int) -> NoReturn:
    """Raise PointNotFiredError for a call that the example inputs did not have.

    Args:
        point: The feedback point's module.
        index: How often it had been called before in this forward.
    """
    raise PointNotFiredError(
        f"Feedback point {point!r} fired {index + 1} times in this forward and {index} times on the example "
        "inputs, so no feedback was drawn for this call. Attach with example inputs that take the same path, "
        "or leave the module out with points=."
    )


def refuse_missing(missing: Sequence[str]) -> None:
    """Raise PointNotFiredError if feedback points or layers did not run in a forward."""
    if missing:
        raise PointNotFiredError(
            f"{', '.join(missing[:4])} did not fire in this forward, so the layers taught there would learn "
            "nothing. Either the model was compiled before the rule was attached (attach first, then compile), "
            "or the forward took another path than on the example inputs (leave these modules out with points=)."
        )


def refuse_alone(point: str) -> None:
    """Raise OutsideForwardError for a feedback point that runs on its own; the backward may run it again."""
    if not inside_backward():
        raise OutsideForwardError(
            f"Feedback point {point!r} ran with gradients outside the forward of the attached model, where no "
            "error can reach it. Call the model itself, use torch.no_grad() around the part, or remove the rule "
            "first with handle.remove()."
        )


def refuse_untaught(model: nn.Module, point: str, parameters: Sequence[str]) -> None:
    """Refuse an activation that carries no gradient, through which its layers cannot be taught.

    Args:
        model: The attached model.
        point: The feedback point's name.
        parameters: Names of those that it teaches.

    Raises:
        UntaughtLayerError: Some of them are trainable; compiled code does not ask.
    """
    if torch.compiler.is_compiling():
        return
    named = dict(model.named_parameters())
    names = [name for name in parameters if name in named and named[name].requires_grad]
    if names:
        raise UntaughtLayerError(
            f"Feedback point {point!r} cannot teach {', '.join(names[:4])}: its activation carries no "
            "gradient. Re-entrant activation checkpointing (use use_reentrant=False) and a detach() or no_grad() "
            "in the forward do this."
        )


def version_of(activation: Tensor) -> int:
    """How often a tensor was changed in place; compiled code, in which nothing is changed in place, counts none."""
    return 0 if torch.compiler.is_compiling() else activation._version


def refuse_changed(taps: Mapping[str, Tensor], versions: Mapping[str, int]) -> None:
    """Raise if an activation that a rule reads is no more what it was at its feedback point.

    Args:
        taps: Activations by the names of their points in the store.
        versions: What `version_of` said of some of them there.

    Raises:
        ChangedActivationError: One was changed in place.
    """
    for key, version in versions.items():
        if version_of(taps[key]) != version:
            raise ChangedActivationError(
                f"The activation at feedback point {key.replace('__', '#')!r} was changed in place after the point "
                "fired, and the rule learns from its values: write h = h * 2 for h *= 2, h = h + z for h += z, and "
                "leave inplace=True of the modules behind the point out; or put the point, a fa.FeedbackPoint(), "
                "behind the change."
            )


def refuse_aliases(output: Tensor, aliases: Sequence[tuple[str, Node]]) -> None:
    """Raise if the output was made from the activation of an in-place module by another way than through its point.

    Args:
        output: The tensor at which the error is taken, made from activations that were cut.
        aliases: Names of points that work in place, and the graph nodes of their activations.

    Raises:
        ChangedActivationError: It was.
    """
    names = {node: name for name, node in aliases}
    waiting = [] if output.grad_fn is None else [output.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node in names:
            raise ChangedActivationError(
                f"Feedback point {names[node]!r} returns the tensor that it was given, which is used again behind "
                "it: that is its activation too, past the point, along which exact backprop would reach the layers "
                "below. Give the module inplace=False if it works in place, or use what it returns in both places."
            )
        children = [child for child, _ in node.next_functions if child is not None and child not in seen]
        seen.update(children)
        waiting += children
