"""Trials that are measured more closely than the engine does: after every epoch, by a function of the trial."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import torch

from feedalign_lab.domains import domain_of
from feedalign_lab.environment import describe_environment
from feedalign_lab.errors import LabError, OutputFolderError
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.runner import Outcome, Request
from feedalign_lab.papers.store import Curve, TrialRecord, configuration_hash
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
    key = configuration_hash(cell.configuration(request.epochs))
    task: Task | None = None
    for number in request.missing(cell):
        with request.store.claim(request.paper, request.table, key, (number,)) as claimed:
            if number not in claimed or number not in request.missing(cell):
                outcome.num_elsewhere += number not in claimed
                continue
            task = task or domain_of(plan.data).load(plan, device, tell)
            result, others = _probed(task, plan, cell, number, probe, watch, tell)
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
                    environment=describe_environment(device),
                    ended=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )
            outcome.num_done += 1


def _probed(
    task: Task, plan: Plan, cell: Cell, number: int, probe: Probe, watch: Watch, tell: Tell
) -> tuple[TrialResult, dict[str, tuple[float, ...]]]:
    """Train one trial; what the probe measured, a column each."""
    spec = plan.spec(cell.rule, number)
    trial = task.trial(spec)
    trial.tell = tell
    watched = watch(cell.name, number, plan.schedule.epochs)
    rows: list[Mapping[str, float]] = []

    def on_epoch(record: EpochRecord) -> None:
        rows.append(probe(trial))
        watched(record)

    result = run_trial(trial, spec, plan.schedule, on_epoch)
    names = rows[0] if rows else ()
    return result, {name: tuple(row[name] for row in rows) for name in names}


def _plain_curve(result: TrialResult) -> Curve:
    return Curve(
        train_loss=tuple(epoch.train_loss for epoch in result.epochs),
        test=tuple(epoch.test_score for epoch in result.epochs),
        seconds=tuple(epoch.seconds for epoch in result.epochs),
    )
