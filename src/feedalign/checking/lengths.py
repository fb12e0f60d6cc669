"""Sizes of example inputs that agree by chance, such as the lengths of what an encoder and a decoder read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from feedalign.probe import Inputs

_FEWEST = 2


def one_step_shorter(inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    """Yield the example inputs with some tensors one step shorter than others that have as many steps now.

    Args:
        inputs: As for `attach`.

    Yields:
        The names of the shortened ones, in words, and the inputs.
    """
    if isinstance(inputs, Tensor):
        return
    named: dict[Any, Any] = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))
    steps = {name: value.shape[1] for name, value in named.items() if isinstance(value, Tensor) and value.dim() > 1}
    for group in _groups(list(steps)):
        num_steps = {steps[name] for name in group}
        others = {steps[name] for name in steps if name not in group}
        if len(num_steps) == 1 and num_steps <= others and min(num_steps) >= _FEWEST:
            cut: dict[Any, Any] = {n: value[:, :-1] if n in group else value for n, value in named.items()}
            words = " and ".join(repr(name) if isinstance(name, str) else f"example_inputs[{name}]" for name in group)
            yield words, cut if isinstance(inputs, Mapping) else tuple(cut.values())


def _groups(names: list[Any]) -> list[list[Any]]:
    """What belongs to a decoder, as models of Transformers name it; then each tensor by itself."""
    decoders = [name for name in names if isinstance(name, str) and name.startswith(("decoder_", "labels"))]
    return [group for group in (decoders, *([name] for name in names)) if group]
