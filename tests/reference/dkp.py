"""Direct Kolen-Pollack: `S_l = E B_l`, `G_{B_l} = E^T H_l`."""

from torch import Tensor

from reference import dfa
from reference.perceptron import Case, Signals


def signals(case: Case) -> Signals:
    return dfa.signals(case)


def learned(case: Case) -> dict[str, Tensor]:
    return {f"act{layer}": case.error.T @ h for layer, h in enumerate(case.passed.activations[1:], start=1)}
