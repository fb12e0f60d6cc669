"""Feedback alignment: `S_l = Delta_{l+1} R_{l+1}`, R of the shape of W."""

from reference.perceptron import Case, Signals, signals_layer_by_layer


def signals(case: Case) -> Signals:
    return signals_layer_by_layer(case, case.feedback)
