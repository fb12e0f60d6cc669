"""The GRU of the paper, whose reset gate acts on the state before the matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.cell import Cell, Gradients, Ran, Trace, Wanted, Weights
from feedalign.recurrent.rows import Block, Signals, blocks, joined, pieces_before
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.sums import Sums, rows_per_block
from feedalign.transforms import inside_transform

_aten = torch.ops.aten


class Gates(NamedTuple):
    """The gates of some rows, each `[rows, H]`.

    Attributes:
        r: The reset gate.
        z: The update gate.
        n: The state on offer.
    """

    r: Tensor
    z: Tensor
    n: Tensor


class Direction(NamedTuple):
    """One direction of a layer that ran.

    Attributes:
        output: The state of every row, `[R, H]`.
        final: The state after the last step of each sequence, `[N, H]`.
        gates: Those of every row.
    """

    output: Tensor
    final: Tensor
    gates: Gates


class ResetBeforeGRU(Cell):
    """The paper's GRU in torch's layout: gates r, z, n, with `n = tanh(x W_in^T + b_in + (r * h) W_hn^T + b_hn)`.

    Its forward is a loop over time, six operations a step, on memory that is there before the loop begins. It keeps the
    gates, which it makes anyway, so that the gradients need not make them again. The equations are in `naive`.
    """

    num_gates: ClassVar[int] = 3

    @torch.no_grad()
    def run(self, inputs: Tensor, states: tuple[Tensor, ...], weights: tuple[Weights, ...], steps: Steps) -> Ran:
        """Run one layer without a graph.

        Args:
            inputs: `[R, I]`.
            states: The states before the first step, `[D, N, H]`.
            weights: One or two directions, the second reversed.
            steps: How rows lie.

        Returns:
            The states, and as memory the gates r, z and n.
        """
        run = _run_in_place if _may_write(inputs, states[0], weights) else _run_in_copies
        ran = [run(inputs, states[0][d], own, steps, d == 1) for d, own in enumerate(weights)]
        output, *memory = (
            _side_by_side(parts) for parts in zip(*((one.output, *one.gates) for one in ran), strict=True)
        )
        return Ran(output, (torch.stack([one.final for one in ran]),), tuple(memory))

    @torch.no_grad()
    def gradients(self, signal: Tensor, trace: Trace, wanted: Wanted) -> Gradients:
        """Differentiate every step alone, all steps at once.

        Args:
            signal: `[R, H]`: all gates share it, and the reset gate has its exact gradient, through W_hn transposed.
                `[R, 3 * H]`: each gate has its own; that of the reset gate stands for `dL/d(r * h)`, and no weight is
                transposed. With N rows it is the same at every step.
            trace: The run.
            wanted: What to make.

        Returns:
            Sums over all rows; that of the input `[R, I]`.
        """
        sums, signals = Sums(trace, wanted), Signals(signal, trace.steps)
        cut = list(blocks(trace.steps, rows_per_block(trace)))
        scratch = _scratch(trace, max(block.stop - block.start for block in cut))
        for block in cut:
            gates = Gates(*(gate[block.rows] for gate in trace.memory))
            before = joined(pieces_before(block, trace.output, trace.initial[0], trace.steps, trace.reverse))
            own = None if scratch is None else scratch[: block.stop - block.start]
            delta = _deltas(signals.of(block), before, gates, trace.weights.hh, own)
            sums.add_input(block, delta)
            sums.add_state((), delta)
            if sums.hh is not None:
                of_rz, of_n = _cut(sums.hh, 0)
                delta_rz, delta_n = _cut(delta, 1)
                of_rz.addmm_(delta_rz.t(), before)
                of_n.addmm_(delta_n.t(), gates.r * before)
        return sums.gradients()

    @torch.no_grad()
    def push(self, tangent: Tensor | None, perturbation: Tensor, trace: Trace) -> Tensor:
        """Push a tangent of the input, and one of every state, through time.

        Args:
            tangent: Of the input, `[R, I]`; None for zero.
            perturbation: What every step's state is perturbed by beside, `[R, H]`.
            trace: The run.

        Returns:
            The tangent of the output, `[R, H]`, the perturbations included.
        """
        steps, (r, z, n) = trace.steps, trace.memory
        whole = Block(0, steps.num_steps, 0, steps.num_rows)
        before = joined(pieces_before(whole, trace.output, trace.initial[0], steps, trace.reverse))
        w_rz, w_n = _cut(trace.weights.hh.t(), 1)
        # What the step's state, or r * h, feels of each gate's preactivation.
        by_r, by_z, by_n = before * r * (1 - r), (before - n) * z * (1 - z), (1 - z) * (1 - n * n)
        of_input = None if tangent is None else tangent @ trace.weights.ih.t()
        rows = [part.split(steps.batch_sizes) for part in (r, z, by_r, by_z, by_n, perturbation)]
        entering = None if of_input is None else [part.split(steps.batch_sizes) for part in _cut(of_input, 1)]

        def step(t: int, before: Tensor) -> Tensor:
            r, z, by_r, by_z, by_n, perturbation = (part[t] for part in rows)
            a_rz = before @ w_rz if entering is None else torch.addmm(entering[0][t], before, w_rz)
            a_r, a_z = a_rz.chunk(2, -1)
            reset = torch.addcmul(r * before, by_r, a_r)
            a_n = reset @ w_n if entering is None else torch.addmm(entering[1][t], reset, w_n)
            pushed: Tensor = perturbation.addcmul(z, before).addcmul(by_z, a_z).addcmul(by_n, a_n)
            return pushed

        pushed, _ = _over_time(step, torch.zeros_like(trace.initial[0]), steps, trace.reverse)
        return torch.cat(pushed)


def unrolled(
    inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool
) -> tuple[Tensor, Tensor, list[Gates]]:
    """Run one direction by operations that autograd, autocast and `torch.func` follow: exact backprop through time.

    Args:
        inputs: `[R, I]`.
        initial: The state before the first step, `[N, H]`.
        weights: Parameters.
        steps: How rows lie.
        reverse: Run from the last step to the first.

    Returns:
        The output `[R, H]`, the state after the last step of each sequence `[N, H]`, and the gates of every step.
    """
    dtype = initial.dtype
    (x_rz, x_n), (w_rz, w_n) = _enter(inputs, weights), _cut(weights.hh, 0)
    entering = [(rz, n) for rz, n in zip(x_rz.split(steps.batch_sizes), x_n.split(steps.batch_sizes), strict=True)]
    gates: list[Gates | None] = [None] * steps.num_steps

    def step(t: int, before: Tensor) -> Tensor:
        rz, n = entering[t]
        r, z = torch.sigmoid(rz + F.linear(before, w_rz)).to(dtype).chunk(2, -1)
        n = torch.tanh(n + F.linear(r * before, w_n)).to(dtype)
        gates[t] = Gates(r, z, n)
        return torch.lerp(n, before, z)

    states, final = _over_time(step, initial, steps, reverse)
    return torch.cat(states), final, [own for own in gates if own is not None]


def _run_in_copies(inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
    output, final, gates = unrolled(inputs, initial, weights, steps, reverse)
    return Direction(output, final, Gates(*(torch.cat(parts) for parts in zip(*gates, strict=True))))


def _run_in_place(inputs: Tensor, initial: Tensor, weights: Weights, steps: Steps, reverse: bool) -> Direction:
    """The gates take the place of what the input sends to them; nothing but `r * h` of one step is made beside."""
    (rz, n), (w_rz, w_n) = _enter(inputs, weights), _cut(weights.hh.t(), 1)
    r, z = rz.chunk(2, -1)
    output = torch.empty_like(n)
    resets = torch.empty_like(initial)
    rows = list(zip(*(part.split(steps.batch_sizes) for part in (rz, r, z, n, output)), strict=True))

    def step(t: int, before: Tensor) -> Tensor:
        rz, r, z, n, after = rows[t]
        rz.addmm_(before, w_rz).sigmoid_()
        reset = torch.mul(r, before, out=resets[: len(before)])
        n.addmm_(reset, w_n).tanh_()
        return torch.lerp(n, before, z, out=after)

    _, final = _over_time(step, initial, steps, reverse)
    return Direction(output, final, Gates(r, z, n))


def _over_time(
    step: Callable[[int, Tensor], Tensor], initial: Tensor, steps: Steps, reverse: bool
) -> tuple[list[Tensor], Tensor]:
    """The state after every step, and after the last of each sequence; `step` maps t and the state before to it."""
    sizes, num_steps = steps.batch_sizes, steps.num_steps
    states, ended = [initial] * num_steps, []
    state = initial[: sizes[-1]] if reverse else initial
    for t in reversed(range(num_steps)) if reverse else range(num_steps):
        size, running = sizes[t], state.shape[0]
        if size > running:  # sequences whose last step this is join
            state = torch.cat([state, initial[running:size]])
        elif size < running:  # sequences whose last step is behind us leave
            ended.append(state[size:])
            state = state[:size]
        state = states[t] = step(t, state)
    return states, torch.cat([state, *reversed(ended)]) if ended else state


def _enter(inputs: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """What inputs and biases send to r and z together, `[R, 2 * H]`, and to n, `[R, H]`."""
    bias_rz, bias_n = None, None
    if weights.bias_ih is not None and weights.bias_hh is not None:
        bias_rz, bias_n = _cut(weights.bias_ih + weights.bias_hh, 0)
    w_rz, w_n = _cut(weights.ih, 0)
    return F.linear(inputs, w_rz, bias_rz), F.linear(inputs, w_n, bias_n)


def _deltas(signal: Tensor, before: Tensor, gates: Gates, hh: Tensor, out: Tensor | None) -> Tensor:
    """The gradient of each gate's preactivation, `[rows, 3 * H]`; written to `out`, or made if that is None."""
    r, z, n = gates
    to_r, to_z, to_n = (None, None, None) if out is None else out.chunk(3, -1)
    is_shared = signal.shape[-1] == before.shape[-1]
    s_r, s_z, s_n = (signal,) * 3 if is_shared else signal.chunk(3, -1)
    delta_n = _through_tanh(torch.addcmul(s_n, s_n, z, value=-1, out=to_n), n, to_n)
    delta_z = torch.mul(torch.sub(before, n, out=to_z), s_z, out=to_z)
    delta_z = _through_sigmoid(delta_z, z, to_z)
    of_reset = torch.mm(delta_n, _cut(hh, 0)[1], out=to_r) if is_shared else s_r
    delta_r = _through_sigmoid(torch.mul(of_reset, before, out=to_r), r, to_r)
    return torch.cat([delta_r, delta_z, delta_n], -1) if out is None else out


def _through_tanh(gradient: Tensor, value: Tensor, out: Tensor | None) -> Tensor:
    made: Tensor = (
        _aten.tanh_backward(gradient, value)
        if out is None
        else _aten.tanh_backward.grad_input(gradient, value, grad_input=out)
    )
    return made


def _through_sigmoid(gradient: Tensor, value: Tensor, out: Tensor | None) -> Tensor:
    made: Tensor = (
        _aten.sigmoid_backward(gradient, value)
        if out is None
        else _aten.sigmoid_backward.grad_input(gradient, value, grad_input=out)
    )
    return made


def _scratch(trace: Trace, num_rows: int) -> Tensor | None:
    """Memory for the deltas of a block, `[rows, 3 * H]`; None where operations may not write to memory of ours."""
    if inside_transform() or torch.compiler.is_compiling():
        return None
    return trace.output.new_empty(num_rows, 3 * trace.output.shape[-1])


def _may_write(inputs: Tensor, initial: Tensor, weights: Sequence[Weights]) -> bool:
    """Whether a forward may write its results to memory of its own, which transforms and casts cannot follow."""
    if inside_transform() or torch.compiler.is_compiling() or torch.is_autocast_enabled(inputs.device.type):
        return False
    return all(inputs.dtype == other.dtype for other in (initial, *(own.hh for own in weights)))


def _cut(stacked: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Split what is stacked by gate into that of r and z, and that of n."""
    width = stacked.shape[dim] // 3
    rz, n = stacked.split((2 * width, width), dim)
    return rz, n


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)
