"""Fields, ray marching and their gradients written out in numpy: no autograd, no import of what is tested."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def march_by_hand(raw: Array, depths: Array, length: float, background: float) -> tuple[Array, Array]:
    """Colour of one ray and the weights of its samples, one sample after the other."""
    num_samples = len(depths)
    light, colour, weights = 1.0, np.zeros(3), np.zeros(num_samples)
    for i in range(num_samples):
        stretch = (depths[i + 1] - depths[i] if i + 1 < num_samples else 1e10) * length
        stopped = 1 - math.exp(-max(raw[i, 3], 0.0) * stretch)
        weights[i] = light * stopped
        colour += weights[i] / (1 + np.exp(-raw[i, :3]))
        light *= 1 - stopped
    return colour + light * background, weights


def march_gradient(raw: Array, depths: Array, length: float, background: float, wanted: Array) -> Array:
    """Gradient `[S, 4]` with respect to `raw` of the inner product of a ray's colour with `wanted`.

    With T the light that is left behind a sample, `dC/ds_i = d_i (T_(i+1) c_i - sum_(j>i) w_j c_j - T_end bg)`.
    """
    num_samples = len(depths)
    _, weights = march_by_hand(raw, depths, length, background)
    colours = 1 / (1 + np.exp(-raw[:, :3]))
    behind = 1 - np.cumsum(weights)
    gradient = np.zeros((num_samples, 4))
    for i in range(num_samples):
        gradient[i, :3] = wanted * weights[i] * colours[i] * (1 - colours[i])
        if raw[i, 3] > 0 and i + 1 < num_samples:
            later = sum((weights[j] * colours[j] for j in range(i + 1, num_samples)), np.zeros(3))
            slope = behind[i] * colours[i] - later - behind[-1] * background
            gradient[i, 3] = (depths[i + 1] - depths[i]) * length * float(wanted @ slope)
    return gradient


def encode_by_hand(values: Array, num_frequencies: int) -> Array:
    """The values, sines by frequency, cosines by frequency, number by number."""
    rows = []
    for row in values:
        sines = [math.sin(2**k * value) for k in range(num_frequencies) for value in row]
        cosines = [math.cos(2**k * value) for k in range(num_frequencies) for value in row]
        rows.append([*row, *sines, *cosines])
    return np.array(rows)


Weights = dict[str, Array]


def _linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _given(gradients: Weights, name: str, delta: Array, x: Array) -> None:
    gradients[f"{name}.weight"], gradients[f"{name}.bias"] = delta.T @ x, delta.sum(0)


class FieldByHand:
    """A field's forward, and its gradients under DFA from an error at its output."""

    def __init__(self, weights: Weights, num_layers: int, skips: tuple[int, ...]) -> None:
        self.weights, self.num_layers, self.skips = weights, num_layers, skips

    def forward(self, points: Array, directions: Array | None) -> Array:
        """Return `[P, 4]`, and keep what each layer saw and made."""
        self.seen: dict[str, Array] = {}
        self.made: dict[str, Array] = {}
        h = points
        for number in range(self.num_layers):
            x = np.concatenate([points, h], 1) if number in self.skips else h
            h = self._run(f"layers.{number}", x, rectified=True)
        if directions is None:
            return self._run("output", h)
        feature = self._run("feature", h)
        shown = self._run("view", np.concatenate([feature, directions], 1), rectified=True)
        return np.concatenate([self._run("colour", shown), self._run("density", h)], 1)

    def _run(self, name: str, x: Array, *, rectified: bool = False) -> Array:
        self.seen[name] = x
        a = _linear(self.weights, name, x)
        self.made[name] = np.maximum(a, 0) if rectified else a
        return self.made[name]

    def dfa(self, error: Array, feedback: dict[str, Array]) -> Weights:
        """Gradients: `e B` at every hidden layer, through its own rectifier, and the error itself at the output."""
        gradients: Weights = {}
        heads = {"output": error} if "output" in self.made else {"colour": error[:, :3], "density": error[:, 3:]}
        for name, delta in heads.items():
            _given(gradients, name, delta, self.seen[name])
        for name, matrix in feedback.items():
            signal = error @ matrix
            delta = signal if name == "feature" else signal * (self.made[name] > 0)
            _given(gradients, name, delta, self.seen[name])
        return gradients
