"""The training loop of many trials at once, with the results that each would have by itself."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.checkpoints.resuming import resume
from feedalign_lab.data.dataset import Dataset, Part
from feedalign_lab.divergence import check_the_end, diverged, first_non_finite
from feedalign_lab.errors import DivergedError, SettingError
from feedalign_lab.learner import LearnerSpec, LossFunction
from feedalign_lab.lockstep.batches import Order, batch_of, epoch_of, orders_of, parts_of
from feedalign_lab.lockstep.checks import Checks
from feedalign_lab.lockstep.lack import lack_of_lockstep
from feedalign_lab.lockstep.stack import Stack
from feedalign_lab.lockstep.steps import Steps
from feedalign_lab.optimizer import decay_rate
from feedalign_lab.records import EpochRecord, OnEpoch, Status, TrialResult, epoch_record
from feedalign_lab.task import Scores, Task
from feedalign_lab.tensors import TensorTask, TensorTrial
from feedalign_lab.training import Schedule

_TEST_BATCH_SIZE = 500


@dataclass
class _Run:
    """One trial and what became of it."""

    trial: TensorTrial
    spec: LearnerSpec
    order: Order
    untrained_loss: float
    records: list[EpochRecord] = field(default_factory=list)
    status: Status = "finished"
    message: str = ""

    def state(self) -> dict[str, Any]:
        """What `load_state` takes; of the trial itself only while it is under way."""
        is_under_way = self.status == "finished"
        return {
            "status": self.status,
            "message": self.message,
            "records": [asdict(record) for record in self.records],
            "trial": self.trial.state() if is_under_way else None,
            "order": self.order.draws.get_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what another one was."""
        records = [epoch_record(one) for one in state["records"]]
        if state["trial"] is not None:
            self.trial.load_state(state["trial"])
        self.order.draws.set_state(state["order"])
        self.status, self.message, self.records = state["status"], state["message"], records

    def end(self, error: DivergedError) -> None:
        """Note a divergence."""
        self.status, self.message = "diverged", str(error)

    def result(self) -> TrialResult:
        """What `run_trial` returns."""
        spec = self.spec
        return TrialResult(spec.rule, spec.trial, spec.learning_rate, self.status, self.message, tuple(self.records))


def run_lockstep(
    task: Task,
    specs: Sequence[LearnerSpec],
    schedule: Schedule,
    on_epoch: OnEpoch | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[TrialResult, ...]:
    """Train several trials at once, step by step, as one stacked model.

    Each trial has the seeds, the first weights, the feedback, the order of the data and the perturbations that it has
    in `run_trial`, and the same results up to rounding. One that diverges ends there, as it does by itself, and the
    others go on. Ctrl-C ends all that are under way. With checkpoints the same trials go on together from an epoch's
    end, bit for bit.

    Args:
        task: Data and network.
        specs: The trials; they differ in seeds and the start of the weights alone.
        schedule: How long to train.
        on_epoch: Called with each trial's record of each epoch.
        checkpoints: What the trials are saved to and go on from, all together.

    Returns:
        The result of each trial. An epoch's `seconds` are the trial's share of the time that all took.

    Raises:
        SettingError: The case cannot be trained so, or the trials differ in more.
    """
    if not specs:
        return ()
    runs = _start(task, specs)
    try:
        _Lockstep(runs, getattr(functional, task.loss), schedule, on_epoch, checkpoints).train()
    except KeyboardInterrupt:
        for run in runs:
            if run.status == "finished" and len(run.records) < schedule.epochs:
                run.status = "interrupted"
                run.message = f"interrupted after {len(run.records)} of {schedule.epochs} epochs"
    return tuple(run.result() for run in runs)


def _start(task: Task, specs: Sequence[LearnerSpec]) -> list[_Run]:
    """Build the trials.

    Raises:
        SettingError: The case cannot be trained so, or the trials differ in more than their seeds.
    """
    first = specs[0]
    if (lack := lack_of_lockstep(task, first)) is not None:
        raise SettingError(f"These trials cannot be trained in lock-step, because {lack}: train them one by one.")
    for spec in specs:
        if replace(spec, seed=first.seed, trial=first.trial, weight_init=first.weight_init) != first:
            raise SettingError(
                f"Trials in lock-step may differ in their seeds alone, but here is {first} and {spec}: train them one "
                "by one, or in two goes."
            )
    assert isinstance(task, TensorTask)
    trials = [task.trial(spec) for spec in specs]
    orders = orders_of(trials, specs)
    return [
        _Run(trial, spec, order, trial.untrained_loss())
        for trial, spec, order in zip(trials, specs, orders, strict=True)
    ]


class _Lockstep:
    """Trials under way."""

    def __init__(
        self,
        runs: Sequence[_Run],
        loss_function: LossFunction,
        schedule: Schedule,
        on_epoch: OnEpoch | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._runs, self._loss_function = runs, loss_function
        self._schedule, self._on_epoch, self._checkpoints = schedule, on_epoch, checkpoints
        first = runs[0]
        self._checks = Checks(first.trial, loss_function)
        batch = first.order.dataset.x_train[:2], first.order.targets[:2]
        trained = self._checks.taught(first.trial, *batch)
        self._num_done = 0
        if checkpoints is not None:
            resume({"stack": self}, checkpoints)
        for record in (record for run in runs for record in run.records):
            if on_epoch is not None:
                on_epoch(record)
        self._live = [run for run in runs if run.status == "finished"]
        if self._live:
            self._steps = self._stepping(Stack([run.trial for run in self._live], trained))

    def _stepping(self, stack: Stack) -> Steps:
        return Steps(stack, self._loss_function, self._live[0].spec.clip)

    @property
    def _orders(self) -> list[Order]:
        return [run.order for run in self._live]

    def train(self) -> None:
        """Train all epochs of all trials."""
        for epoch in range(1 + self._num_done, self._schedule.epochs + 1):
            start = time.perf_counter()
            losses = self._train_epoch(epoch)
            if not self._live:
                return
            seconds = (time.perf_counter() - start) / len(self._live)
            scores = self._scores()
            has_angles = self._schedule.has_angles(epoch)
            for run, loss, score in zip(tuple(self._live), losses, scores, strict=True):
                try:
                    angles = self._checks.alignment(run.trial, run.spec, epoch) if has_angles else ()
                except DivergedError as error:
                    run.end(error)
                    continue
                record = EpochRecord(epoch, loss, score.test, seconds, angles, score.validation, score.others)
                run.records.append(record)
                if self._on_epoch is not None:
                    self._on_epoch(record)
            self._checks.num_backwards += has_angles
            self._drop([place for place, run in enumerate(self._live) if run.status == "diverged"])
            self._save(epoch)
        for run in self._live:
            try:
                check_the_end(run.trial, run.spec.rule, run.untrained_loss, run.records[-1].train_loss)
            except DivergedError as error:
                run.end(error)

    def _save(self, epoch: int) -> None:
        """Save all trials, if it is time and another epoch follows; see `training`."""
        checkpoints = self._checkpoints
        if checkpoints is None or epoch == self._schedule.epochs or not self._live or not checkpoints.is_due:
            return
        self._steps.stack.hand_back()
        self._num_done = epoch
        checkpoints.save(f"after epoch {epoch} of {self._schedule.epochs}", {"stack": self.state()})

    def state(self) -> dict[str, Any]:
        """What `load_state` takes."""
        runs = [run.state() for run in self._runs]
        return {"runs": runs, "backwards": self._checks.num_backwards, "epoch": self._num_done}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what another one was; before the trials are stacked."""
        for run, own in zip(self._runs, state["runs"], strict=True):
            run.load_state(own)
        self._checks.num_backwards, self._num_done = int(state["backwards"]), int(state["epoch"])

    def _train_epoch(self, number: int) -> list[float]:
        """Pass over the training data once.

        Returns:
            The mean loss of each trial that is still under way.
        """
        batches = epoch_of(self._orders, self._schedule)
        totals = {id(run): 0.0 for run in self._live}
        ids = {id(run): place for place, run in enumerate(self._live)}
        for place, chosen in enumerate(batches):
            rows = [ids[id(run)] for run in self._live]
            own = chosen if len(rows) == len(chosen) else chosen[rows]
            when = f"step {1 + (number - 1) * len(batches) + place} (epoch {number})"
            losses = self._step(own, when, is_last=place == len(batches) - 1)
            if not self._live:
                return []
            for run, loss in zip(self._live, losses, strict=True):
                totals[id(run)] += loss * chosen.shape[1]
        self._look_at_parameters(number)
        if not self._live:
            return []
        for optimizer, _ in self._steps.stack.optimizers:
            decay_rate(optimizer, self._schedule.lr_decay)
        return [totals[id(run)] / self._live[0].order.targets.shape[0] for run in self._live]

    def _step(self, chosen: Tensor, when: str, *, is_last: bool) -> list[float]:
        """Move all trials by a step; those that diverge at it are under way no more.

        Returns:
            The losses of the others before the step.
        """
        is_due = self._checks.is_due()
        while self._live:
            x, y = batch_of(self._orders, chosen, self._schedule)
            seen = self._steps.look(x, y)
            gone = self._diverged(x, y, seen, when, is_due=is_due)
            if not gone:
                self._steps.take(keeps_gradients=is_last)
                return [loss for _, loss in seen]
            self._drop(gone)
            chosen = chosen[[place for place in range(len(chosen)) if place not in gone]]
        return []

    def _diverged(self, x: Tensor, y: Tensor, seen: list[list[float]], when: str, *, is_due: bool) -> list[int]:
        """Places of the trials that diverge at a step; what they end with is noted."""
        gone = []
        for place, run in enumerate(self._live):
            if is_due or not all(map(math.isfinite, seen[place])):
                error = self._checks.found(run.trial, run.spec, x[place], y[place], when, seen[place])
                if error is not None:
                    run.end(error)
                    gone.append(place)
        return gone

    def _look_at_parameters(self, number: int) -> None:
        """End the trials whose last update of an epoch did what shows in no loss before the next one."""
        gone = []
        for place, run in enumerate(self._live):
            if first_non_finite(run.trial.model) is not None:
                when = f"the end of epoch {number}"
                run.end(diverged(run.trial, run.spec.rule, "a parameter or gradient", when))
                gone.append(place)
        self._drop(gone)

    def _drop(self, gone: Sequence[int]) -> None:
        """Go on without some trials."""
        if not gone:
            return
        self._live = [run for place, run in enumerate(self._live) if place not in gone]
        if self._live:
            self._steps = self._stepping(self._steps.stack.without(gone))

    def _scores(self) -> list[Scores]:
        """Measure all trials on the held-out parts."""
        tests = self._errors(lambda dataset: dataset.test)
        if self._live[0].order.dataset.validation is None:
            return [Scores(test) for test in tests]
        validations = self._errors(lambda dataset: dataset.validation)
        return [Scores(test, validation) for test, validation in zip(tests, validations, strict=True)]

    def _errors(self, part_of: Callable[[Dataset], Part | None]) -> list[float]:
        """Percent of wrong classes, or the mean squared error, of each trial."""
        total, num = torch.zeros(len(self._live), dtype=torch.float64), 0
        kind = self._live[0].order.dataset.task
        for x, y in parts_of(self._orders, part_of, _TEST_BATCH_SIZE):
            output = self._steps.outputs(x)
            num += x.shape[1]
            if kind == "classification":
                total += (output.argmax(2) != y).sum(1).cpu()
            else:
                total += (output - y).square().flatten(2).mean(2).sum(1).cpu()
        means = (total / num).tolist()
        return [100 * mean if kind == "classification" else mean for mean in means]
