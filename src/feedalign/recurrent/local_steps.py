"""The autograd node of a recurrent layer whose steps are differentiated each alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from feedalign.recurrent.batch import Form
from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights

Channels = Literal["shared", "reset gate", "separate"]
_NUM_WEIGHTS = len(Weights._fields)


@dataclass(frozen=True)
class Layer:
    """What the node needs to know beside tensors.

    Attributes:
        cell: What runs.
        num_directions: 1, or 2 where a second direction runs backwards.
        channels: How many teaching signals a state has: one (`"shared"`), one more for the reset gate, or one for each
            parameter of each gate (`"separate"`).
        form: How rows lie.
    """

    cell: Cell
    num_directions: int
    channels: Channels
    form: Form

    def weights(self, flat: tuple[Tensor | None, ...]) -> tuple[Weights, ...]:
        """Sort parameters by direction."""
        return tuple(Weights(*flat[i : i + _NUM_WEIGHTS]) for i in range(0, len(flat), _NUM_WEIGHTS))  # type: ignore[arg-type]


def num_channels(channels: Channels, num_gates: int, has_bias: bool) -> int:
    """Return how many teaching signals a state has."""
    if channels == "shared":
        return 1
    return 2 if channels == "reset gate" else num_gates * (3 if has_bias else 2)


class LocalSteps(torch.autograd.Function):
    """A layer's states, whose gradient goes to the parameters through each step alone.

    It has no `jvp`: tangents are pushed by the cell.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        layer: Layer,
        valid: Tensor | None,  # noqa: ARG004
        inputs: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            layer: What runs.
            valid: `[N, T]`, False where a step teaches nothing; None: all do.
            inputs: `[R, I]`.
            tensors: The states before the first step, each `[D, N, H]`, then the parameters of each direction.

        Returns:
            The states `[N, T, channels * D * H]`, the last states, and what the backward needs beside.
        """
        ran = _run(layer, inputs, tensors)
        states = layer.form.pad(ran.output)
        copies = num_channels(layer.channels, layer.cell.num_gates, tensors[-1] is not None)
        if copies > 1:
            states = states.repeat(1, 1, copies)
        return states, *ran.final, *ran.memory

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the run."""
        layer, valid, rows, *tensors = inputs
        states, *others = output
        ctx.mark_non_differentiable(*others)
        ctx.layer = layer
        ctx.num_memory = len(others) - layer.cell.num_states
        memory = others[layer.cell.num_states :]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(valid, rows, states, *memory, *tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, signal: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of input and parameters; the states before the first step are constants."""
        del others
        valid, rows, states, *rest = ctx.saved_tensors
        memory, tensors = rest[: ctx.num_memory], rest[ctx.num_memory :]
        layer: Layer = ctx.layer
        if signal is None:
            return (None,) * (3 + len(tensors))
        num_states = layer.cell.num_states
        initial, weights = tensors[:num_states], layer.weights(tuple(tensors[num_states:]))
        width = weights[0].hh.shape[1]
        output = layer.form.unpad(states[..., : width * layer.num_directions])
        channels = _rows(layer.form, signal, valid).unflatten(-1, (-1, layer.num_directions, width))
        of_input: Tensor | None = None
        of_weights: list[Tensor | None] = []
        wanted = ctx.needs_input_grad
        for number, own in enumerate(weights):
            part = slice(number * width, (number + 1) * width)
            dtype = output.dtype
            trace = Trace(
                rows.to(dtype),
                output[:, part],
                tuple(kept[:, part] for kept in memory),
                tuple(state[number].to(dtype) for state in initial),
                Weights(*(None if w is None else w.to(dtype) for w in own)),  # type: ignore[arg-type]
                layer.form.steps,
                reverse=number == 1,
            )
            first = 3 + num_states + number * _NUM_WEIGHTS
            made = _gradients(layer, channels[:, :, number], trace, Wanted(wanted[2], *wanted[first : first + 4]))
            if made.input is not None:
                of_input = made.input if of_input is None else of_input + made.input
            of_weights += made[1:]
        return None, None, of_input, *(None,) * num_states, *of_weights


def _run(layer: Layer, inputs: Tensor, tensors: tuple[Tensor | None, ...]) -> Ran:
    num = layer.cell.num_states
    initial = tuple(state for state in tensors[:num] if state is not None)
    return layer.cell.run(inputs, initial, layer.weights(tensors[num:]), layer.form.steps)


def _rows(form: Form, signal: Tensor, valid: Tensor | None) -> Tensor:
    """The signal as rows: `[N, F]` where every step has the same, which a cell need not spread out, else `[R, F]`."""
    if valid is None and signal.stride(1) == 0 and form.steps.num_steps > 1:
        return form.first(signal)
    if valid is not None and form.places is None:
        signal = signal * valid.unsqueeze(-1)
    return form.unpad(signal)


def _gradients(layer: Layer, channels: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
    """Gradients of one direction from its signals `[rows, channels, H]`."""
    cell = layer.cell
    if layer.channels == "shared":
        return cell.gradients(channels[:, 0], trace, wanted)
    if layer.channels == "reset gate":
        by_gate = torch.cat([channels[:, 1], channels[:, 0], channels[:, 0]], -1)
        return cell.gradients(by_gate, trace, wanted)
    of_ih, of_hh, *of_bias = channels.flatten(1).split(cell.num_gates * channels.shape[-1], -1)
    nothing = Wanted(*(False,) * len(Wanted._fields))
    by_ih = cell.gradients(of_ih, trace, nothing._replace(input=wanted.input, ih=wanted.ih))
    by_hh = cell.gradients(of_hh, trace, nothing._replace(hh=wanted.hh))
    if not of_bias:
        return Gradients(by_ih.input, by_ih.ih, by_hh.hh, None, None)
    by_bias = cell.gradients(of_bias[0], trace, nothing._replace(bias_ih=wanted.bias_ih, bias_hh=wanted.bias_hh))
    return Gradients(by_ih.input, by_ih.ih, by_hh.hh, by_bias.bias_ih, by_bias.bias_hh)
