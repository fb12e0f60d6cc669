"""Directional derivatives of the output, carried along the forward: `[K, N, C]` for K directions per sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reference.perceptron import Case, Draws, slope


def along_activations(case: Case, hidden: Sequence[Tensor]) -> Tensor:
    """`D_l = (D_{l-1} W_l^T) * f'(A_l) + V_l`, from `D_1 = V_1`; nothing is added at the output."""
    tangent = hidden[0]
    for weight, a, direction in zip(case.net.weights[1:-1], case.passed.preactivations[1:], hidden[1:], strict=True):
        tangent = (tangent @ weight.T) * slope(case.net.nonlinearity, a) + direction
    return tangent @ case.net.weights[-1].T


def along_weights(case: Case, draws: Draws) -> Tensor:
    """`D_l = (D_{l-1} W_l^T + H_{l-1} V_l^T + v_l) * f'(A_l)`, from `D_0 = 0`; the output is linear."""
    tangent = torch.zeros(*draws.biases[0].shape[:2], case.passed.activations[0].shape[1], dtype=torch.float64)
    slopes = [slope(case.net.nonlinearity, a) for a in case.passed.preactivations] + [torch.ones_like(case.error)]
    layers = zip(case.net.weights, case.passed.activations, draws.weights, draws.biases, slopes, strict=True)
    for weight, h, direction, bias_direction, derivative in layers:
        own = torch.einsum("ni,knci->knc", h, direction) + bias_direction
        tangent = (tangent @ weight.T + own) * derivative
    return tangent


def slope_of_loss(error: Tensor, tangent: Tensor, num_positions: int = 1) -> Tensor:
    """`d[k, n] = sum_c E[n, c] D_L[k, n, c]`; rows that are one sample share the sum of theirs."""
    rows = torch.einsum("nc,knc->kn", error, tangent)
    samples = rows.reshape(len(rows), -1, num_positions).sum(-1, keepdim=True)
    return samples.expand(-1, -1, num_positions).reshape(rows.shape)


def times_direction(slopes: Tensor, direction: Tensor) -> Tensor:
    """`d[k, n] V[k, n]`, averaged over the K directions: `[N, ...]`."""
    return torch.einsum("kn,kn...->n...", slopes, direction) / len(slopes)
