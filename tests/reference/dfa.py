"""Direct feedback alignment: `S_l = E B_l`, B_l `[C, D_l]`."""

from reference.perceptron import Case, Signals


def signals(case: Case) -> Signals:
    return [case.error @ matrix for matrix in case.feedback]
