"""The hooks at feedback points and at the output. Objects, not closures: they are copied and pickled with the model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from feedalign.circuit import OUTPUT, Circuit
from feedalign.errors import OutsideForwardError
from feedalign.nested import named_tensors
from feedalign.transforms import inside_backward


class PointHook:
    """Forward hook at a feedback point."""

    def __init__(self, circuit: Circuit, module: str) -> None:
        self.circuit, self.module = circuit, module

    def __call__(self, module: nn.Module, args: tuple[Any, ...], activation: Tensor) -> Tensor | None:
        """Cut the graph here."""
        del module
        onward = self.circuit.arrive(self.module, activation)
        if onward is not None and args and activation is args[0]:
            self.circuit.note_alias(self.module, activation)
        return onward


class OutputHook:
    """Hook at the output: after a module (`after`), or at the input of one that makes predictions (`before`)."""

    def __init__(self, circuit: Circuit, index: int) -> None:
        self.circuit, self.index = circuit, index

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Pre-hook: the error is taken at the module's input."""
        del module
        delivered = self.circuit.deliver(args[0]) if self._is_it() else None
        return None if delivered is None else (delivered, *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        """Forward hook: the error is taken at the module's output."""
        if not self._is_it():
            return None
        # By shape, since a number has none, nor has what is no tensor.
        if module is self.circuit.model and not getattr(output, "shape", ()):
            self._refuse_another((args, kwargs), output)
        return self.circuit.deliver(output)

    def _refuse_another(self, inputs: object, output: object) -> None:
        """Raise where the model returns a number or no tensor, if on the example inputs it did not.

        Wrappers of trainers put another method, such as `training_step`, in the place of the forward; what the model
        returns is then a loss, and would be taken for the output.
        """
        circuit = self.circuit
        is_awaited = circuit.is_open and not circuit.delivered and (circuit.sites or circuit.weights)
        if not is_awaited:
            return
        # One sample with one output may have been squeezed to a number.
        if isinstance(output, Tensor) and any(tensor.shape[:1] == (1,) for _, tensor in named_tensors(inputs)):
            return
        raise OutsideForwardError(
            "The attached model returned no output but something else, most likely its loss: a trainer runs another "
            "method in the place of its forward, such as training_step. Attach the rule to the network inside, or call "
            "the model itself in that method."
        )

    def _is_it(self) -> bool:
        """A module that also stands in the middle makes the output at its last call only."""
        return self.circuit.listening and self.circuit.count(OUTPUT) == self.index


class LayerHook:
    """Pre-hook of a layer whose parameters are sent something of their own, within the model's forward alone."""

    def __init__(self, circuit: Circuit, layer: str) -> None:
        self.circuit, self.layer = circuit, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Look where the layer runs."""
        del module, args
        refuse_outside(self.circuit, self.layer)


def refuse_outside(circuit: Circuit, layer: str) -> None:
    """Raise if a layer runs with gradients outside the model's forward, where its rule does not act.

    Args:
        circuit: Of the attached model.
        layer: The layer's name.

    Raises:
        OutsideForwardError: It does, and no activation checkpoint is running it again.
    """
    if circuit.listening and not circuit.is_open and not inside_backward():
        raise OutsideForwardError(
            f"Layer {layer!r} ran with gradients outside the forward of the attached model, where nothing is drawn for "
            "its rule and the rule would not act. Call the model itself, use torch.no_grad() around the part, or "
            "remove the rule first with handle.remove()."
        )
