"""The Mackey-Glass equation, simulated: a chaotic series to be forecast at every step."""

import numpy as np
import torch
from numpy.typing import NDArray

from feedalign_lab.data.dataset import Dataset, Part

NUM_STEPS = 100
HORIZON = 6
_NUM_TRAIN, _NUM_VALIDATION, _NUM_TEST = 600, 200, 200
_SEED = 0

_BETA, _GAMMA, _EXPONENT, _DELAY = 0.2, 0.1, 10, 17
_SUBSTEPS = 10
_BURN_IN = 500
# The series starts from a constant past around the value at which it would stand still.
_START, _SPREAD_OF_START = 1.2, 0.2

Values = NDArray[np.float64]


def load_mackey_glass() -> Dataset:
    """1,000 stretches of 100 steps; at every step the value 6 steps later is to be told: 600 + 200 + 200 examples.

    Every stretch is a simulation of its own, from a random past and after a burn-in of 500 steps, so that no part knows
    anything of another. Values are scaled to mean 0 and variance 1 over the training part: the squared error of the
    mean is about 1.
    """
    lengths = _NUM_TRAIN, _NUM_VALIDATION, _NUM_TEST
    series = simulate(sum(lengths), NUM_STEPS + HORIZON, _SEED)
    known = series[:_NUM_TRAIN]
    scaled = torch.from_numpy((series - known.mean()) / known.std()).to(torch.float32).unsqueeze(2)
    whole = windows(scaled, HORIZON)
    x, y = whole.x.split(lengths), whole.y.split(lengths)
    return Dataset(
        "mackey-glass",
        x[0],
        y[0],
        x[2],
        y[2],
        None,
        "forecasting",
        "mean 0 and variance 1 over the training part",
        validation=Part(x[1], y[1]),
    )


def windows(series: torch.Tensor, horizon: int) -> Part:
    """What is seen and what is to be told at every step.

    Args:
        series: Values [N, T + horizon, D].
        horizon: How many steps later the value lies that is to be told, at least 1.

    Returns:
        Inputs and targets, each [N, T, D].
    """
    return Part(series[:, :-horizon].contiguous(), series[:, horizon:].contiguous())


def simulate(num_series: int, num_steps: int, seed: int) -> Values:
    """Solutions of dx/dt = beta x(t - tau) / (1 + x(t - tau)^10) - gamma x, one value per unit of time.

    beta = 0.2, gamma = 0.1 and tau = 17, where the solution is chaotic; Runge-Kutta of fourth order, ten substeps to
    a step, the delayed value between two substeps being their mean.

    Source: Mackey & Glass 1977, Eq. 4b; the values of the constants are those of most forecasting benchmarks.

    Args:
        num_series: N, simulated side by side from pasts of their own, each constant.
        num_steps: T, counted from the end of the burn-in.
        seed: Seed of the pasts.

    Returns:
        Values [N, T].
    """
    delay = _DELAY * _SUBSTEPS
    past = _START + _SPREAD_OF_START * np.random.default_rng(seed).uniform(-1, 1, num_series)
    values: Values = np.empty((delay + (_BURN_IN + num_steps) * _SUBSTEPS, num_series))
    values[: delay + 1] = past
    for now in range(delay, len(values) - 1):
        values[now + 1] = _substep(values[now], values[now - delay], values[now - delay + 1])
    start = delay + _BURN_IN * _SUBSTEPS
    return values[start::_SUBSTEPS].T.copy()


def _substep(x: Values, delayed: Values, delayed_next: Values) -> Values:
    """The value one substep later, from those one delay earlier, at the start and at the end of the substep."""
    width = 1 / _SUBSTEPS
    first = _slope(x, delayed)
    between = (delayed + delayed_next) / 2
    second = _slope(x + width / 2 * first, between)
    third = _slope(x + width / 2 * second, between)
    fourth = _slope(x + width * third, delayed_next)
    result: Values = x + width / 6 * (first + 2 * second + 2 * third + fourth)
    return result


def _slope(x: Values, delayed: Values) -> Values:
    """The right-hand side of the equation."""
    result: Values = _BETA * delayed / (1 + delayed**_EXPONENT) - _GAMMA * x
    return result
