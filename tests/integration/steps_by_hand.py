"""A GRU for the rules by hand: each step alone where the graph is cut, all of them together where it is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

POINT = "layer0"


class StepsByHand(nn.Module):
    """One layer of `nn.GRU`, samples first, as a loop over time; holds the very parameters.

    Its states pass the module `layer0`. With `through_time` they keep their graph, and what passes `layer0` are zeros
    that are added to the states: the gradient there is that of a state with all that follows from it. Else each step
    is differentiated with the state before it held constant.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        for name, parameter in gru.named_parameters():
            self.register_parameter(name, parameter)
        self.layer0 = nn.Identity()
        self.through_time = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = [getattr(self, f"{kind}_l0") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        state = x.new_zeros(len(x), weights[1].shape[1])
        added = torch.zeros(*x.shape[:2], state.shape[1], dtype=x.dtype, requires_grad=True)
        if self.through_time:
            added = self.layer0(added)
        states = []
        for t in range(x.shape[1]):
            before = state if self.through_time else state.detach()
            state = torch.gru_cell(x[:, t], before, *weights) + added[:, t]
            states.append(state)
        output = torch.stack(states, 1)
        return output if self.through_time else self.layer0(output), state.unsqueeze(0)


def with_steps_by_hand(model: nn.Module, points: Sequence[str]) -> nn.Module:
    """Put a loop in the place of each GRU that has a point."""
    for point in points:
        name, _, last = point.rpartition(".")
        if last == POINT:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, StepsByHand(model.get_submodule(name)))
    return model


def sum_of_later(vector: Tensor) -> Tensor:
    """Of errors of single steps `[N, T, C]`: at each step its own and all later ones."""
    return vector.flip(1).cumsum(1).flip(1)
