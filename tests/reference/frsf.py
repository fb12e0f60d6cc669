"""Fixed random-magnitude sign-concordant feedback: `S_l = Delta_{l+1} (|M_{l+1}| * sign(W_{l+1}))`."""

from reference.perceptron import Case, Signals, sign, signals_layer_by_layer


def signals(case: Case) -> Signals:
    """`case.feedback` holds M_2 ... M_L, of any sign, behind a place for the first layer's, which has none."""
    none, *magnitudes = case.feedback
    concordant = [m.abs() * sign(w) for m, w in zip(magnitudes, case.net.weights[1:], strict=True)]
    return signals_layer_by_layer(case, [none, *concordant])
