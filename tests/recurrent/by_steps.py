"""A recurrent module under the rules by hand: the specification's loops over time, whatever module and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.recurrent import naive
from feedalign.recurrent.cell import Weights
from recurrent.readers import Case, Reader, cross_entropy, num_signals

CELLS = {"RNN_TANH": naive.RNN_TANH, "RNN_RELU": naive.RNN_RELU, "GRU": naive.GRU_RESET_AFTER, "LSTM": naive.LSTM}
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class Taught:
    """What the layers of a module return, `[N, T, D * H]` each, and what it learns."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    of_input: Tensor


@dataclass(frozen=True)
class Run:
    """How a module is called.

    Attributes:
        inputs: `[N, T, I]`.
        mask: Which steps there are, `[N, T]`; None: all.
        states: The states before the first step; zero if there are none.
        between: What happens to rows `[T * N, F]` between two layers.
    """

    inputs: Tensor
    mask: Tensor | None = None
    states: tuple[Tensor, ...] = ()
    between: Callable[[Tensor], Tensor] = lambda rows: rows


def taught(rnn: nn.RNNBase, run: Run, signals: Sequence[Tensor], counts: Tensor | None = None) -> Taught:
    """Run and teach a module.

    Args:
        rnn: The module.
        run: How it is called.
        signals: For each layer `[N, T, signals * directions * H]`.
        counts: Which steps teach, if not all that there are.
    """
    cell = naive.GRU_RESET_BEFORE if getattr(rnn, "reset", "after") == "before" else CELLS[rnn.mode]
    num, directions = 2 if rnn.mode == "LSTM" else 1, 2 if rnn.bidirectional else 1
    zeros = run.inputs.new_zeros(rnn.num_layers * directions, len(run.inputs), rnn.hidden_size)
    given, found = run.states or (zeros,) * num, {}
    inputs, of_input = run.inputs, run.inputs
    by_layer = []
    for layer, signal in enumerate(signals):
        if counts is not None:
            signal = signal * counts.unsqueeze(-1)
        by_direction = signal.unflatten(-1, (num_signals(rnn), directions, rnn.hidden_size))
        inputs = inputs if layer == 0 else _between(run, inputs)
        outputs, of_inputs = [], []
        for number, ending in enumerate(("", "_reverse")[:directions]):
            names = [f"{kind}_l{layer}{ending}" for kind in KINDS]
            weights = Weights(*(None if (w := getattr(rnn, name, None)) is None else w.detach() for name in names))
            initial = tuple(state[layer * directions + number] for state in given)
            how = {"mask": run.mask, "reverse": number == 1}
            outputs.append(naive.run(cell, inputs, initial, weights, **how)[0])
            made = _gradients(rnn, cell, by_direction[..., number, :], inputs, initial, weights, how)
            found |= {name: grad for name, grad in zip(names, made[1:], strict=True) if grad is not None}
            of_inputs.append(made.input)
        of_input = torch.stack(of_inputs).sum(0) if layer == 0 else of_input
        inputs = torch.cat(outputs, -1)
        by_layer.append(inputs)
    return Taught(by_layer, found, of_input)


def _between(run: Run, states: Tensor) -> Tensor:
    rows = run.between(states.transpose(0, 1).flatten(0, 1))
    return rows.unflatten(0, (states.shape[1], states.shape[0])).transpose(0, 1)


def _gradients(
    rnn: nn.RNNBase,
    cell: naive.NaiveCell,
    signals: Tensor,
    inputs: Tensor,
    initial: tuple[Tensor, ...],
    weights: Weights,
    how: dict[str, object],
) -> naive.Gradients:
    """Gradients of one direction from its signals `[N, T, signals, H]`."""
    if getattr(rnn, "feedback", "shared") == "separate":
        parts = signals.flatten(-2).chunk(3 if rnn.bias else 2, -1)
        own = naive.ParameterSignals(parts[0], parts[1], parts[-1])
        return naive.separate_gradients(cell, own, inputs, initial, weights, **how)
    if signals.shape[-2] == 2:
        of_all, of_reset = signals.unbind(-2)
        signals = torch.cat([of_reset, of_all, of_all], -1)
    else:
        signals = signals.squeeze(-2)
    return naive.gradients(cell, signals, inputs, initial, weights, **how)


def same_for_all_steps(error: Tensor, feedback: Tensor, num_steps: int) -> Tensor:
    """The signal of an error of whole sequences `[N, C]`, at every step."""
    return (error @ feedback).unsqueeze(1).expand(-1, num_steps, -1)


def summed_over_steps(
    errors: Tensor, feedback: Tensor, rnn: nn.RNNBase, gamma: float, mask: Tensor | None = None
) -> Tensor:
    """The signal of errors of single steps `[N, T, C]`: of later ones; of earlier ones where a direction runs back."""
    directions = 2 if rnn.bidirectional else 1
    apart = feedback.unflatten(-1, (num_signals(rnn), directions, rnn.hidden_size))
    signals = [
        naive.teaching_signals(errors, apart[:, :, number].flatten(1), gamma, mask=mask, reverse=number == 1)
        for number in range(directions)
    ]
    parts = [signal.unflatten(-1, (num_signals(rnn), rnn.hidden_size)) for signal in signals]
    return torch.stack(parts, -2).flatten(-3)


def batch_first(case: Case, tensor: Tensor) -> Tensor:
    """Of what is laid out as the output, `[N, T, ...]`; the inverse too."""
    return tensor if case.batch_first else tensor.transpose(0, 1)


def run_of(case: Case, model: Reader, inputs: tuple[Any, ...]) -> tuple[Run, Tensor]:
    """How a model calls its recurrent module, and what it gives it, `[N, T, I]`, with the graph."""
    x, lengths, *states = inputs
    below = batch_first(case, model.lowest(x))
    mask = None if lengths is None else naive.mask_of(lengths, below.shape[1])
    return Run(below.detach(), mask, tuple(states)), below


def gradients_by_steps(
    case: Case,
    feedback: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    targets: Tensor,
    *,
    gamma: float = 1.0,
    counts: Tensor | None = None,
    broadcast: Callable[[Tensor, Tensor], Tensor] = lambda error, targets: error,
    between: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Gradients of a mean cross-entropy under a direct rule, by hand on a plain model.

    Args:
        case: The model.
        feedback: By feedback point.
        inputs: What the model is called with.
        targets: Class indices.
        gamma: The discount of later errors.
        counts: Which steps teach, `[N, T]`, if not all that there are.
        broadcast: What is projected, made of the error and the targets.
        between: What happens between two layers.
        seed: Of the model.
    """
    model = case.model(seed)
    output = model(*inputs)
    error, *of_head = torch.autograd.grad(cross_entropy(output, targets), [output, *model.head.parameters()])
    vector = broadcast(error, targets)
    run, below = run_of(case, model, inputs)
    if between is not None:
        run = Run(run.inputs, run.mask, run.states, between)
    if case.readout == "steps":
        mask = run.mask if counts is None else counts
        laid = batch_first(case, vector)
        signals = [summed_over_steps(laid, matrix, model.rnn, gamma, mask) for matrix in feedback.values()]
    else:
        signals = [same_for_all_steps(vector, matrix, run.inputs.shape[1]) for matrix in feedback.values()]
    made = taught(model.rnn, run, signals, counts)
    found = {f"rnn.{name}": grad for name, grad in made.gradients.items()}
    found |= {f"head.{name}": grad for (name, _), grad in zip(model.head.named_parameters(), of_head, strict=True)}
    if below.requires_grad:
        names = [name for name, _ in model.named_parameters() if not name.startswith(("rnn.", "head."))]
        own = torch.autograd.grad(below, [model.get_parameter(name) for name in names], made.of_input)
        found |= dict(zip(names, own, strict=True))
    return found
