"""A plain training loop over tensors, with one record per epoch."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.errors import ErrorFormError
from feedalign_lab.data.augmentation import flip_horizontally
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.errors import DivergedError, SettingError
from feedalign_lab.learner import Learner, LearnerSpec
from feedalign_lab.records import EpochRecord, Status, TrialResult
from feedalign_lab.seeding import generator, stream_seed

_TEST_BATCH_SIZE = 500
_ALIGNMENT_BATCH_SIZE = 256
_BLOWN_UP = 2.0
# Where a sigmoid's slope is below this, PyTorch's binary cross-entropy no longer passes the whole error on.
_SATURATED_SLOPE = 1e-12


@dataclass(frozen=True)
class Schedule:
    """How long and on what to train.

    Attributes:
        epochs: Passes over the training data, at least 1.
        batch_size: Examples per step, at least 1; the last batch of an epoch may be smaller.
        flip: Mirror training images at random.
    """

    epochs: int
    batch_size: int
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.epochs < 1:
            raise SettingError(f"The number of epochs must be at least 1, not {self.epochs}.")
        if self.batch_size < 1:
            raise SettingError(f"The batch size must be at least 1, not {self.batch_size}.")

    def check(self, dataset: Dataset) -> None:
        """Refuse a data set that does not suit.

        Args:
            dataset: The data set to train on.

        Raises:
            SettingError: There is something to flip only in images.
        """
        if self.flip and dataset.x_train.dim() != 4:
            raise SettingError(f"{dataset.name} does not consist of images, so there is nothing to flip.")


def run_trial(
    learner: Learner,
    spec: LearnerSpec,
    schedule: Schedule,
    dataset: Dataset,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrialResult:
    """Train a learner and keep a record of every epoch.

    Ctrl-C ends the trial early; the epochs before stay in the result. A trial has diverged where

    * an output, a loss, a parameter or a gradient is not finite: it ends there;
    * the outputs are so saturated that a rule can no longer read the targets from the error: it ends there;
    * the mean training loss of the last epoch is more than twice that of the untrained network;
    * at the end every gradient is exactly zero, while the loss is no lower than that of the untrained network.

    The last two are judged once all epochs are done, so that a bad start that is made good is no divergence. A
    network that is stuck at chance without having blown up has not diverged.

    Args:
        learner: The learner; trained in place.
        spec: What it was made from.
        schedule: How long to train.
        dataset: What to train and test on.
        on_epoch: Called with each record as it is made.

    Returns:
        The result, whose status says how the trial ended.
    """
    records: list[EpochRecord] = []
    status: Status = "finished"
    message = ""
    untrained_loss = _untrained_loss(learner, dataset, spec.seed)
    try:
        for record in _epochs(learner, spec, schedule, dataset):
            records.append(record)
            if on_epoch is not None:
                on_epoch(record)
        _check_the_end(learner, spec.rule, untrained_loss, records[-1].train_loss)
    except KeyboardInterrupt:
        status, message = "interrupted", f"interrupted after {len(records)} of {schedule.epochs} epochs"
    except DivergedError as error:
        status, message = "diverged", str(error)
    return TrialResult(spec.rule, spec.trial, spec.learning_rate, status, message, tuple(records))


def _epochs(learner: Learner, spec: LearnerSpec, schedule: Schedule, dataset: Dataset) -> Iterator[EpochRecord]:
    """Train epoch by epoch.

    Yields:
        The record of each epoch.
    """
    schedule.check(dataset)
    order = generator(spec.seed, spec.trial, "order")
    targets = dataset.encode(dataset.y_train)
    fixed = _alignment_batch(dataset, targets, spec.seed)
    with _dropout_stream(stream_seed(spec.seed, spec.trial, "dropout"), dataset.x_train.device):
        for epoch in range(1, schedule.epochs + 1):
            start = time.perf_counter()
            train_loss = _train_epoch(learner, spec.rule, schedule, dataset.x_train, targets, order, epoch)
            seconds = time.perf_counter() - start
            test_error = measure_test_error(learner.model, dataset)
            yield EpochRecord(epoch, train_loss, test_error, seconds, _alignment(learner, fixed))


def _train_epoch(
    learner: Learner,
    rule: str,
    schedule: Schedule,
    x_train: Tensor,
    targets: Tensor,
    order: torch.Generator,
    epoch: int,
) -> float:
    """One pass over the training data; returns the mean loss of an example."""
    num_train = x_train.shape[0]
    shuffled = torch.randperm(num_train, generator=order).to(x_train.device)
    batches = shuffled.split(schedule.batch_size)
    total = 0.0
    for number, chosen in enumerate(batches, start=1 + (epoch - 1) * len(batches)):
        x = x_train[chosen]
        if schedule.flip:
            x = flip_horizontally(x, order)
        loss = _checked_step(learner, rule, x, targets[chosen], f"step {number} (epoch {epoch})")
        total += loss * len(chosen)
    # What the last update of an epoch did shows in no loss before the next one.
    if first_non_finite(learner.model) is not None:
        raise _diverged(learner, rule, "a parameter or gradient", f"the end of epoch {epoch}")
    return total / num_train


def _checked_step(learner: Learner, rule: str, x: Tensor, y: Tensor, when: str) -> float:
    """One update; returns the loss before it. An output or a loss that is not finite stops the trial."""
    output = learner.model(x)
    # Looked at before the loss, because binary cross-entropy fails on nan instead of passing it on.
    if not math.isfinite(float(output.detach().sum())):
        if not bool(torch.isfinite(x).all()):
            raise DivergedError(f"{rule}: the inputs of {when} hold numbers that are not finite.")
        raise _diverged(learner, rule, "the output", when)
    loss = learner.loss_function(output, y)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise _diverged(learner, rule, f"the loss ({value})", when)
    try:
        learner.update(loss)
    except ErrorFormError as error:
        slope = output.detach() * (1 - output.detach())
        if not bool((slope < _SATURATED_SLOPE).any()):
            raise
        raise DivergedError(
            f"{rule}: the outputs are saturated at {when}, so that the targets can no longer be read from the error; "
            f"{_advice(learner)}."
        ) from error
    return value


@torch.no_grad()
def _untrained_loss(learner: Learner, dataset: Dataset, seed: int) -> float:
    """The loss before any step, without dropout, on the examples that angles are measured on."""
    x, y = _alignment_batch(dataset, dataset.encode(dataset.y_train), seed)
    with _evaluating(learner.model):
        output = learner.model(x)
    # Binary cross-entropy fails on nan; the first step will say where it comes from.
    return float(learner.loss_function(output, y)) if bool(torch.isfinite(output).all()) else math.nan


def _check_the_end(learner: Learner, rule: str, untrained_loss: float, last_loss: float) -> None:
    """Refuse to call a trial finished whose loss blew up without ceasing to be finite."""
    against = f"against {untrained_loss:.3g} of the untrained network; {_advice(learner)}."
    if last_loss > _BLOWN_UP * untrained_loss:
        raise DivergedError(f"{rule}: the training loss of the last epoch is {last_loss:.3g}, {against}")
    gradients = [parameter.grad for parameter in learner.model.parameters() if parameter.grad is not None]
    if last_loss >= untrained_loss and not any(bool(gradient.any()) for gradient in gradients):
        raise DivergedError(f"{rule}: every gradient is zero at a training loss of {last_loss:.3g}, {against}")


def _advice(learner: Learner) -> str:
    """What to try."""
    return f"try a learning rate below {learner.optimizer.param_groups[0]['lr']:g}"


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


def _diverged(learner: Learner, rule: str, what: str, when: str) -> DivergedError:
    """The error that names the step, the first layer affected and the rule."""
    where = first_non_finite(learner.model)
    origin = f"first in {where}" if where else "though every parameter still is"
    return DivergedError(f"{rule}: {what} is no longer finite at {when}, {origin}; {_advice(learner)}.")


@torch.no_grad()
def measure_test_error(model: nn.Module, dataset: Dataset) -> float:
    """Error on the test part.

    Args:
        model: The network; switched to evaluation for the measurement and back.
        dataset: The data set.

    Returns:
        Percent of examples in the wrong class, or for regression the mean squared error.
    """
    total = torch.zeros((), dtype=torch.float64, device=dataset.x_test.device)
    with _evaluating(model):
        batches = zip(dataset.x_test.split(_TEST_BATCH_SIZE), dataset.y_test.split(_TEST_BATCH_SIZE), strict=True)
        for x, y in batches:
            output = model(x)
            if dataset.task == "classification":
                total += (output.argmax(1) != y).sum()
            else:
                total += (output - y).square().mean(1).sum()
    mean = float(total) / dataset.x_test.shape[0]
    return 100 * mean if dataset.task == "classification" else mean


def _alignment_batch(dataset: Dataset, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The training examples on which angles are measured, the same in all epochs and trials."""
    shuffled = torch.randperm(dataset.x_train.shape[0], generator=generator(seed, 0, "alignment"))
    chosen = shuffled[:_ALIGNMENT_BATCH_SIZE].to(dataset.x_train.device)
    return dataset.x_train[chosen], targets[chosen]


def _alignment(learner: Learner, batch: tuple[Tensor, Tensor]) -> tuple[fa.measure.LayerAlignment, ...]:
    """Angles to backprop per layer, without dropout."""
    with _evaluating(learner.model):
        return fa.measure.alignment(learner.model, learner.loss_function, batch).layers


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    model.eval()
    try:
        yield
    finally:
        model.train()


@contextmanager
def _dropout_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Draw dropout from a seed of its own, and leave the global random state as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
