"""Local greedy forward gradients: heads `Z_l = H_l C_l^T + c_l` at hidden layers but the last, FG-A within a layer."""

from torch import Tensor

from reference.losses import error_at_output
from reference.perceptron import Case, Signals
from reference.tangents import slope_of_loss, times_direction


def local_errors(case: Case) -> list[Tensor]:
    """E^1 ... E^{L-2}: of the same loss on the heads' outputs."""
    outputs = [h @ head.weight.T + head.bias for h, head in zip(case.passed.activations[1:-1], case.heads, strict=True)]
    return [error_at_output(case.loss, output, case.targets, case.scale) for output in outputs]


def signals(case: Case) -> Signals:
    """`d_n = E^l[n] . (U_l C_l^T)[n]`, `S_l = d_n U_l[n]`; the last hidden layer: the loss itself, through `W_L`."""
    errors = [*local_errors(case), case.error]
    weights = [*(head.weight for head in case.heads), case.net.weights[-1]]
    return [
        times_direction(slope_of_loss(error, u @ weight.T, case.num_positions), u)
        for error, weight, u in zip(errors, weights, case.draws.hidden, strict=True)
    ]


def learned(case: Case) -> dict[str, Tensor]:
    """`G_C = E^l^T H_l`, `G_c = sum_n E^l[n]`."""
    found = {}
    for layer, error in enumerate(local_errors(case), start=1):
        found[f"act{layer}"] = error.T @ case.passed.activations[layer]
        found[f"act{layer}_bias"] = error.sum(0)
    return found
