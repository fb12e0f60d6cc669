"""What every recurrent cell does: run, differentiate each of its steps alone, push a tangent through time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from feedalign.recurrent.steps import Steps


class Weights(NamedTuple):
    """Parameters of one direction of one layer; gates are stacked in the first size, as torch stacks them (G gates).

    Attributes:
        ih: Input to gates, `[G * H, I]`.
        hh: State to gates, `[G * H, H]`.
        bias_ih: `[G * H]`, or None.
        bias_hh: `[G * H]`, or None.
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    @property
    def bias(self) -> Tensor | None:
        """Both biases together."""
        return self.bias_ih if self.bias_ih is None or self.bias_hh is None else self.bias_ih + self.bias_hh


class Wanted(NamedTuple):
    """Which gradients are to be made."""

    input: bool = True
    ih: bool = True
    hh: bool = True
    bias_ih: bool = True
    bias_hh: bool = True


class Gradients(NamedTuple):
    """Gradients of one direction of one layer; None where not wanted."""

    input: Tensor | None
    ih: Tensor | None
    hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None


@dataclass(frozen=True)
class Ran:
    """A layer that ran, D directions side by side.

    Attributes:
        output: Its state at every step, `[R, D * H]`.
        final: Its states after the last step of each sequence, each `[D, N, H]`.
        memory: What else of the run its gradients need, each `[R, D * H]`: an LSTM's cell states; and gates, where they
            are kept.
    """

    output: Tensor
    final: tuple[Tensor, ...]
    memory: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Trace:
    """One direction of a layer that ran: what its gradients are made from.

    Attributes:
        inputs: `[R, I]`.
        output: `[R, H]`; perhaps a view into the two directions' output.
        memory: Each `[R, H]`.
        initial: The states before the first step, each `[N, H]`.
        weights: Its parameters.
        steps: How its rows lie.
        reverse: It runs from the last step to the first.
    """

    inputs: Tensor
    output: Tensor
    memory: tuple[Tensor, ...]
    initial: tuple[Tensor, ...]
    weights: Weights
    steps: Steps
    reverse: bool = False

    def to(self, dtype: torch.dtype) -> Trace:
        """Return it with all its tensors cast."""
        weights = Weights(*(None if own is None else own.to(dtype) for own in self.weights))  # type: ignore[arg-type]
        memory, initial = (tuple(own.to(dtype) for own in kind) for kind in (self.memory, self.initial))
        return replace(
            self,
            inputs=self.inputs.to(dtype),
            output=self.output.to(dtype),
            memory=memory,
            initial=initial,
            weights=weights,
        )


class Cell(ABC):
    """A recurrent cell. It holds no tensors; one object serves all layers of its kind.

    Attributes:
        num_gates: G.
        num_states: How many tensors make up its state: 1, for an LSTM 2.
    """

    num_gates: ClassVar[int]
    num_states: ClassVar[int] = 1

    @abstractmethod
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """Run one layer without a graph, by torch's fused operation where there is one.

        Args:
            inputs: `[R, I]`.
            states: The states before the first step, each `[D, N, H]`.
            weights: One or two directions, the second reversed.
            steps: How rows lie.
        """

    @abstractmethod
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """Differentiate every step alone, its previous state held constant, all steps at once.

        Args:
            signal: The teaching signal of each step's state, `[R, H]`; or `[R, G * H]`, one for each gate. With N
                rows it is the same at every step, that of each sample. It is not written to.
            trace: The run.
            wanted: What to make.

        Returns:
            Sums over all rows; that of the input `[R, I]`.
        """

    @abstractmethod
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """Push a tangent of the input, and one of every state, through time.

        Args:
            tangent: Of the input, `[R, I]`; None for zero.
            perturbation: What every step's state is perturbed by beside, `[R, H]`; a later step feels it through the
                state.
            trace: The run.

        Returns:
            The tangent of the output, `[R, H]`, the perturbations included.
        """
