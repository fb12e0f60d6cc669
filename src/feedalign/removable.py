"""What every hook that is set can do."""

from __future__ import annotations

from typing import Protocol


class Removable(Protocol):
    """A hook that can be taken off."""

    def remove(self) -> None:
        """Take it off."""
