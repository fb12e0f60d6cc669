"""Forward direct feedback alignment: `S_l = E B_l`, B_l led to `T_l = (1/N) D_L^T V_l`, the mean over K directions."""

import torch
from torch import Tensor

from reference.perceptron import Case, Signals
from reference.tangents import along_activations


def estimates(case: Case) -> list[Tensor]:
    """T_1 ... T_{L-1}, `[C, n_l]`."""
    tangent = along_activations(case, case.draws.hidden)
    num_terms = tangent.shape[0] * tangent.shape[1]
    return [torch.einsum("knc,knd->cd", tangent, v) / num_terms for v in case.draws.hidden]


def averaged(case: Case) -> list[Tensor]:
    """`(1 - a) B_l + a T_l`; a is a hundredth where nothing else is said."""
    rate = 0.01 if case.options["rate"] is None else case.options["rate"]
    return [(1 - rate) * b + rate * t for b, t in zip(case.feedback, estimates(case), strict=True)]


def signals(case: Case) -> Signals:
    is_new = case.options["projects"] == "new"
    return [case.error @ matrix for matrix in (averaged(case) if is_new else case.feedback)]


def learned(case: Case) -> dict[str, Tensor]:
    """`G_{B_l} = B_l - T_l`, which no loss enters; an average has no gradient."""
    if case.options["update"] == "ema":
        return {}
    pairs = zip(case.feedback, estimates(case), strict=True)
    return {f"act{layer}": b - t for layer, (b, t) in enumerate(pairs, start=1)}
