"""Backprop: `S_l = Delta_{l+1} W_{l+1}`."""

from reference.perceptron import Case, Signals, signals_layer_by_layer


def signals(case: Case) -> Signals:
    return signals_layer_by_layer(case, case.net.weights)
