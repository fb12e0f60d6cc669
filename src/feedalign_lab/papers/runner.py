"""Train what is asked for and not yet on file, trial by trial or many trials in lock-step.

Any number of processes can do so on the same records at once: each claims what it trains, passes over what others have
claimed, and looks again at what is on file before it starts.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from feedalign_lab.checkpoints.keeper import CONVOLUTIONS, Say
from feedalign_lab.domains import domain_of
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.errors import DivergedError, LabError, OutputFolderError, SettingError
from feedalign_lab.lockstep import lack_of_lockstep, run_lockstep
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.store import Curve, Shelf, TrialRecord, TrialStore, configuration_hash
from feedalign_lab.papers.under_way import UnderWay
from feedalign_lab.plan import Plan
from feedalign_lab.records import TrialResult, Watch, hidden_layers
from feedalign_lab.task import Task, Tell, silent
from feedalign_lab.training import run_trial

OnRecord = Callable[[TrialRecord], object]


@dataclass(frozen=True)
class Request:
    """What to have on file in the end.

    Attributes:
        paper: Name of the paper.
        table: Name of the table or figure, which names the file.
        cells: What to train.
        folder: Of the records.
        trials: Runs of each cell; None takes each protocol's own.
        epochs: Passes over the training data; None takes each protocol's own.
        angles_every: Epochs between two measurements of the angles; None measures them at the end alone.
        stacked: How many trials to train in lock-step where a case allows it; 1 trains one after the other.
        device: Where to train.
    """

    paper: str
    table: str
    cells: tuple[Cell, ...]
    folder: Path
    trials: int | None = None
    epochs: int | None = None
    angles_every: int | None = None
    stacked: int = 10
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what nothing can be trained with, before anything is trained."""
        if self.stacked < 1:
            raise SettingError(f"The number of trials in lock-step must be at least 1, not {self.stacked}.")
        for cell in self.runnable():
            self.plan(cell)
            for what, asked, most in (
                ("epochs", self.epochs, cell.protocol.epochs),
                ("trials", self.trials, cell.protocol.trials),
            ):
                if asked is not None and asked > most:
                    raise SettingError(
                        f"{cell.name} has {most} {what} by its protocol, and what is beyond would not count: give at "
                        f"most {most}, not {asked}."
                    )

    @property
    def store(self) -> TrialStore:
        """Where the records go."""
        return TrialStore(self.folder)

    def plan(self, cell: Cell) -> Plan:
        """The plan of one of the cells."""
        return cell.plan(epochs=self.epochs, trials=self.trials, angles_every=self.angles_every)

    def missing(self, cell: Cell) -> tuple[int, ...]:
        """Numbers of the trials of a cell that are not on file."""
        return self._missing(cell, self.store.read(self.paper, self.table))

    def num_missing(self) -> dict[str, int]:
        """How many trials of each cell are not on file, by its name; the file is read once."""
        shelf = self.store.read(self.paper, self.table)
        return {cell.name: len(self._missing(cell, shelf)) for cell in self.runnable()}

    def num_epochs(self) -> int:
        """Epochs of all trials that are not on file."""
        missing = self.num_missing()
        return sum(missing[cell.name] * self.plan(cell).schedule.epochs for cell in self.runnable())

    def _missing(self, cell: Cell, shelf: Shelf) -> tuple[int, ...]:
        key = configuration_hash(cell.configuration(self.epochs))
        on_file = {record.trial for record in shelf.records if record.key == key}
        return tuple(trial for trial in range(self.plan(cell).trials) if trial not in on_file)

    def runnable(self) -> tuple[Cell, ...]:
        """The cells that are not trained elsewhere."""
        return tuple(cell for cell in self.cells if not cell.elsewhere)


@dataclass
class Outcome:
    """How that went.

    Attributes:
        status: Whether Ctrl-C ended it.
        num_done: Trials that were put on file.
        num_on_file: Trials that were there already.
        num_elsewhere: Trials that another process is training.
        lacking: Why a cell could not be trained, by its name.
    """

    status: Literal["finished", "interrupted"] = "finished"
    num_done: int = 0
    num_on_file: int = 0
    num_elsewhere: int = 0
    lacking: dict[str, str] = field(default_factory=dict)


class _Loader:
    """Loads tasks, and keeps the last one, which the next cell mostly shares."""

    def __init__(self, device: torch.device, tell: Tell) -> None:
        self._device, self._tell = device, tell
        self._facts: dict[str, Any] = {}
        self._task: Task | None = None

    def load(self, plan: Plan) -> Task:
        """The task of a plan."""
        # Rules and the number of trials are no part of it.
        facts = {key: value for key, value in vars(plan).items() if key not in {"rules", "trials"}}
        if self._task is None or facts != self._facts:
            self._task = domain_of(plan.data).load(plan, self._device, self._tell)
            self._facts = facts
        return self._task


def say_on_stderr(sentence: str) -> None:
    """Tell a person who may be watching.

    Args:
        sentence: What there is to know.
    """
    sys.stderr.write(f"feedalign: {sentence}\n")


def run_cells(
    request: Request,
    watch: Watch,
    tell: Tell = silent,
    on_record: OnRecord | None = None,
    say: Say = say_on_stderr,
) -> Outcome:
    """Train what is missing and put it on file.

    Ctrl-C ends it early: trials that are done are on file, those under way were saved a little before, and the same
    request goes on from there; so it does where the process was killed.

    Args:
        request: What to have on file.
        watch: Told of every trial, by the name of its cell, and its epochs.
        tell: Told how far something long is.
        on_record: Told of every record once it is on file.
        say: Told in sentences what is gone on from, and what is wrong with checkpoints.

    Returns:
        How that went.

    Raises:
        OutputFolderError: The records cannot be read or written.
    """
    outcome = Outcome()
    device = torch.device(request.device)
    loader, environment = _Loader(device, tell), describe_environment(device)
    for cell in request.runnable():
        try:
            _run_cell(request, cell, loader, environment, outcome, watch, tell, on_record, say)
        except KeyboardInterrupt:
            outcome.status = "interrupted"
            break
        except OutputFolderError:
            raise
        except LabError as error:
            # Data or a package that is not at hand, mostly: the other cells go on.
            outcome.lacking[cell.name] = str(error)
    if outcome.num_elsewhere:
        # Some of it may be on file by now.
        left = sum(number for name, number in request.num_missing().items() if name not in outcome.lacking)
        outcome.num_elsewhere = min(outcome.num_elsewhere, left)
    return outcome


def _run_cell(
    request: Request,
    cell: Cell,
    loader: _Loader,
    environment: Environment,
    outcome: Outcome,
    watch: Watch,
    tell: Tell,
    on_record: OnRecord | None,
    say: Say,
) -> None:
    """Train the trials of one cell that are neither on file nor claimed."""
    plan = request.plan(cell)
    key = configuration_hash(cell.configuration(request.epochs))
    under_way = UnderWay(request.folder, request.paper, request.table, cell, plan, say)
    wanted = request.missing(cell)
    outcome.num_on_file += plan.trials - len(wanted)
    for group in _groups(wanted, request.stacked):
        with request.store.claim(request.paper, request.table, key, group) as claimed:
            # Another process may have finished some between the first look and the claim.
            still = set(request.missing(cell))
            mine = tuple(trial for trial in claimed if trial in still)
            outcome.num_elsewhere += len(group) - len(claimed)
            if not mine:
                continue
            task = loader.load(plan)
            interrupted = False
            trained = under_way.together_with(mine, still) if request.stacked > 1 else mine
            for result, stacked in _train(task, plan, cell, trained, watch, tell, under_way):
                if result.trial not in mine:
                    continue
                if result.status == "interrupted":
                    # Of trials in lock-step, those that had ended before still go on file.
                    interrupted = True
                    if stacked == 1:
                        break
                    continue
                place = environment | under_way.resumed(trained if stacked > 1 else (result.trial,))
                record = _record(request, cell, task, result, place, stacked)
                request.store.append(record)
                under_way.forget((result.trial,))
                outcome.num_done += 1
                if on_record is not None:
                    on_record(record)
            if interrupted:
                raise KeyboardInterrupt
            under_way.forget(trained)
    if not request.missing(cell):
        under_way.forget_all()


def _groups(trials: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Trials in groups that are trained, and claimed, together: by their numbers, whatever of them is on file."""
    return [tuple(group) for _, group in groupby(trials, key=lambda trial: trial // size)]


def _train(
    task: Task, plan: Plan, cell: Cell, trials: Sequence[int], watch: Watch, tell: Tell, under_way: UnderWay
) -> Iterator[tuple[TrialResult, int]]:
    """Train trials, in lock-step where there are several and the case allows it.

    Yields:
        The result of each, and how many were trained with it.
    """
    specs = [plan.spec(cell.rule, trial) for trial in trials]
    epochs = plan.schedule.epochs
    if len(trials) > 1 and plan.transfer_epochs is None and lack_of_lockstep(task, specs[0]) is None:
        on_epoch = watch(f"{cell.name}, {len(trials)} trials at once from", trials[0], epochs * len(trials))
        results = run_lockstep(task, specs, plan.schedule, on_epoch, under_way.of(trials, task))
        yield from ((result, len(trials)) for result in results)
        return
    for spec in specs:
        yield _train_one(task, plan, cell, spec.trial, watch, tell, under_way), 1


def _train_one(
    task: Task, plan: Plan, cell: Cell, number: int, watch: Watch, tell: Tell, under_way: UnderWay
) -> TrialResult:
    """Train one trial, and before it what it builds upon."""
    spec = plan.spec(cell.rule, number)
    try:
        features = task.prepare(number, watch, under_way.of((number,), task, CONVOLUTIONS))
        if features is not None and features.status != "finished":
            if features.status == "interrupted":
                raise KeyboardInterrupt
            raise DivergedError(f"the convolutions to transfer could not be trained: {features.message}")
        trial = task.trial(spec)
    except DivergedError as error:
        return TrialResult(cell.rule, number, spec.learning_rate, "diverged", str(error), ())
    trial.tell = tell
    on_epoch = watch(cell.name, number, plan.schedule.epochs)
    return run_trial(trial, spec, plan.schedule, on_epoch, under_way.of((number,), task))


def _record(
    request: Request, cell: Cell, task: Task, result: TrialResult, environment: Environment, stacked: int
) -> TrialRecord:
    """What goes on file of a trial."""
    return TrialRecord(
        paper=request.paper,
        table=request.table,
        cell=cell.name,
        configuration=cell.configuration(request.epochs),
        trial=result.trial,
        status=result.status,
        message=result.message,
        metric=task.metric.name,
        curve=_curve(result),
        environment=environment,
        stacked=stacked,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _curve(result: TrialResult) -> Curve:
    """A trial's epochs as columns."""
    epochs = result.epochs
    has_validation = bool(epochs) and all(epoch.validation_score is not None for epoch in epochs)
    names = dict.fromkeys(name for epoch in epochs for name in epoch.other_scores)
    return Curve(
        train_loss=tuple(epoch.train_loss for epoch in epochs),
        test=tuple(epoch.test_score for epoch in epochs),
        seconds=tuple(epoch.seconds for epoch in epochs),
        validation=tuple(float(epoch.validation_score or 0.0) for epoch in epochs) if has_validation else (),
        others={name: tuple(epoch.other_scores[name] for epoch in epochs) for name in names},
        angles={
            str(epoch.epoch): {entry.layer: entry.delta for entry in hidden_layers(epoch)}
            for epoch in epochs
            if epoch.alignment
        },
    )
