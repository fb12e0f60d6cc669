"""Small sequences and weights, and what autograd says of each step alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from feedalign.recurrent.cell import Gradients, Trace, Weights
from feedalign.recurrent.naive import State, mask_of
from feedalign.recurrent.steps import Steps

Step = Callable[[Tensor, State, Weights], State]

LENGTHS = (5, 4, 4, 1)


def reset_before_step(x: Tensor, states: State, weights: Weights) -> State:
    """The paper's cell in plain operations."""
    (h,) = states
    hidden = h.shape[-1]
    inputs = torch.nn.functional.linear(x, weights.ih, weights.bias_ih)
    rows, bias = weights.hh, weights.bias_hh
    rz = inputs[:, : 2 * hidden] + h @ rows[: 2 * hidden].T
    rz = rz if bias is None else rz + bias[: 2 * hidden]
    r, z = rz.sigmoid().chunk(2, -1)
    n = inputs[:, 2 * hidden :] + (r * h) @ rows[2 * hidden :].T
    n = (n if bias is None else n + bias[2 * hidden :]).tanh()
    return (n - z * n + z * h,)


def reset_state(x: Tensor, states: State, weights: Weights) -> State:
    """`r * h`: what the signal of the paper's reset gate stands for, where it has one of its own."""
    (h,) = states
    hidden = h.shape[-1]
    r = torch.nn.functional.linear(x, weights.ih, weights.bias_ih)[:, :hidden] + h @ weights.hh[:hidden].T
    return ((r if weights.bias_hh is None else r + weights.bias_hh[:hidden]).sigmoid() * h,)


def tanh_step(x: Tensor, states: State, weights: Weights) -> State:
    return (torch.rnn_tanh_cell(x, states[0], *weights),)


def relu_step(x: Tensor, states: State, weights: Weights) -> State:
    return (torch.rnn_relu_cell(x, states[0], *weights),)


def gru_step(x: Tensor, states: State, weights: Weights) -> State:
    return (torch.gru_cell(x, states[0], *weights),)


def lstm_step(x: Tensor, states: State, weights: Weights) -> State:
    return torch.lstm_cell(x, states, *weights)


@dataclass(frozen=True)
class Sequences:
    """Inputs `[N, T, I]`, padded with what must not be read, states before the first step, and weights."""

    inputs: Tensor
    initial: State
    weights: Weights
    lengths: tuple[int, ...]
    hidden_size: int
    num_gates: int

    @property
    def steps(self) -> Steps:
        return Steps(tuple(sum(t < length for length in self.lengths) for t in range(self.lengths[0])))

    @property
    def mask(self) -> Tensor:
        return mask_of(torch.tensor(self.lengths), self.lengths[0])

    def rows(self, padded: Tensor) -> Tensor:
        """Of `[N, T, F]`, the rows `[R, F]` in packed order."""
        return padded.transpose(0, 1)[self.mask.T]

    def signals(self, per_gate: bool = False, seed: int = 1) -> Tensor:
        """Random teaching signals, NaN where there is no step."""
        width = self.hidden_size * (self.num_gates if per_gate else 1)
        drawn = torch.randn(*self.mask.shape, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return drawn.where(self.mask[..., None], torch.nan)

    def trace(self, output: Tensor, memory: Sequence[Tensor], reverse: bool) -> Trace:
        return Trace(
            self.rows(self.inputs), output, tuple(memory), self.initial, self.weights, self.steps, reverse=reverse
        )


def sequences(
    num_gates: int,
    *,
    num_states: int = 1,
    lengths: tuple[int, ...] = LENGTHS,
    input_size: int = 3,
    hidden_size: int = 4,
    bias: bool = True,
    seed: int = 0,
) -> Sequences:
    """Draw some, in float64; every sample has a state to begin with."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    gates = num_gates * hidden_size
    weights = Weights(
        draw(gates, input_size), draw(gates, hidden_size), draw(gates) if bias else None, draw(gates) if bias else None
    )
    initial = tuple(0.5 * draw(len(lengths), hidden_size) for _ in range(num_states))
    inputs = draw(len(lengths), lengths[0], input_size)
    mask = mask_of(torch.tensor(lengths), lengths[0])
    return Sequences(inputs.where(mask[..., None], torch.nan), initial, weights, lengths, hidden_size, num_gates)


def by_autograd(
    step: Step, problem: Sequences, signal: Tensor, *, reverse: bool = False, taught: Step | None = None
) -> Gradients:
    """The sum of each step's own gradient, the states before it detached; one sample at a time.

    `taught` makes what the signal stands for the gradient of, if that is not the state after the step.
    """
    inputs = torch.zeros_like(problem.inputs)
    leaves = [None if w is None else w.clone().requires_grad_() for w in problem.weights]
    weights = Weights(*leaves)  # type: ignore[arg-type]
    for sample, length in enumerate(problem.lengths):
        states = tuple(state[sample : sample + 1] for state in problem.initial)
        for t in reversed(range(length)) if reverse else range(length):
            x = problem.inputs[sample : sample + 1, t].clone().requires_grad_()
            before = tuple(state.detach() for state in states)
            states = step(x, before, weights)
            told = (taught or step)(x, before, weights)[0]
            (told * signal[sample, t]).sum().backward()
            inputs[sample, t] = x.grad
    return Gradients(inputs, *(None if leaf is None else leaf.grad for leaf in leaves))


def by_autograd_per_gate(
    step: Step, problem: Sequences, signal: Tensor, *, reverse: bool = False, taught: dict[int, Step] | None = None
) -> Gradients:
    """The same where each gate has its own signal: the rows of a gate are taught by that alone.

    For the gradient of the input's sake the input is there twice: as what one gate reads, and as what the others do.
    """
    size, hidden = problem.inputs.shape[-1], problem.hidden_size
    of_inputs, of_weights = [], []
    for gate, own in enumerate(signal.chunk(problem.num_gates, -1)):
        rows = slice(gate * hidden, (gate + 1) * hidden)
        read = torch.zeros_like(problem.weights.ih)
        read[rows] = problem.weights.ih[rows]
        doubled = replace(
            problem,
            inputs=torch.cat([problem.inputs, problem.inputs], -1),
            weights=problem.weights._replace(ih=torch.cat([read, problem.weights.ih - read], -1)),
        )
        made = by_autograd(step, doubled, own, reverse=reverse, taught=(taught or {}).get(gate))
        assert made.input is not None
        assert made.ih is not None
        of_inputs.append(made.input[..., :size])
        of_weights.append([None if of is None else of[rows] for of in (made.ih[:, :size], *made[2:])])
    stacked = [None if parts[0] is None else torch.cat(parts) for parts in zip(*of_weights, strict=True)]
    return Gradients(torch.stack(of_inputs).sum(0), *stacked)


def assert_equal(
    got: Gradients, expected: Gradients, problem: Sequences | None = None, tolerance: float = 1e-12
) -> None:
    """Every gradient agrees, or is None in both; that of the input as rows where a problem is given."""
    for name, one, other in zip(Gradients._fields, got, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            wanted = problem.rows(other) if name == "input" and problem is not None else other
            torch.testing.assert_close(
                one, wanted, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
            )
