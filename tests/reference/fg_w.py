"""Weight-perturbed forward gradients: `G = sum_n d_n V[n]`, `d_n = E[n] . D_L[n]`; a V for all is one repeated."""

from torch import Tensor

from reference.perceptron import Case
from reference.tangents import along_weights, slope_of_loss, times_direction


def gradients(case: Case) -> dict[str, Tensor | None]:
    slopes = slope_of_loss(case.error, along_weights(case, case.draws))
    found: dict[str, Tensor | None] = {}
    for layer, (weight, bias) in enumerate(zip(case.draws.weights, case.draws.biases, strict=True), start=1):
        found[f"fc{layer}.weight"] = times_direction(slopes, weight).sum(0)
        found[f"fc{layer}.bias"] = times_direction(slopes, bias).sum(0)
    return found
