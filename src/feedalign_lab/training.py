"""The one training loop of all tasks, with one record per epoch."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from torch import nn

from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.checkpoints.resuming import Stateful, resume
from feedalign_lab.divergence import check_the_end, checked_alignment
from feedalign_lab.errors import DivergedError, SettingError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import EpochRecord, OnEpoch, Status, TrialResult, epoch_record
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


class Seeing(Stateful, Protocol):
    """What is told of every epoch, and goes on from where it was."""

    def see(self, model: nn.Module, record: EpochRecord) -> None:
        """Be told of an epoch, and of the network as it is after it."""


def run_trial(
    trial: Trial,
    spec: LearnerSpec,
    schedule: Schedule,
    on_epoch: OnEpoch | None = None,
    checkpoints: Checkpoints | None = None,
    kept: Seeing | None = None,
) -> TrialResult:
    """Train and keep a record of every epoch.

    Ctrl-C ends the trial early; the epochs before stay in the result. A trial has diverged where

    * an output, a loss, a parameter or a gradient is not finite: it ends there;
    * the outputs are so saturated that a rule can no longer read the targets from the error: it ends there;
    * the mean training loss of the last epoch is more than twice that of the untrained network;
    * at the end every gradient is exactly zero, while the loss is no lower than that of the untrained network.

    The last two are judged once all epochs are done, so that a bad start that is made good is no divergence. A
    network that is stuck at chance without having blown up has not diverged.

    With checkpoints a trial that was cut, at any moment and in any way, goes on as if it had not been: the same
    weights and the same records, bit for bit. What it had done since the last checkpoint is done again, and its time
    is counted once.

    Args:
        trial: What to train, as it was made; trained in place.
        spec: What it was made from.
        schedule: How long to train.
        on_epoch: Called with each record as it is made, and first with those of the epochs that are gone on from.
        checkpoints: What it is saved to and goes on from; None neither saves nor resumes.
        kept: Sees the network after every epoch, and is saved with it: keeps the weights of the one that counts, or
            measures.

    Returns:
        The result, whose status says how the trial ended.
    """
    run = _Run(trial, spec, schedule, on_epoch, checkpoints, kept)
    status: Status = "finished"
    message = ""
    untrained_loss = trial.untrained_loss()
    try:
        run.train()
        check_the_end(trial, spec.rule, untrained_loss, run.records[-1].train_loss)
    except KeyboardInterrupt:
        status, message = "interrupted", f"interrupted after {len(run.records)} of {schedule.epochs} epochs"
    except DivergedError as error:
        status, message = "diverged", str(error)
    return TrialResult(spec.rule, spec.trial, spec.learning_rate, status, message, tuple(run.records))


@dataclass
class _Run:
    """A trial under way."""

    trial: Trial
    spec: LearnerSpec
    schedule: Schedule
    on_epoch: OnEpoch | None
    checkpoints: Checkpoints | None
    kept: Seeing | None
    records: list[EpochRecord] = field(default_factory=list)
    # Of the epoch under way: what its steps took before `since`, when they went on.
    seconds: float = 0.0
    since: float = 0.0
    parts: dict[str, Stateful] = field(default_factory=dict)

    def train(self) -> None:
        """Train all epochs, or those that are left."""
        device = next(self.trial.model.parameters()).device
        with dropout_stream(stream_seed(self.spec.seed, self.spec.trial, "dropout"), device) as dropout:
            self.parts = {"trial": self.trial, "dropout": dropout, "run": self}
            if self.kept is not None:
                self.parts["kept"] = self.kept
            if self.checkpoints is not None:
                self._resume(self.checkpoints)
                self.trial.rest = partial(self._rest, self.checkpoints)
            for epoch in range(1 + len(self.records), self.schedule.epochs + 1):
                self._train_epoch(epoch)

    def _train_epoch(self, epoch: int) -> None:
        """Train an epoch, measure, and save where another one follows.

        After the last one nothing is saved: gradients, which are no part of a checkpoint, tell how the trial ended.
        """
        trial = self.trial
        self.since = time.perf_counter()
        train_loss = trial.train_epoch(epoch)
        seconds = self.seconds + time.perf_counter() - self.since
        self.seconds = 0.0
        scores = trial.scores()
        angles = checked_alignment(trial, self.spec.rule, epoch) if self.schedule.has_angles(epoch) else ()
        record = EpochRecord(epoch, train_loss, scores.test, seconds, angles, scores.validation, scores.others)
        self.records.append(record)
        if self.kept is not None:
            self.kept.see(trial.model, record)
        if self.on_epoch is not None:
            self.on_epoch(record)
        if self.checkpoints is not None and epoch < self.schedule.epochs and self.checkpoints.is_due:
            self._save(self.checkpoints, f"after epoch {epoch}")

    def _rest(self, checkpoints: Checkpoints) -> None:
        """Save between two steps, if it is time; the time this takes is no step's."""
        if checkpoints.is_due:
            self.seconds += time.perf_counter() - self.since
            self._save(checkpoints, f"in epoch {1 + len(self.records)}")
            self.since = time.perf_counter()

    def _save(self, checkpoints: Checkpoints, where: str) -> None:
        content = {name: part.state() for name, part in self.parts.items()}
        checkpoints.save(f"{where} of {self.schedule.epochs}", content)

    def state(self) -> dict[str, Any]:
        """What the trial has come to, beside what it is."""
        return {"records": [asdict(record) for record in self.records], "seconds": self.seconds}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Have come to what another one had."""
        self.records = [epoch_record(one) for one in state["records"]]
        self.seconds = float(state["seconds"])

    def _resume(self, checkpoints: Checkpoints) -> None:
        """Go on from what was saved, and tell of its epochs."""
        resume(self.parts, checkpoints)
        for record in self.records:
            if self.on_epoch is not None:
                self.on_epoch(record)
