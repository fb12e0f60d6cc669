"""What perturbed states do to the output of a reader: a differentiable loop over time, and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.recurrent import naive
from feedalign.recurrent.cell import Weights
from recurrent.by_steps import CELLS, KINDS, Run, batch_first, run_of
from recurrent.readers import Case, Reader


def tangent_of_output(case: Case, model: Reader, inputs: tuple[Any, ...], moved: Sequence[Tensor]) -> Tensor:
    """The derivative of the output along perturbations of the states of each layer, `[N, T, D * H]`.

    Each enters at its state, inside the recurrence, so that all later states feel it.
    """

    def output(*added: Tensor) -> Tensor:
        return model.head(model.read(*_run(case, model.rnn, run_of(case, model, inputs)[0], added)))

    still = tuple(torch.zeros_like(v) for v in moved)
    return torch.func.jvp(output, still, tuple(moved))[1].detach()


def _run(case: Case, rnn: nn.RNNBase, run: Run, added: Sequence[Tensor]) -> tuple[Tensor, Any]:
    """What the module returns."""
    cell = naive.GRU_RESET_BEFORE if getattr(rnn, "reset", "after") == "before" else CELLS[rnn.mode]
    rows, finals = run.inputs, []
    for layer, own in enumerate(added):
        outputs = []
        for number, part in enumerate(own.split(rnn.hidden_size, -1)):
            names = [f"{kind}_l{layer}{'_reverse' * number}" for kind in KINDS]
            weights = Weights(*(None if (w := getattr(rnn, name, None)) is None else w.detach() for name in names))
            zeros = rows.new_zeros(len(rows), rnn.hidden_size)
            given = tuple(state[layer * case.num_directions + number] for state in run.states)
            states = given or (zeros,) * case.num_states
            output, final = _loop(cell, rows, states, weights, run.mask, part, number == 1)
            outputs.append(output)
            finals.append(final)
        rows = torch.cat(outputs, -1)
    ends = tuple(torch.stack(kept) for kept in zip(*finals, strict=True))
    return batch_first(case, rows), ends if len(ends) > 1 else ends[0]


def _loop(
    cell: naive.NaiveCell,
    inputs: Tensor,
    states: tuple[Tensor, ...],
    weights: Weights,
    mask: Tensor | None,
    added: Tensor,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    times, outputs = range(inputs.shape[1]), {}
    for t in reversed(times) if reverse else times:
        there = torch.ones(len(inputs), 1, dtype=torch.bool) if mask is None else mask[:, t, None]
        h, *others = cell.step(inputs[:, t].nan_to_num(), states, weights)
        after = (h + added[:, t], *others)
        outputs[t] = torch.where(there, after[0], 0.0)
        states = tuple(torch.where(there, new, old) for new, old in zip(after, states, strict=True))
    return torch.stack([outputs[t] for t in times], 1), states
