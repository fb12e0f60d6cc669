"""Uniform sign-concordant feedback: `S_l = Delta_{l+1} (c * sign(W_{l+1}))`."""

import math

from reference.perceptron import Case, Signals, sign, signals_layer_by_layer


def signals(case: Case, magnitude: float | None = None) -> Signals:
    """Without a magnitude c: the standard deviation of U(+-1/sqrt(fan_in)), which is 1/sqrt(3 fan_in)."""
    weights = case.net.weights
    magnitudes = [magnitude if magnitude is not None else math.sqrt(1 / (3 * w.shape[1])) for w in weights]
    return signals_layer_by_layer(case, [c * sign(w) for c, w in zip(magnitudes, weights, strict=True)])
