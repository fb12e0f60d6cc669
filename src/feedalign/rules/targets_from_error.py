"""Reading the targets and the loss's scale back from an error `E = s * (prediction - Y)`."""

from __future__ import annotations

import torch
from torch import Tensor

# What rounding may do to an error's form, as a fraction of its norm: a thousandth, or 8 roundings of half precision.
FORM_TOLERANCE = 1e-3
ROUNDINGS = 8


def read_targets(error: Tensor, output: Tensor, link: str) -> tuple[Tensor, Tensor]:
    """Return the hard targets and the scale of each sample's loss.

    Works on ratios of small numbers that are exact in floating point, never on `1 - p` of a confident p.

    Args:
        error: dL/da, `[..., C]`, at the output before its softmax or sigmoid.
        output: a, `[..., C]`.
        link: `"softmax"` or `"sigmoid"`.

    Returns:
        Targets `[..., C]` of zeros and ones, and the scale `s` `[..., 1]` (zero where the error is all zero), in
        the error's dtype.
    """
    targets, _, scale = _read(error, output, link)
    return targets.to(error.dtype), scale.to(error.dtype)


def _read(error: Tensor, output: Tensor, link: str) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, how far each prediction is from its target, and scales, at least in single precision."""
    dtype = torch.promote_types(error.dtype, torch.float32)
    error, output = error.to(dtype), output.to(dtype)
    targets, distance, magnitude = (_softmax if link == "softmax" else _sigmoid)(error, output)
    total = distance.sum(-1, keepdim=True)
    scale = torch.where(total > 0, magnitude.sum(-1, keepdim=True) / total, torch.zeros_like(total))
    return targets, distance, scale


def _softmax(error: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The target's error is the only one not above zero; ties (underflow) go to the largest output."""
    smallest = error.amin(-1, keepdim=True)
    candidates = output.masked_fill(error > smallest, -torch.inf)
    classes = torch.arange(output.shape[-1], device=output.device)
    targets = (classes == candidates.argmax(-1, keepdim=True)).to(error.dtype)
    others = 1 - targets
    return targets, output.softmax(-1) * others, error * others


def _sigmoid(error: Tensor, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An error of exactly zero comes from a prediction that rounded to its target."""
    is_one = (error < 0) | ((error == 0) & (output > 0))
    distance = torch.where(is_one, (-output).sigmoid(), output.sigmoid())
    return is_one.to(error.dtype), distance, error.abs()


def predict(output: Tensor, link: str) -> Tensor:
    """Return the prediction that a link makes of an output.

    Args:
        output: a, `[..., C]`.
        link: `"softmax"` or `"sigmoid"`.

    Returns:
        The prediction, `[..., C]`.
    """
    return output.softmax(-1) if link == "softmax" else output.sigmoid()


def has_form(error: Tensor, output: Tensor, link: str) -> Tensor:
    """Tell whether the error is `s * (link(output) - targets)` with hard targets, up to rounding.

    Args:
        error: dL/da, `[..., C]`.
        output: a, `[..., C]`.
        link: `"softmax"` or `"sigmoid"`.

    Returns:
        A bool scalar; True also where the error overflowed and nothing can be told.
    """
    targets, distance, scale = _read(error, output, link)
    # Never `prediction - 1`: of a confident prediction only rounding would be left.
    at_target = -distance.sum(-1, keepdim=True) if link == "softmax" else -distance
    form = torch.where(targets > 0, at_target, distance)
    misfit, size = (error - scale * form).norm(), error.to(scale.dtype).norm()
    # Rounding of the error itself, of a prediction next to 1, and of numbers next to zero.
    info = torch.finfo(error.dtype)
    rounding = ROUNDINGS * info.eps
    allowed = max(FORM_TOLERANCE, rounding) * size + rounding * (scale.norm() + info.tiny * error.numel() ** 0.5)
    fits: Tensor = (misfit <= allowed) | ~size.isfinite()
    return fits


_SATURATED = (
    " Under the right loss, a sigmoid output saturated far beyond its target loses the form too: lower the learning "
    "rate."
)


def wrong_form(link: str, rule: str) -> str:
    """Return the sentence that says what is wrong with the error and what to do.

    Args:
        link: `"softmax"` or `"sigmoid"`.
        rule: The rule's class name.

    Returns:
        The sentence.
    """
    other = "sigmoid" if link == "softmax" else "softmax"
    return (
        f"{rule} reads the targets and the scale of the loss from the error, which for a {link} output with hard "
        f"targets is s * ({link}(output) - targets); the error that arrived is not of this form. "
        f"For {'binary ' if other == 'sigmoid' else ''}cross-entropy on a {other} output use "
        f"fa.{rule}(link={other!r}); for label smoothing or any other loss use fa.DFA() or fa.ActivityPerturbed(), "
        "or give the targets to fa.DRTP with handle.targets(y)." + ("" if link == "softmax" else _SATURATED)
    )
