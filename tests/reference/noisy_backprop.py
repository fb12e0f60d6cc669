"""Noisy backprop: `G = G_BP + s * xi`, at every parameter."""

from torch import Tensor

from reference import backprop, perceptron
from reference.perceptron import Case


def gradients(case: Case) -> dict[str, Tensor | None]:
    found = perceptron.gradients(case, backprop.signals(case))
    for layer, (weight, bias) in enumerate(zip(case.draws.weights, case.draws.biases, strict=True), start=1):
        for name, noise in ((f"fc{layer}.weight", weight), (f"fc{layer}.bias", bias)):
            exact = found[name]
            assert exact is not None
            found[name] = exact + case.options["std"] * noise
    return found
