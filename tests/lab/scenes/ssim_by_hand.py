"""Structural similarity written out: Wang et al. (2004), a Gaussian window of 11 and 1.5 pixels."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

_RADIUS, _SIGMA = 5, 1.5


def ssim_by_hand(shown: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """The mean over pictures `[V, H, W, 3]`, places and colours; what is beyond an edge is mirrored at it."""
    steps = np.arange(-_RADIUS, _RADIUS + 1)
    window = np.exp(-(steps**2) / (2 * _SIGMA**2))
    window /= window.sum()

    def blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return convolve1d(convolve1d(values, window, axis=1, mode="mirror"), window, axis=2, mode="mirror")

    mean_a, mean_b = blurred(shown), blurred(truth)
    var_a, var_b = blurred(shown**2) - mean_a**2, blurred(truth**2) - mean_b**2
    both = blurred(shown * truth) - mean_a * mean_b
    one, two = 0.01**2, 0.03**2
    similar = (2 * mean_a * mean_b + one) * (2 * both + two)
    return float((similar / ((mean_a**2 + mean_b**2 + one) * (var_a + var_b + two))).mean())
