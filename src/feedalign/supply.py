"""Feedback for every layer: drawn, or given by the user and checked."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from feedalign.errors import AttachError, FeedbackShapeError
from feedalign.feedback import PRESETS, Draw, Projection, Shape
from feedalign.points import near

Source = Draw | Projection | Mapping[str, Tensor] | None
Feedback = Draw | Projection | str | Mapping[str, Tensor]

DEFAULT_SEED = 0


def as_feedback(feedback: object) -> Source:
    """Settle what `attach(feedback=...)` means.

    Args:
        feedback: A draw, the name of a preset, tensors by layer name, a projection, or None.

    Returns:
        The same with presets looked up.

    Raises:
        AttachError: It is none of these.
    """
    if isinstance(feedback, str):
        if feedback not in PRESETS:
            raise AttachError(f"feedback={feedback!r} is no preset. {near(feedback, PRESETS)}")
        return PRESETS[feedback]
    if feedback is None or isinstance(feedback, (Draw, Projection, Mapping)):
        return feedback
    if isinstance(feedback, type) and issubclass(feedback, Draw):
        raise AttachError(f"feedback is the class {feedback.__name__}; give an instance: fa.{feedback.__name__}().")
    if callable(feedback):
        raise AttachError("To project errors with your own callable, wrap it: feedback=fa.Projection(callable).")
    raise AttachError(
        f"feedback is {type(feedback).__name__}; give a draw such as fa.Normal(), a preset's name, a mapping of "
        "layer names to tensors, or fa.Projection(callable)."
    )


def generator_for(generator: Generator | None) -> Generator:
    """Return the user's generator, or a fresh one with a fixed seed: the global random state is never touched.

    Args:
        generator: A CPU generator or None.

    Returns:
        The generator to draw with.

    Raises:
        AttachError: The generator is not one of the CPU.
    """
    if generator is None:
        return torch.Generator().manual_seed(DEFAULT_SEED)
    if not isinstance(generator, Generator):
        raise AttachError(f"generator is {generator!r}; give torch.Generator().manual_seed(seed).")
    if generator.device.type != "cpu":
        raise AttachError(
            f"generator is on {generator.device}; feedback is drawn on the CPU, so that every device gets the same. "
            "Give torch.Generator().manual_seed(seed)."
        )
    return generator


def supply(
    shapes: Mapping[str, Shape],
    feedback: Draw | Mapping[str, Tensor],
    generator: Generator,
) -> dict[str, Tensor]:
    """Return one float tensor for every layer.

    Args:
        shapes: What each layer needs, by its name: `[C, D]`, or a weight's shape.
        feedback: A draw, or the user's tensors by name; features may be unflattened.
        generator: Drawn from, in the order of the layers.

    Returns:
        The feedback by name.

    Raises:
        AttachError: The user's mapping lacks a layer or names an unknown one.
        FeedbackShapeError: A tensor of the user's has the wrong shape.
    """
    if isinstance(feedback, Draw):
        return dict(zip(shapes, feedback(list(shapes.values()), generator), strict=True))
    unknown = [name for name in feedback if name not in shapes]
    if unknown:
        raise AttachError(f"feedback= names {unknown[0]!r}, which receives none. {near(unknown[0], shapes)}")
    supplied: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name not in feedback:
            raise AttachError(f"feedback= has no tensor for {name!r}, which needs one of shape {tuple(shape)}.")
        given = feedback[name]
        if not isinstance(given, Tensor):
            raise FeedbackShapeError(
                f"feedback[{name!r}] is {type(given).__name__}; give a tensor of shape {tuple(shape)}."
            )
        if given.shape[:1] != torch.Size(shape[:1]) or given.numel() != torch.Size(shape).numel():
            raise FeedbackShapeError(
                f"feedback[{name!r}] has shape {tuple(given.shape)}; this layer needs {tuple(shape)}, outputs by "
                "features."
            )
        supplied[name] = given.detach().clone().reshape(shape)
    return supplied
