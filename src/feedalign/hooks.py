"""The hooks at feedback points and at the output. Objects, not closures: they are copied and pickled with the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from feedalign.circuit import OUTPUT, Circuit


class PointHook:
    """Forward hook at a feedback point."""

    def __init__(self, circuit: Circuit, module: str) -> None:
        self.circuit, self.module = circuit, module

    def __call__(self, module: nn.Module, args: tuple[Any, ...], activation: Tensor) -> Tensor | None:
        """Cut the graph here."""
        del module, args
        return self.circuit.arrive(self.module, activation)


class OutputHook:
    """Hook at the output: after a module (`after`), or at the input of one that makes predictions (`before`)."""

    def __init__(self, circuit: Circuit, index: int) -> None:
        self.circuit, self.index = circuit, index

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Pre-hook: the error is taken at the module's input."""
        del module
        delivered = self.circuit.deliver(args[0]) if self._is_it() else None
        return None if delivered is None else (delivered, *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: the error is taken at the module's output."""
        del module, args
        return self.circuit.deliver(output) if self._is_it() else None

    def _is_it(self) -> bool:
        """A module that also stands in the middle makes the output at its last call only."""
        return self.circuit.listening and self.circuit.count(OUTPUT) == self.index
