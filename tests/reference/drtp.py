"""Direct random target projection: `S_l = -s * Y B_l`, the error `s * (prediction - Y)` without the prediction."""

from reference.perceptron import Case, Signals


def signals(case: Case) -> Signals:
    return [(-case.scale * case.targets) @ matrix for matrix in case.feedback]
