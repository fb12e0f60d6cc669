"""From the tensors of a measured step to the numbers of its record."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.errors import FeedbackShapeError
from feedalign.handle import Handle
from feedalign.measure.alignment import angle
from feedalign.measure.feedback_distance import feedback_distance
from feedalign.measure.monitor_records import MonitorFeedback, MonitorLayer, MonitorRecord
from feedalign.measure.monitor_step import Activity, MeasuredStep
from feedalign.rules.base import Perturbing, WeightRule

Averages = MutableMapping[tuple[str, str], float]
"""Moving averages of the angles, by layer and name."""


def record_of(
    step: MeasuredStep, number: int, points: Mapping[str, str], averages: Averages, momentum: float
) -> MonitorRecord:
    """Return the record of a step, and move the averages on.

    Args:
        step: The step, run again.
        number: Its number.
        points: The feedback point that teaches each layer, by the layer's name.
        averages: Of the steps before.
        momentum: Weight of the average so far.

    Returns:
        The record.
    """
    layers = tuple(
        _layer(step, layer, name, points.get(layer), averages, momentum) for layer, name in step.weights.items()
    )
    handle = step.handle
    rule = None if handle is None else " + ".join(repr(one) for one in handle.rules)
    return MonitorRecord(number, rule, _norm(step.errors), step.replay_error, layers, _feedback(step.model, handle))


def _layer(
    step: MeasuredStep, layer: str, name: str, point: str | None, averages: Averages, momentum: float
) -> MonitorLayer:
    ruled, exact = ([one.weights[name]] if name in one.weights else [] for one in (step.ruled, step.exact))
    signals = _signals(step, point)
    turned = _angle(ruled, exact)
    of_signals = None if signals is None else _angle(*signals)
    norm, norm_backprop = _norm(ruled), _norm(exact)
    smoothed = [
        _averaged(averages, (layer, kind), found, momentum)
        for kind, found in (("angle", turned), ("signal_angle", of_signals))
    ]
    row = MonitorLayer(
        layer=layer,
        point=point,
        angle=turned,
        angle_ewma=smoothed[0],
        norm=norm,
        norm_backprop=norm_backprop,
        ratio=_ratio(norm, norm_backprop),
        signal_angle=of_signals,
        signal_angle_ewma=smoothed[1],
        signal_norm=None if signals is None else _norm(signals[0]),
        # At the steps of recurrent layers there is none: backprop runs them as one operation.
        signal_norm_backprop=None if signals is None or not signals[1] else _norm(signals[1]),
    )
    return replace(row, **_activity(step.activity.get(point or "")))


def _signals(step: MeasuredStep, point: str | None) -> tuple[list[Tensor], list[Tensor]] | None:
    """The rule's and backprop's signals at a point, forward by forward; None where none are to be expected."""
    rules = () if step.handle is None else step.handle.rules
    # These give weights their gradients without a signal.
    is_without = any(isinstance(rule, WeightRule) and isinstance(rule, Perturbing) for rule in rules)
    if point not in step.activity or is_without:
        return None
    ruled, exact = (
        [signal for (label, _), signal in sorted(one.signals.items()) if label == point]
        for one in (step.ruled, step.exact)
    )
    return ruled, exact


def _angle(ruled: Sequence[Tensor], exact: Sequence[Tensor]) -> float | None:
    """Degrees between two gradients, each in several parts; None where one is zero, nan where one is not finite."""
    if len(ruled) != len(exact) or not ruled:
        return None
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (ruled, exact))
    if not (bool(one.isfinite().all()) and bool(other.isfinite().all())):
        return math.nan
    found = angle(one, other)
    return None if math.isnan(found) else found


def _norm(parts: Sequence[Tensor]) -> float:
    """Euclidean norm of several tensors together; in double precision, where squares of small numbers are not zero."""
    return math.sqrt(sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in parts))


def _ratio(norm: float, norm_backprop: float) -> float | None:
    return norm / norm_backprop if norm_backprop != 0 else None


def _averaged(averages: Averages, key: tuple[str, str], found: float | None, momentum: float) -> float | None:
    """Move one average on; where there is no angle it stays and is not shown, lest it hide that."""
    if found is None or not math.isfinite(found):
        return None
    averages[key] = found if key not in averages else momentum * averages[key] + (1 - momentum) * found
    return averages[key]


def _activity(found: Activity | None) -> dict[str, Any]:
    if found is None or found.total == 0 or found.alive is None:
        return {}
    units = found.alive.numel()
    return {
        "density": int(found.nonzero) / found.total,
        "above_zero": int(found.above) / found.total,
        "dead": units - int(found.alive.sum()),
        "units": units,
    }


def _feedback(model: nn.Module, handle: Handle | None) -> MonitorFeedback | None:
    """The last feedback beside the output weight, where there is such a pair."""
    if handle is None or handle.last_pair is None:
        return None
    try:
        found = feedback_distance(model)
    except (FeedbackShapeError, ZeroDivisionError):
        return None
    turned = None if math.isnan(found.angle) else found.angle
    return MonitorFeedback(found.point, found.layer, found.distance, found.relative, turned)
