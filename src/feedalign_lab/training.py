"""The one training loop of all tasks, with one record per epoch."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from feedalign_lab.divergence import check_the_end, checked_alignment
from feedalign_lab.errors import DivergedError, SettingError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import EpochRecord, OnEpoch, Status, TrialResult
from feedalign_lab.running import dropout_stream
from feedalign_lab.seeding import stream_seed
from feedalign_lab.task import Trial


@dataclass(frozen=True)
class Schedule:
    """How long and on what to train.

    Attributes:
        epochs: Passes over the training data, at least 1.
        batch_size: Examples per step, at least 1; the last batch of an epoch may be smaller. None: all at once.
        flip: Mirror training images at random.
        lr_decay: What the learning rate is multiplied with after each epoch, above 0 and at most 1; that of learned
            feedback stays where it has one of its own.
        angles_every: Epochs from one measurement of the angles to the next, at least 1; the last epoch always has one.
    """

    epochs: int
    batch_size: int | None
    flip: bool = False
    lr_decay: float = 1.0
    angles_every: int = 1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.epochs < 1:
            raise SettingError(f"The number of epochs must be at least 1, not {self.epochs}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingError(f"The batch size must be at least 1, not {self.batch_size}.")
        if self.angles_every < 1:
            raise SettingError(f"There must be at least 1 epoch between two measurements, not {self.angles_every}.")
        if not 0 < self.lr_decay <= 1:
            raise SettingError(
                f"The decay of the learning rate must be above 0 and at most 1, which leaves it constant, "
                f"not {self.lr_decay}."
            )

    def has_angles(self, epoch: int) -> bool:
        """Whether angles are measured after an epoch.

        Args:
            epoch: Its number, from 1.
        """
        return epoch % self.angles_every == 0 or epoch == self.epochs


def run_trial(trial: Trial, spec: LearnerSpec, schedule: Schedule, on_epoch: OnEpoch | None = None) -> TrialResult:
    """Train and keep a record of every epoch.

    Ctrl-C ends the trial early; the epochs before stay in the result. A trial has diverged where

    * an output, a loss, a parameter or a gradient is not finite: it ends there;
    * the outputs are so saturated that a rule can no longer read the targets from the error: it ends there;
    * the mean training loss of the last epoch is more than twice that of the untrained network;
    * at the end every gradient is exactly zero, while the loss is no lower than that of the untrained network.

    The last two are judged once all epochs are done, so that a bad start that is made good is no divergence. A
    network that is stuck at chance without having blown up has not diverged.

    Args:
        trial: What to train; trained in place.
        spec: What it was made from.
        schedule: How long to train.
        on_epoch: Called with each record as it is made.

    Returns:
        The result, whose status says how the trial ended.
    """
    records: list[EpochRecord] = []
    status: Status = "finished"
    message = ""
    untrained_loss = trial.untrained_loss()
    try:
        for record in _epochs(trial, spec, schedule):
            records.append(record)
            if on_epoch is not None:
                on_epoch(record)
        check_the_end(trial, spec.rule, untrained_loss, records[-1].train_loss)
    except KeyboardInterrupt:
        status, message = "interrupted", f"interrupted after {len(records)} of {schedule.epochs} epochs"
    except DivergedError as error:
        status, message = "diverged", str(error)
    return TrialResult(spec.rule, spec.trial, spec.learning_rate, status, message, tuple(records))


def _epochs(trial: Trial, spec: LearnerSpec, schedule: Schedule) -> Iterator[EpochRecord]:
    """Train epoch by epoch.

    Yields:
        The record of each epoch.
    """
    device = next(trial.model.parameters()).device
    with dropout_stream(stream_seed(spec.seed, spec.trial, "dropout"), device):
        for epoch in range(1, schedule.epochs + 1):
            start = time.perf_counter()
            train_loss = trial.train_epoch(epoch)
            seconds = time.perf_counter() - start
            scores = trial.scores()
            angles = checked_alignment(trial, spec.rule, epoch) if schedule.has_angles(epoch) else ()
            yield EpochRecord(epoch, train_loss, scores.test, seconds, angles, scores.validation, scores.others)
