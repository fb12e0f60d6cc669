"""The two ways to run a layer that need no loop of our own: torch's fused operation, and step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.recurrent.cell import Ran, Weights
from feedalign.recurrent.rows import ends, meeting
from feedalign.recurrent.steps import Steps

Operation = Callable[..., tuple[Tensor, ...]]
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


class Direction(NamedTuple):
    """One direction of a layer that ran.

    Attributes:
        output: Its state at every step, `[R, H]`.
        final: Its states after the last step of each sequence, each `[N, H]`.
        memory: What else its gradients need, each `[R, H]`.
    """

    output: Tensor
    final: tuple[Tensor, ...]
    memory: tuple[Tensor, ...] = ()


def side_by_side(directions: Sequence[Direction]) -> Ran:
    """Return directions as one layer."""
    final = tuple(torch.stack(kind) for kind in zip(*(own.final for own in directions), strict=True))
    if len(directions) == 1:
        return Ran(directions[0].output, final, directions[0].memory)
    output, *memory = (
        torch.cat(kind, 1) for kind in zip(*((own.output, *own.memory) for own in directions), strict=True)
    )
    return Ran(output, final, tuple(memory))


def run_fused(
    operation: Operation, inputs: Tensor, states: Tensor | Sequence[Tensor], weights: Sequence[Weights], steps: Steps
) -> tuple[Tensor, ...]:
    """Run one layer by one of torch's operations.

    Args:
        operation: That of `torch._VF`.
        inputs: `[R, I]`.
        states: As the operation takes them.
        weights: One or two directions.
        steps: How rows lie.

    Returns:
        The output `[R, D * H]` and the last states.
    """
    has_bias = weights[0].bias_ih is not None
    params = [parameter for direction in weights for parameter in direction if parameter is not None]
    options = (params, has_bias, 1, 0.0, False, len(weights) == 2)
    states = states.contiguous() if isinstance(states, Tensor) else [state.contiguous() for state in states]
    with _no_word_on_memory() if inputs.device.type == "cuda" else nullcontext():
        if not steps.is_even:
            return tuple(operation(inputs, steps.sizes(), states, *options))
        shape = (steps.num_steps, steps.num_samples)
        output, *final = operation(inputs.reshape(*shape, inputs.shape[1]), states, *options, False)
        return output.flatten(0, 1), *final


@contextmanager
def _no_word_on_memory() -> Iterator[None]:
    """Silence cuDNN, which finds the weights of one layer of a module not as those of a module and copies them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        yield


def run_in_copies(step: Step, entering: Tensor, initial: tuple[Tensor, ...], steps: Steps, reverse: bool) -> Direction:
    """Run one direction by operations that compilers and `torch.func` can follow: none writes to another's memory.

    Args:
        step: Maps what enters the gates beside the state, `[N, G * H]`, and the states before, to those after.
        entering: Of all rows, `[R, G * H]`.
        initial: The states before the first step, each `[N, H]`.
        steps: How rows lie.
        reverse: Run from the last step to the first.

    Returns:
        The run; its memory are the states beside the output.
    """
    by_step = entering.split(steps.batch_sizes)
    made: list[tuple[Tensor, ...]] = [()] * steps.num_steps
    states: tuple[Tensor | None, ...] = (None,) * len(initial)
    for t in steps.order(reverse):
        before = (meeting(steps.batch_sizes[t], *own) for own in zip(states, initial, strict=True))
        states = made[t] = step(by_step[t], tuple(before))
    output, *memory = (torch.cat(kind) for kind in zip(*made, strict=True))
    return Direction(output, tuple(ends(kind, steps, reverse) for kind in (output, *memory)), tuple(memory))
