"""Activity-perturbed forward gradients: `d_n = E[n] . D_L[n]`, `S_l = d_n U_l[n]`, the output's too if perturbed."""

from torch import Tensor

from reference import perceptron
from reference.perceptron import Case
from reference.tangents import along_activations, slope_of_loss, times_direction


def gradients(case: Case) -> dict[str, Tensor | None]:
    hidden, at_output = case.draws.hidden, case.draws.output
    tangent = along_activations(case, hidden)
    if case.options["output"] == "perturbed":
        assert at_output is not None
        tangent = tangent + at_output
    slopes = slope_of_loss(case.error, tangent, case.num_positions)
    signals: perceptron.Signals = [times_direction(slopes, u) for u in hidden]
    is_exact = case.options["output"] == "exact"
    return perceptron.gradients(case, signals, None if is_exact else times_direction(slopes, at_output))
