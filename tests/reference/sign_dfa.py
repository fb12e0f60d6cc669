"""sDFA: `S_l = s * sign(E) B_l`, the loss's scale `s` given back to the sign."""

from reference.perceptron import Case, Signals, sign


def signals(case: Case) -> Signals:
    return [(case.scale * sign(case.error)) @ matrix for matrix in case.feedback]
