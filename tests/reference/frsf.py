"""Fixed random-magnitude sign-concordant feedback: `S_l = Delta_{l+1} (|M_{l+1}| * sign(W_{l+1}))`."""

from reference.perceptron import Case, Signals, sign, signals_layer_by_layer


def signals(case: Case) -> Signals:
    """`case.feedback` holds M_1 ... M_L, of any sign."""
    concordant = [m.abs() * sign(w) for m, w in zip(case.feedback, case.net.weights, strict=True)]
    return signals_layer_by_layer(case, concordant)
