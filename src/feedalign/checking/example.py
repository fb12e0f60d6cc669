"""Example inputs for a model that is checked without any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.errors import ExampleInputsError
from feedalign.probe import Inputs

_NUM_SAMPLES = 2


def inputs_of(model: nn.Module) -> tuple[Inputs, str]:
    """Return inputs that a model can be called with, where that is certain.

    Args:
        model: The model.

    Returns:
        Its own `dummy_inputs`, as models of Transformers have them, or numbers for an `nn.Sequential` that starts with
        an `nn.Linear`; and a sentence that says which.

    Raises:
        ExampleInputsError: The model does not tell what it is called with.
    """
    own = getattr(model, "dummy_inputs", None)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if isinstance(own, Mapping) and own:
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in own.items()}
        return _told_apart(moved), "read on the model's own dummy_inputs"
    first = _first(model)
    if isinstance(first, nn.Linear):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(_NUM_SAMPLES, first.in_features, generator=generator)
        return inputs.to(device, first.weight.dtype), f"read on random inputs of shape {tuple(inputs.shape)}"
    raise ExampleInputsError(
        "No example inputs are given, and the model does not tell what it is called with: give example_inputs=, a "
        "batch as in training, as a tensor, a tuple of positional arguments or a dict of keyword arguments."
    )


def _first(model: nn.Module) -> nn.Module | None:
    """The module that a chain starts with."""
    while type(model) is nn.Sequential and len(model) > 0:
        model = next((child for child in model if not isinstance(child, (nn.Identity, nn.Flatten))), model[0])
    return model


def _told_apart(inputs: dict[str, Any]) -> dict[str, Any]:
    """Make what a decoder reads one step shorter than what its encoder reads, so that their steps differ."""
    source, target = inputs.get("input_ids"), inputs.get("decoder_input_ids")
    if not isinstance(source, Tensor) or not isinstance(target, Tensor) or source.shape != target.shape:
        return inputs
    return {name: value[:, :-1] if name.startswith("decoder_") else value for name, value in inputs.items()}
