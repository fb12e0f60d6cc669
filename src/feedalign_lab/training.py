"""A plain training loop over tensors, with one record per epoch."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign_lab.data.augmentation import flip_horizontally
from feedalign_lab.data.dataset import Dataset, Part, Task
from feedalign_lab.divergence import check_the_end, checked_step, diverged, first_non_finite
from feedalign_lab.errors import DivergedError, SettingError
from feedalign_lab.learner import Learner, LearnerSpec
from feedalign_lab.models import parse_network_name
from feedalign_lab.records import EpochRecord, Status, TrialResult
from feedalign_lab.running import dropout_stream, evaluating
from feedalign_lab.seeding import generator, stream_seed

_TEST_BATCH_SIZE = 500
_ALIGNMENT_BATCH_SIZE = 256


@dataclass(frozen=True)
class Schedule:
    """How long and on what to train.

    Attributes:
        epochs: Passes over the training data, at least 1.
        batch_size: Examples per step, at least 1; the last batch of an epoch may be smaller.
        flip: Mirror training images at random.
        lr_decay: What the learning rate is multiplied with after each epoch, above 0 and at most 1; that of learned
            feedback stays where it has one of its own.
        angles_every: Epochs from one measurement of the angles to the next, at least 1; the last epoch always has one.
    """

    epochs: int
    batch_size: int
    flip: bool = False
    lr_decay: float = 1.0
    angles_every: int = 1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.epochs < 1:
            raise SettingError(f"The number of epochs must be at least 1, not {self.epochs}.")
        if self.batch_size < 1:
            raise SettingError(f"The batch size must be at least 1, not {self.batch_size}.")
        if self.angles_every < 1:
            raise SettingError(f"There must be at least 1 epoch between two measurements, not {self.angles_every}.")
        if not 0 < self.lr_decay <= 1:
            raise SettingError(
                f"The decay of the learning rate must be above 0 and at most 1, which leaves it constant, "
                f"not {self.lr_decay}."
            )

    def check(self, dataset: Dataset, network: str) -> None:
        """Refuse a data set and network that do not suit.

        Args:
            dataset: The data set to train on.
            network: Name of the network.

        Raises:
            SettingError: There is something to flip only in images; under batch normalization, a batch of a single
                example has no variance to divide by.
        """
        if self.flip and dataset.x_train.dim() != 4:
            raise SettingError(f"{dataset.name} does not consist of images, so there is nothing to flip.")
        num_train = dataset.x_train.shape[0]
        has_single = self.batch_size == 1 or num_train % self.batch_size == 1
        if parse_network_name(network).has_batch_norm and has_single:
            raise SettingError(
                f"{network} normalizes over batches, and with a batch size of {self.batch_size} some batch of the "
                f"{num_train} training examples would hold a single one: choose another batch size."
            )


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
        check_the_end(learner, spec.rule, untrained_loss, records[-1].train_loss)
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
    schedule.check(dataset, spec.network)
    order = generator(spec.seed, spec.trial, "order")
    targets = dataset.encode(dataset.y_train)
    fixed = _alignment_batch(dataset, targets, spec.seed)
    with dropout_stream(stream_seed(spec.seed, spec.trial, "dropout"), dataset.x_train.device):
        for epoch in range(1, schedule.epochs + 1):
            start = time.perf_counter()
            train_loss = _train_epoch(learner, spec.rule, schedule, dataset.x_train, targets, order, epoch)
            seconds = time.perf_counter() - start
            learner.decay_learning_rate(schedule.lr_decay)
            test_error = measure_test_error(learner.model, dataset)
            has_angles = epoch % schedule.angles_every == 0 or epoch == schedule.epochs
            angles = _alignment(learner, fixed) if has_angles else ()
            yield EpochRecord(epoch, train_loss, test_error, seconds, angles, _validation_error(learner.model, dataset))


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
        loss = checked_step(learner, rule, x, targets[chosen], f"step {number} (epoch {epoch})")
        total += loss * len(chosen)
    # What the last update of an epoch did shows in no loss before the next one.
    if first_non_finite(learner.model) is not None:
        raise diverged(learner, rule, "a parameter or gradient", f"the end of epoch {epoch}")
    return total / num_train


@torch.no_grad()
def _untrained_loss(learner: Learner, dataset: Dataset, seed: int) -> float:
    """The loss before any step, without dropout, on the examples that angles are measured on."""
    x, y = _alignment_batch(dataset, dataset.encode(dataset.y_train), seed)
    with evaluating(learner.model):
        output = learner.model(x)
    # Binary cross-entropy fails on nan; the first step will say where it comes from.
    return float(learner.loss_function(output, y)) if bool(torch.isfinite(output).all()) else math.nan


def measure_test_error(model: nn.Module, dataset: Dataset) -> float:
    """Error on the test part.

    Args:
        model: The network; switched to evaluation for the measurement and back.
        dataset: The data set.

    Returns:
        Percent of examples in the wrong class, or where there are no classes the mean squared error.
    """
    return _error(model, dataset.test, dataset.task)


def _validation_error(model: nn.Module, dataset: Dataset) -> float | None:
    """The same on the validation part, if there is one."""
    return None if dataset.validation is None else _error(model, dataset.validation, dataset.task)


@torch.no_grad()
def _error(model: nn.Module, part: Part, task: Task) -> float:
    """Percent of wrong classes, or the mean squared error."""
    total = torch.zeros((), dtype=torch.float64, device=part.x.device)
    with evaluating(model):
        for x, y in zip(part.x.split(_TEST_BATCH_SIZE), part.y.split(_TEST_BATCH_SIZE), strict=True):
            output = model(x)
            if task == "classification":
                total += (output.argmax(1) != y).sum()
            else:
                total += (output - y).square().flatten(1).mean(1).sum()
    mean = float(total) / part.x.shape[0]
    return 100 * mean if task == "classification" else mean


def _alignment_batch(dataset: Dataset, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The training examples on which angles are measured, the same in all epochs and trials."""
    shuffled = torch.randperm(dataset.x_train.shape[0], generator=generator(seed, 0, "alignment"))
    chosen = shuffled[:_ALIGNMENT_BATCH_SIZE].to(dataset.x_train.device)
    return dataset.x_train[chosen], targets[chosen]


def _alignment(learner: Learner, batch: tuple[Tensor, Tensor]) -> tuple[fa.measure.LayerAlignment, ...]:
    """Angles to backprop per layer, without dropout."""
    with evaluating(learner.model):
        return fa.measure.alignment(learner.model, learner.loss_function, batch).layers
