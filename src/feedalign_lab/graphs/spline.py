"""Spline convolution with linear splines, in plain torch: the library's own needs a kernel that has to be compiled."""

import math

import torch
from torch import Tensor, nn


def linear_basis(positions: Tensor, num_knots: int) -> tuple[Tensor, Tensor]:
    """Open B-spline basis of degree 1: each position lies between two knots, and is nearer to one of them.

    Args:
        positions: `[E]`, from 0 to 1.
        num_knots: K, at least 2; they lie evenly from 0 to 1.

    Returns:
        Weights `[E, 2]`, which sum to 1, and the knots that they belong to, `[E, 2]`.

    Source: Fey et al. 2018, "SplineCNN", section 3 with m = 1.
    """
    scaled = positions * (num_knots - 1)
    lower = scaled.detach().floor().clamp(0, num_knots - 2)
    share = scaled - lower
    knots = lower.long()
    return torch.stack([1 - share, share], dim=1), torch.stack([knots, knots + 1], dim=1)


class SplineConv(nn.Module):
    """`y_i = mean_j x_j W(u_ij) + x_i R + b`, where W(u) runs linearly from knot to knot.

    Features go through the weights of all knots before they are passed along edges: the same sums in an order that
    never holds all features of all edges.

    Args:
        num_inputs: Features of a node.
        num_outputs: Features that come out.
        num_knots: Weight matrices between which W(u) is interpolated.

    Source: Fey et al. 2018, equation 3, with the mean and the root weight of PyTorch Geometric's layer.
    """

    def __init__(self, num_inputs: int, num_outputs: int, num_knots: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_knots, num_inputs, num_outputs))
        self.root = nn.Parameter(torch.empty(num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        nn.init.uniform_(self.weight, -1 / math.sqrt(num_knots * num_inputs), 1 / math.sqrt(num_knots * num_inputs))
        nn.init.uniform_(self.root, -1 / math.sqrt(num_inputs), 1 / math.sqrt(num_inputs))

    def forward(self, x: Tensor, edges: Tensor, positions: Tensor) -> Tensor:
        """Pass messages once.

        Args:
            x: `[N, F]`.
            edges: `[2, E]`, from the first row to the second.
            positions: `[E]`, from 0 to 1.

        Returns:
            `[N, num_outputs]`.
        """
        num_knots, num_inputs, num_outputs = self.weight.shape
        source, target = edges
        shares, knots = linear_basis(positions, num_knots)
        by_knot = (x @ self.weight.transpose(0, 1).reshape(num_inputs, -1)).reshape(-1, num_outputs)
        rows = (source.unsqueeze(1) * num_knots + knots).flatten()
        messages = (by_knot.index_select(0, rows).view(-1, 2, num_outputs) * shares.unsqueeze(2)).sum(1)
        degree = torch.zeros(len(x), dtype=x.dtype, device=x.device).index_add(0, target, torch.ones_like(positions))
        total = torch.zeros(len(x), num_outputs, dtype=x.dtype, device=x.device).index_add(0, target, messages)
        return total / degree.clamp(min=1).unsqueeze(1) + x @ self.root + self.bias
