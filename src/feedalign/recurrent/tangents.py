"""Tangents through a recurrent layer: what a point's perturbation of each state does to later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from feedalign.recurrent.batch import Form
from feedalign.recurrent.cell import Trace
from feedalign.recurrent.local_steps import Layer
from feedalign.tangents.dual import DualCarrier, split

if TYPE_CHECKING:
    from feedalign.perturber import Perturber
    from feedalign.recurrent.stepwise import StepwiseForward


def with_tangent(
    forward: StepwiseForward,
    perturber: Perturber,
    layer: int,
    form: Form,
    initial: tuple[Tensor, ...],
    rows: Tensor,
    valid: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run one layer in a forward that carries tangents as dual tensors.

    The perturbation of the layer's point enters at every state, inside the recurrence, so that the tangent at the
    output knows what a state does to all later ones.

    Args:
        forward: The module.
        perturber: Draws at the layer's point.
        layer: Number of the layer.
        form: How rows lie.
        initial: The states before the first step.
        rows: What the layer reads, `[R, I]`.
        valid: Which steps count.

    Returns:
        As `StepwiseForward.apply`, the states joined to their tangent.
    """
    if not isinstance(perturber.carrier, DualCarrier):
        return forward.apply(layer, form, initial, rows, valid)
    rows, tangent = split(rows)
    states, *others = forward.apply(layer, form, initial, rows, valid)
    drawn = perturber.draw_ahead(forward.call(layer), states)
    if drawn is None and tangent is None:
        return states, *others
    with torch.no_grad():
        perturbed = torch.zeros_like(states) if drawn is None else drawn
        pushed = _push(forward, layer, form, initial, rows, states, others, tangent, perturbed)
    return forward_ad.make_dual(states, form.pad(pushed)), *others


def _push(
    forward: StepwiseForward,
    layer: int,
    form: Form,
    initial: tuple[Tensor, ...],
    rows: Tensor,
    states: Tensor,
    others: list[Tensor],
    tangent: Tensor | None,
    perturbed: Tensor,
) -> Tensor:
    """The tangent of the states, `[R, D * H]`, one direction beside the other."""
    plan = Layer(forward.cell, forward.num_directions, forward.channels, form)
    output, added = form.unpad(states), form.unpad(perturbed)
    memory = others[forward.cell.num_states :]
    pushed = []
    for number, weights in enumerate(plan.weights(tuple(forward.weights(layer)))):
        part = slice(number * forward.module.hidden_size, (number + 1) * forward.module.hidden_size)
        own, before = tuple(kept[:, part] for kept in memory), tuple(state[number] for state in initial)
        trace = Trace(rows, output[:, part], own, before, weights, form.steps, reverse=number == 1)
        pushed.append(forward.cell.push(tangent, added[:, part], trace))
    return torch.cat(pushed, -1)
