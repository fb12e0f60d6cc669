"""When a trial has diverged, and the sentence that says where."""

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from feedalign.errors import ErrorFormError
from feedalign.measure import LayerAlignment
from feedalign_lab.errors import DivergedError
from feedalign_lab.learner import Learner


class Measured(Protocol):
    """What has angles: a trial."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What moves it."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    def alignment(self) -> tuple[LayerAlignment, ...]:
        """Angles between the rule's signals and backprop's."""


class Trained(Protocol):
    """What is trained: a trial, or a learner."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What moves it."""


_BLOWN_UP = 2.0
# Where a sigmoid's slope is below this, PyTorch's binary cross-entropy no longer passes the whole error on.
_SATURATED_SLOPE = 1e-12


def checked_step(learner: Learner, rule: str, x: Tensor, y: Tensor, when: str) -> float:
    """One update that stops the trial at an output or a loss that is not finite.

    Args:
        learner: The learner; it takes a step.
        rule: Name of its rule, for the sentence.
        x: Inputs [N, ...].
        y: Targets as the loss takes them.
        when: Where in the training this is, for the sentence.

    Returns:
        The loss before the step.

    Raises:
        DivergedError: Something is not finite, or the rule can no longer read targets from the error.
    """
    output = learner.model(x)
    # Looked at before the loss, because binary cross-entropy fails on nan instead of passing it on.
    if not math.isfinite(float(output.detach().sum())):
        if not bool(torch.isfinite(x).all()):
            raise DivergedError(f"{rule}: the inputs of {when} hold numbers that are not finite.")
        raise diverged(learner, rule, "the output", when)
    loss = learner.loss_function(output, y)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise diverged(learner, rule, f"the loss ({value})", when)
    try:
        learner.update(loss)
    except ErrorFormError as error:
        if not _is_saturated(learner, output.detach()):
            raise
        raise DivergedError(
            f"{rule}: the outputs are saturated at {when}, so that the targets can no longer be read from the error; "
            f"{advice(learner)}."
        ) from error
    return value


def checked_alignment(trial: Measured, rule: str, epoch: int) -> tuple[LayerAlignment, ...]:
    """The angles of a trial after an epoch.

    Args:
        trial: The trial.
        rule: Name of its rule, for the sentence.
        epoch: Number of the epoch, for the sentence.

    Returns:
        One entry per layer.

    Raises:
        DivergedError: The rule can no longer read targets from the error.
    """
    try:
        return trial.alignment()
    except ErrorFormError as error:
        raise DivergedError(
            f"{rule}: the outputs are saturated after epoch {epoch}, so that the targets can no longer be read from "
            f"the error; {advice(trial)}."
        ) from error


def _is_saturated(learner: Learner, output: Tensor) -> bool:
    """Whether the loss no longer passes the whole error on: binary cross-entropy behind a sigmoid with no slope."""
    is_sigmoid = learner.loss_function is functional.binary_cross_entropy
    return is_sigmoid and bool((output * (1 - output) < _SATURATED_SLOPE).any())


def check_the_end(trained: Trained, rule: str, untrained_loss: float, last_loss: float) -> None:
    """Refuse to call a trial finished whose loss blew up without ceasing to be finite.

    Args:
        trained: The model after its last step.
        rule: Name of its rule, for the sentence.
        untrained_loss: Loss before the first step; nan where it is not known, and then nothing is refused.
        last_loss: Mean training loss of the last epoch.

    Raises:
        DivergedError: The loss is far above that of the start, or no lower while every gradient is zero.
    """
    against = f"against {untrained_loss:.3g} of the untrained network; {advice(trained)}."
    if last_loss > _BLOWN_UP * untrained_loss:
        raise DivergedError(f"{rule}: the training loss of the last epoch is {last_loss:.3g}, {against}")
    if last_loss >= untrained_loss and has_stopped(trained.model):
        raise DivergedError(f"{rule}: every gradient is zero at a training loss of {last_loss:.3g}, {against}")


def has_stopped(model: nn.Module) -> bool:
    """Whether there are gradients, and all of them are zero.

    Args:
        model: A network after a backward.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(gradients) and not any(bool(gradient.any()) for gradient in gradients)


def advice(trained: Trained) -> str:
    """What to try where a trial diverged.

    Args:
        trained: The model with its optimizer.
    """
    return f"try a learning rate below {trained.optimizer.defaults['lr']:g}"


def first_non_finite(model: nn.Module) -> str | None:
    """The first parameter, in the order of the layers, that holds a number that is not finite.

    Args:
        model: The network, with the gradients of its last step.

    Returns:
        The parameter's name, with "gradient of" before it if only its gradient is affected; None if all is
        finite.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return name
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name}"
    return None


def diverged(trained: Trained, rule: str, what: str, when: str) -> DivergedError:
    """The error that names the step, the first layer affected and the rule.

    Args:
        trained: The model with its optimizer.
        rule: Name of its rule.
        what: What is not finite.
        when: Where in the training this is.

    Returns:
        The error, to be raised.
    """
    where = first_non_finite(trained.model)
    origin = f"first in {where}" if where else "though every parameter still is"
    return DivergedError(f"{rule}: {what} is no longer finite at {when}, {origin}; {advice(trained)}.")
