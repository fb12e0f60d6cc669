"""What `feedalign papers` does."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console

from feedalign_lab.cli_machine import cpu_threads, device_named
from feedalign_lab.errors import OutputFolderError, SettingError, UnknownNameError
from feedalign_lab.papers.catalogue import all_papers, paper_named
from feedalign_lab.papers.cells import Paper, Table
from feedalign_lab.papers.figures import DATA, PICTURE, figure_named, figures_of
from feedalign_lab.papers.figures.drawing import read_drawing
from feedalign_lab.papers.launch import Workers, launch, say
from feedalign_lab.papers.options import (
    RECORDS,
    ListOptions,
    PapersOptions,
    ReportOptions,
    RunOptions,
    ShowOptions,
    TableOptions,
)
from feedalign_lab.papers.printed import print_figure, print_list, print_show, print_table
from feedalign_lab.papers.report import write_report
from feedalign_lab.papers.runner import Outcome, Request, run_cells
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.progress import TrainingProgress

_EXIT_OK, _EXIT_LACKING, _EXIT_INTERRUPTED = 0, 1, 130
_INTERRUPTED = "feedalign: interrupted; finished trials are on file, and the same command goes on."


def run_papers(options: PapersOptions) -> int:
    """Run one of the commands.

    Args:
        options: What the command line was parsed to.

    Returns:
        The exit status: 0 done, 1 a cell could not be trained, 130 interrupted.
    """
    console = Console()
    match options.job:
        case ListOptions() as job:
            papers = all_papers()
            figures = [figure for paper in papers for figure in figures_of(paper.name)]
            print_list(papers, _store(job.records), console, as_json=job.json, figures=figures)
        case ShowOptions() as job:
            paper = paper_named(job.paper)
            print_show(paper, _table(paper, job.table), console, job.cells)
        case RunOptions() as job:
            return _run(job)
        case TableOptions() as job:
            paper = paper_named(job.paper)
            print_table(paper, _table(paper, job.table), _store(job.records), console, job.cells, form=job.format)
        case ReportOptions() as job:
            _refuse_taken((job.out,), overwrite=job.overwrite)
            path = write_report(all_papers(), _store(job.records), job.out)
            print(f"wrote {path}")
    return _EXIT_OK


def _store(folder: Path) -> TrialStore:
    """The records of a folder that was named, which has to be there; the one that is not named may not be yet."""
    if folder != RECORDS and not folder.is_dir():
        raise OutputFolderError(f"There is no folder {folder} to read records from: name another with --records.")
    return TrialStore(folder)


def _refuse_taken(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write over files unasked, before anything is computed."""
    taken = [] if overwrite else [path for path in paths if path.is_file()]
    if taken:
        raise OutputFolderError(
            f"{taken[0]} exists already and was left as it is: choose another place with --out, or replace it with "
            "--overwrite."
        )


def _table(paper: Paper, name: str) -> Table:
    """The table of a name; of a figure, what can be done with that."""
    if name in {figure.name for figure in figures_of(paper.name)}:
        raise SettingError(
            f"{name} of {paper.name} is a figure and has no cells: `feedalign papers run {paper.name} {name}` draws it."
        )
    return paper.table(name)


def _run(job: RunOptions) -> int:
    """Train a table or make a figure."""
    paper = paper_named(job.paper)
    figures = {figure.name: figure for figure in figures_of(paper.name)}
    if job.what in figures:
        of_tables = {"--cells": bool(job.cells), "--jobs": job.jobs != 1, "--launcher": job.launcher != "local"}
        _refuse_meaningless(job, "figure", of_tables)
        return _run_figure(paper, job)
    names = [table.name for table in paper.tables]
    if job.what not in names:
        raise UnknownNameError(f"table or figure of {paper.name}", job.what, [*names, *figures])
    table = paper.table(job.what)
    _refuse_meaningless(job, "table", {"--out": job.out is not None, "--overwrite": job.overwrite})
    request = Request(
        paper.name,
        table.name,
        table.choose(job.cells),
        job.records,
        trials=job.trials,
        epochs=job.epochs,
        stacked=job.stacked,
        device=str(device_named(job.device)),
    )
    outcome = _train(request, job)
    print_table(paper, table, TrialStore(job.records), Console(), job.cells)
    return _tell(outcome, request)


def _train(request: Request, job: RunOptions) -> Outcome:
    """Train here, with a progress bar, or have it trained by workers."""
    workers = Workers(job.launcher, job.jobs, job.threads, job.hours, job.partition, job.gpus)
    if workers.launcher != "local" or workers.number > 1:
        return launch(request, workers)
    with cpu_threads(workers.threads), TrainingProgress(request.num_epochs(), is_shown=True) as progress:
        return run_cells(
            request, progress.watch, progress.tell, lambda record: print(say(record), flush=True), progress.say
        )


def _tell(outcome: Outcome, request: Request) -> int:
    """Say what came of it, on stderr where something is wrong."""
    path = TrialStore(request.folder).path(request.paper, request.table)
    print(f"{outcome.num_done} trials put on file in {path}, {outcome.num_on_file} were there already.")
    if outcome.num_elsewhere:
        print(f"{outcome.num_elsewhere} trials are being trained by another process.")
    elsewhere = {cell.name: cell.elsewhere for cell in request.cells if cell.elsewhere}
    for reason, cells in _by_reason(elsewhere).items():
        print(f"feedalign: not trained by this command: {reason}: {cells}", file=sys.stderr)
    for reason, cells in _by_reason(outcome.lacking).items():
        print(f"feedalign: not trained: {cells}: {reason}", file=sys.stderr)
    if outcome.status == "interrupted":
        print(_INTERRUPTED, file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_LACKING if outcome.lacking or not request.runnable() else _EXIT_OK


def _by_reason(reasons: Mapping[str, str]) -> dict[str, str]:
    """The cells of each reason, as one text."""
    cells: dict[str, list[str]] = {}
    for cell, reason in reasons.items():
        cells.setdefault(reason, []).append(cell)
    return {reason: ", ".join(names) for reason, names in cells.items()}


def _refuse_meaningless(job: RunOptions, what: str, given: Mapping[str, bool]) -> None:
    """Refuse what says something of figures alone, or of tables."""
    if meaningless := [option for option, is_given in given.items() if is_given]:
        raise SettingError(f"{job.what} is a {what}, for which {', '.join(meaningless)} means nothing: leave it out.")


def _run_figure(paper: Paper, job: RunOptions) -> int:
    """Make a figure."""
    figure = figure_named(paper.name, job.what)
    device = str(device_named(job.device))
    if job.out is not None:
        _refuse_taken((job.out / f"{figure.name}{ending}" for ending in (PICTURE, DATA)), overwrite=job.overwrite)
    folder: Path = job.out or job.records / paper.name
    try:
        with cpu_threads(job.threads), TrainingProgress(None, is_shown=True) as progress:
            files = figure.run(
                TrialStore(job.records),
                folder,
                trials=job.trials,
                epochs=job.epochs,
                watch=progress.watch,
                tell=progress.tell,
                device=device,
            )
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        return _EXIT_INTERRUPTED
    print_figure(read_drawing(files[-1]), Console())
    for path in files:
        print(f"wrote {path}")
    return _EXIT_OK
