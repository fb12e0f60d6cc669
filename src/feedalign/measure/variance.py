"""Variance of a rule's gradient estimates: what sampling the data adds, and what the rule's own randomness adds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from feedalign.errors import AttachError
from feedalign.handle import Handle
from feedalign.measure.by_layer import ByLayer
from feedalign.measure.estimates import Batch, Estimator, LossFunction, checked, split


@dataclass(frozen=True)
class LayerVariance:
    """Variances of the estimates of one layer's weight gradient, summed over its entries.

    Attributes:
        layer: The layer's name.
        sampling: `Var_x E_v[g | x]`: between groups of samples. An unbiased estimate of it, which may come out below
            zero where it is small beside `estimation`; nan where there is one group.
        estimation: `E_x Var_v[g | x]`: between draws of the perturbations; zero for rules without randomness.
        squared_norm: `E |g|^2`.
        num_entries: Of the weight.
    """

    layer: str
    sampling: float
    estimation: float
    squared_norm: float
    num_entries: int

    @property
    def total(self) -> float:
        """Both parts; with one group the estimation part alone."""
        return self.estimation if self.sampling != self.sampling else self.sampling + self.estimation

    @property
    def normalised(self) -> float:
        """The variance over the expected squared norm, in [0, 1] up to the error of measuring it."""
        return self.total / self.squared_norm if self.squared_norm > 0 else 0.0


@dataclass(frozen=True)
class Variance(ByLayer[LayerVariance]):
    """Variances of all layers, in the order of the forward."""

    layers: tuple[LayerVariance, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = [{**asdict(row), "total": row.total, "normalised": row.normalised} for row in self.layers]
        return {"layers": rows}

    def __str__(self) -> str:
        width = max([5, *(len(row.layer) for row in self.layers)])
        lines = [f"{'layer'.ljust(width)}  {'sampling':>10}  {'estimation':>10}  {'normalised':>10}"]
        lines += [
            f"{row.layer.ljust(width)}  {row.sampling:10.3g}  {row.estimation:10.3g}  {row.normalised:10.3g}"
            for row in self.layers
        ]
        return "\n".join(lines)


@dataclass
class _Sums:
    """Running sums over groups of one layer; a group's mean over draws, and its variance over draws."""

    mean: Tensor
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    estimation: float = 0.0
    squared_norm: float = 0.0
    num_groups: int = 0

    def add(self, estimates: Tensor) -> None:
        """Add groups of estimates, `[groups, draws, *weight.shape]` (Welford)."""
        for group in estimates.double():
            mean = group.mean(0)
            self.estimation += float(group.var(0, correction=1).sum()) if len(group) > 1 else 0.0
            self.squared_norm += float(group.square().sum()) / len(group)
            self.num_groups += 1
            difference = mean - self.mean
            self.mean = self.mean + difference / self.num_groups
            self.squares = self.squares + (difference * (mean - self.mean)).sum()


def variance(
    model: nn.Module | Handle,
    loss_fn: LossFunction,
    batch: Batch,
    *,
    num_draws: int = 32,
    group_size: int = 1,
    seed: int = 0,
) -> Variance:
    """Measure the variance of a rule's gradient estimates, per layer, in two parts.

    The batch is cut into groups of samples, for each of which the gradient is estimated with many draws of the
    perturbations. By the law of total variance `Var[g] = Var_x E_v[g | x] + E_x Var_v[g | x]`: the first part comes
    from which samples were seen and falls with the group's size; the second from the rule's randomness. Draws, and
    groups where their gradients fit the memory, are made in one vectorised call; models with batch normalization,
    dropout or dual tensors go one by one. Parameters' `.grad`, buffers (the rule's clock among them) and random states
    are left as they were.

    Args:
        model: A model with a rule attached to it or to a part of it, or its handle.
        loss_fn: `loss_fn(model(inputs), targets)`, a scalar.
        batch: Inputs, as for `attach(example_inputs=...)`, and targets; all tensors with the samples first.
        num_draws: Draws of the perturbations per group, at least 2; rules without randomness are run once.
        group_size: Samples per estimate; samples that fill no group are left out.
        seed: Of the draws.

    Returns:
        The variances of each layer's weight gradient.

    Raises:
        AttachError: No rule is attached or it was removed, or an argument is of the wrong kind.
        WrappedModelError: The model is sharded.

    Source: Bacho & Chu 2024, Proposition 1 (Eqs. 16 to 18); the normalised variance, Fig. 7.
    """
    model, _ = checked(model, loss_fn, batch, num_draws)
    groups = split(batch, group_size)
    estimator = Estimator(model, loss_fn, seed)
    if group_size == 1 and any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
        raise AttachError(
            "Batch normalization in training mode needs several samples at once; give group_size=, or model.eval()."
        )
    num_draws = num_draws if estimator.has_clock else 1
    if len(groups) == 1 and num_draws == 1:
        raise AttachError("A rule without randomness on one group of samples has no variance; give more samples.")
    shapes = {layer: estimator.parameters[name].shape for layer, name in estimator.layers.items()}
    sums = {layer: _Sums(torch.zeros(shape, dtype=torch.float64)) for layer, shape in shapes.items()}
    at_once = max(1, estimator.per_call() // num_draws)
    for start in range(0, len(groups), at_once):
        for layer, found in estimator.estimates(groups[start : start + at_once], num_draws).items():
            sums[layer].add(found.cpu())
    return Variance(tuple(_row(layer, found, num_draws) for layer, found in sums.items()))


def _row(layer: str, sums: _Sums, num_draws: int) -> LayerVariance:
    num = sums.num_groups
    estimation = sums.estimation / num
    # The means over draws still hold 1 / num_draws of the estimation part.
    sampling = float(sums.squares) / (num - 1) - estimation / num_draws if num > 1 else float("nan")
    return LayerVariance(layer, sampling, estimation, sums.squared_norm / num, sums.mean.numel())
