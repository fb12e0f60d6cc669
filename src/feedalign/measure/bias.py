"""How far the average of a rule's estimates points away from the true gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feedalign.handle import Handle
from feedalign.measure.alignment import angle, weight_gradients
from feedalign.measure.by_layer import ByLayer
from feedalign.measure.estimates import Batch, Estimator, LossFunction, checked


@dataclass(frozen=True)
class LayerBias:
    """Angles in degrees to backprop's gradient of one layer's weight; nan where one of the two is zero.

    Attributes:
        layer: The layer's name.
        averaged: Of the mean of all estimates. With a finite number of them an unbiased rule has an angle above zero
            too: compare with `expected`.
        single: Of one estimate, the mean over all.
        expected: What an unbiased rule of the same variance would show as `averaged`.
    """

    layer: str
    averaged: float
    single: float
    expected: float


@dataclass(frozen=True)
class Bias(ByLayer[LayerBias]):
    """Angles of all layers, in the order of the forward."""

    layers: tuple[LayerBias, ...]

    def __str__(self) -> str:
        width = max([5, *(len(row.layer) for row in self.layers)])
        lines = [f"{'layer'.ljust(width)}  averaged  if unbiased  single   (degrees to backprop)"]
        lines += [
            f"{row.layer.ljust(width)}  {row.averaged:8.1f}  {row.expected:11.1f}  {row.single:6.1f}"
            for row in self.layers
        ]
        return "\n".join(lines)


def bias(
    model: nn.Module | Handle, loss_fn: LossFunction, batch: Batch, *, num_draws: int = 100, seed: int = 0
) -> Bias:
    """Measure the angle between the averaged estimate of a rule and backprop's gradient on one batch, per layer.

    Parameters' `.grad`, buffers (the rule's clock among them) and random states are left as they were.

    Args:
        model: A model with a rule attached to it or to a part of it, or its handle.
        loss_fn: `loss_fn(model(inputs), targets)`, a scalar.
        batch: Inputs, as for `attach(example_inputs=...)`, and targets.
        num_draws: Estimates that are averaged, at least 2; rules without randomness are run once.
        seed: Of the draws.

    Returns:
        The angles, layer by layer.

    Raises:
        AttachError: No rule is attached or it was removed, or an argument is of the wrong kind.
        WrappedModelError: The model is sharded.

    Source: Bacho & Chu 2024, Fig. 8.
    """
    model, handle = checked(model, loss_fn, batch, num_draws)
    exact = weight_gradients(model, handle, loss_fn, batch)
    estimator = Estimator(model, loss_fn, seed)
    num_draws = num_draws if estimator.has_clock else 1
    total = {layer: torch.zeros_like(found, dtype=torch.float64) for layer, found in exact.items()}
    squares = dict.fromkeys(exact, 0.0)
    singles: dict[str, list[float]] = {layer: [] for layer in exact}
    left = num_draws
    while left > 0:
        num = min(left, estimator.per_call())
        left -= num
        for layer, found in estimator.estimates([(batch[0], batch[1])], num).items():
            draws = found[0].double()
            total[layer] += draws.sum(0)
            squares[layer] += float(draws.square().sum())
            singles[layer] += [angle(draw, exact[layer]) for draw in draws]
    return Bias(
        tuple(
            LayerBias(
                layer,
                angle(total[layer], exact[layer]),
                sum(singles[layer]) / num_draws,
                _expected(exact[layer], total[layer] / num_draws, squares[layer] / num_draws, num_draws),
            )
            for layer in exact
        )
    )


def _expected(exact: Tensor, mean: Tensor, mean_square: float, num_draws: int) -> float:
    """Angle between a gradient and itself with the noise that is left in a mean of so many estimates."""
    if num_draws == 1:
        return 0.0
    noise = max(mean_square - float(mean.square().sum()), 0.0) / (num_draws - 1)
    size = float(exact.double().square().sum())
    if size == 0:
        return float("nan")
    return float(torch.rad2deg(torch.atan(torch.tensor(noise / size).sqrt())))
