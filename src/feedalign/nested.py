"""Tensors in what modules take and return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor


def named_tensors(whole: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in what a module takes or returns, with their names.

    Args:
        whole: A tensor, or tuples, lists, mappings and dataclasses of tensors.
        name: Its name.

    Yields:
        Name and tensor, such as `"logits"`, `"hidden_states[0]"`; no name for the whole itself.
    """
    if isinstance(whole, Tensor):
        yield name, whole
        return
    parts: list[tuple[object, object]] = []
    if isinstance(whole, Mapping):
        parts = list(whole.items())
    elif isinstance(whole, (tuple, list)):
        parts = list(zip(getattr(whole, "_fields", range(len(whole))), whole, strict=True))
    elif is_dataclass(whole) and not isinstance(whole, type):
        parts = [(field.name, getattr(whole, field.name)) for field in fields(whole)]
    for key, part in parts:
        place = f"[{key}]" if isinstance(key, int) else f".{key}" if name else str(key)
        yield from named_tensors(part, name + place)
