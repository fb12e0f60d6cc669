"""Trials that are measured more closely than the engine does: after every epoch, by a function of the trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.domains import domain_of
from feedalign_lab.environment import describe_environment
from feedalign_lab.errors import LabError, OutputFolderError
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.runner import Outcome, Request, say_on_stderr
from feedalign_lab.papers.store import Curve, TrialRecord, configuration_hash
from feedalign_lab.papers.under_way import UnderWay
from feedalign_lab.plan import Plan
from feedalign_lab.records import EpochRecord, TrialResult, Watch
from feedalign_lab.task import Task, Tell, Trial
from feedalign_lab.training import run_trial

Probe = Callable[[Trial], Mapping[str, float]]
"""Measures a trial after an epoch; the same names at every call. It leaves the trial as it was."""


def run_probed(request: Request, probe: Probe, watch: Watch, tell: Tell) -> Outcome:
    """Train what is missing, one trial after the other, and put it on file with what the probe measured.

    Args:
        request: What to have on file; its numbers for lock-step and for angles mean nothing here.
        probe: Measures a trial after each epoch.
        watch: Told of every trial and its epochs.
        tell: Told how far something long is.

    Returns:
        How that went.

    Raises:
        OutputFolderError: The records cannot be read or written.
    """
    outcome = Outcome()
    for cell in request.cells:
        try:
            _run_cell(request, cell, probe, outcome, watch, tell)
        except KeyboardInterrupt:
            outcome.status = "interrupted"
            break
        except OutputFolderError:
            raise
        except LabError as error:
            outcome.lacking[cell.name] = str(error)
    return outcome


def _run_cell(request: Request, cell: Cell, probe: Probe, outcome: Outcome, watch: Watch, tell: Tell) -> None:
    plan, device = request.plan(cell), torch.device(request.device)
    under_way = UnderWay(request.folder, request.paper, request.table, cell, plan, say_on_stderr)
    key = configuration_hash(cell.configuration(request.epochs))
    task: Task | None = None
    for number in request.missing(cell):
        with request.store.claim(request.paper, request.table, key, (number,)) as claimed:
            if number not in claimed or number not in request.missing(cell):
                outcome.num_elsewhere += number not in claimed
                continue
            task = task or domain_of(plan.data).load(plan, device, tell)
            checkpoints = under_way.of((number,), task)
            result, others = _probed(task, plan, cell, number, probe, watch, tell, checkpoints)
            if result.status == "interrupted":
                raise KeyboardInterrupt
            request.store.append(
                TrialRecord(
                    paper=request.paper,
                    table=request.table,
                    cell=cell.name,
                    configuration=cell.configuration(request.epochs),
                    trial=number,
                    status=result.status,
                    message=result.message,
                    metric=task.metric.name,
                    curve=replace(_plain_curve(result), others=others),
                    environment=describe_environment(device) | under_way.resumed((number,)),
                    ended=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )
            under_way.forget((number,))
            outcome.num_done += 1
    if not request.missing(cell):
        under_way.forget_all()


@dataclass
class _Probed:
    """What a probe measured so far; it is saved with the trial."""

    probe: Probe
    trial: Trial
    rows: list[Mapping[str, float]] = field(default_factory=list)

    def see(self, model: nn.Module, record: EpochRecord) -> None:
        """Measure the trial after an epoch."""
        del model, record
        self.rows.append(self.probe(self.trial))

    def state(self) -> dict[str, Any]:
        """What `load_state` takes."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Have measured what another one had."""
        self.rows = list(state["rows"])


def _probed(
    task: Task,
    plan: Plan,
    cell: Cell,
    number: int,
    probe: Probe,
    watch: Watch,
    tell: Tell,
    checkpoints: Checkpoints,
) -> tuple[TrialResult, dict[str, tuple[float, ...]]]:
    """Train one trial; what the probe measured, a column each."""
    spec = plan.spec(cell.rule, number)
    trial = task.trial(spec)
    trial.tell = tell
    on_epoch = watch(cell.name, number, plan.schedule.epochs)
    probed = _Probed(probe, trial)
    result = run_trial(trial, spec, plan.schedule, on_epoch, checkpoints, probed)
    rows = probed.rows
    names = rows[0] if rows else ()
    return result, {name: tuple(row[name] for row in rows) for name in names}


def _plain_curve(result: TrialResult) -> Curve:
    return Curve(
        train_loss=tuple(epoch.train_loss for epoch in result.epochs),
        test=tuple(epoch.test_score for epoch in result.epochs),
        seconds=tuple(epoch.seconds for epoch in result.epochs),
    )
