"""Adam over what a rule teaches: weights, and apart from them the feedback that is learned, whose rate stays."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import feedalign as fa

if TYPE_CHECKING:
    from feedalign_lab.learner import LearnerSpec

# A key of the optimizer's parameter groups.
_KEEPS_RATE = "keeps_rate"


def parameter_groups(spec: "LearnerSpec", handle: fa.Handle) -> list[dict[str, Any]]:
    """The model's parameters and, in a second group, the feedback that is learned.

    Args:
        spec: Rates and decays.
        handle: The rule's.

    Returns:
        Groups for an optimizer.
    """
    learns_feedback = spec.feedback_learning_rate is not None
    groups = handle.parameter_groups(
        lr=spec.learning_rate,
        feedback_lr=spec.feedback_learning_rate,
        weight_decay=spec.weight_decay,
        feedback_decay=spec.feedback_decay if learns_feedback else None,
    )
    return [{**group, _KEEPS_RATE: number > 0} for number, group in enumerate(groups)]


def adam(spec: "LearnerSpec", groups: list[dict[str, Any]]) -> torch.optim.Adam:
    """Adam in one fused kernel: the unfused loop over tensors is as much as a third of a step on small networks.

    Args:
        spec: Rates.
        groups: Of `parameter_groups`.

    Returns:
        The optimizer.
    """
    return torch.optim.Adam(groups, lr=spec.learning_rate, fused=True)


def decay_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply the learning rate, but for that of learned feedback.

    Args:
        optimizer: One over `parameter_groups`.
        factor: At most 1.
    """
    for group in optimizer.param_groups:
        if not group[_KEEPS_RATE]:
            group["lr"] *= factor


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Shorten the gradient of all weights together; learned feedback has gradients of its own, which stay.

    Args:
        optimizer: One over `parameter_groups`.
        norm: The largest norm.
    """
    groups = [group for group in optimizer.param_groups if not group[_KEEPS_RATE]]
    nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], norm)
