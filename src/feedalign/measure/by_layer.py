"""What measurements with one row per layer have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Generic, Protocol, TypeVar, cast


class HasLayer(Protocol):
    """A row: of one layer."""

    @property
    def layer(self) -> str:
        """The layer's name."""
        ...


Row = TypeVar("Row", bound=HasLayer)


class ByLayer(Generic[Row]):
    """A dataclass of rows, in the order of the forward."""

    layers: tuple[Row, ...]

    def __getitem__(self, layer: str) -> Row:
        """Return the row of one layer."""
        for row in self.layers:
            if row.layer == layer:
                return row
        raise KeyError(f"{layer!r}; the layers are {', '.join(row.layer for row in self.layers)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain: dict[str, Any] = asdict(cast("Any", self))
        return plain
