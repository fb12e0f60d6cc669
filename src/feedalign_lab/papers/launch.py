"""Spread a request over processes of this machine, over a Ray cluster or over jobs of SLURM.

Every worker is given the whole request. What each trains is settled by the claims on the records, so that workers need
not know of each other, one that dies takes nothing with it, and one that comes late helps. Machines have to share the
folder of the records, on a file system with locks.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args

import torch

from feedalign_lab.errors import MissingPackageError, SettingError, UnknownNameError
from feedalign_lab.papers.runner import Outcome, Request, run_cells
from feedalign_lab.papers.store import TrialRecord
from feedalign_lab.records import EpochRecord, OnEpoch

Launcher = Literal["local", "ray", "slurm"]
Work = Callable[[int], Outcome]
_SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True)
class Workers:
    """Who trains.

    Attributes:
        launcher: What starts them.
        number: How many there are, at least 1.
        threads: CPU threads of each; None shares this machine's out among local ones, and leaves others a single one.
        hours: Limit on the wall time of a job of SLURM.
        partition: SLURM's; empty for its default.
        gpus: GPUs of each job, for `ray` and `slurm`.
    """

    launcher: str = "local"
    number: int = 1
    threads: int | None = None
    hours: float = 24.0
    partition: str = ""
    gpus: int = 0

    def __post_init__(self) -> None:
        """Refuse what nothing can be started with."""
        if self.launcher not in get_args(Launcher):
            raise UnknownNameError("launcher", self.launcher, get_args(Launcher))
        if self.number < 1:
            raise SettingError(f"The number of workers must be at least 1, not {self.number}.")
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"The number of threads must be at least 1, not {self.threads}.")
        if not self.hours > 0:
            raise SettingError(f"The limit on a job's hours must be above 0, not {self.hours}.")

    @property
    def threads_each(self) -> int:
        """CPU threads of each worker."""
        if self.threads is not None:
            return self.threads
        return max(1, (os.cpu_count() or 1) // self.number) if self.launcher == "local" else 1


def launch(request: Request, workers: Workers) -> Outcome:
    """Have a request trained by workers, and wait for them.

    Each says on its standard output what it trains, how far that is every minute, and what it has put on file.

    Args:
        request: What to have on file.
        workers: Who trains.

    Returns:
        How that went, over all workers.

    Raises:
        MissingPackageError: The launcher's package is not there.
        OutputFolderError: The records cannot be read or written.
    """
    # Workers may have another working directory.
    request = replace(request, folder=request.folder.resolve())
    start = {"local": _locally, "ray": _with_ray, "slurm": _with_slurm}[workers.launcher]
    work = partial(work_off, request, threads=workers.threads_each, number_of_workers=workers.number)
    before = sum(request.num_missing().values())
    try:
        outcomes = start(work, workers, request)
    except KeyboardInterrupt:
        outcomes = [Outcome(status="interrupted")]
    missing = sum(request.num_missing().values())
    lacking: dict[str, str] = {}
    for outcome in outcomes:
        lacking.update(outcome.lacking)
    total = sum(request.plan(cell).trials for cell in request.runnable())
    return Outcome(
        status="interrupted" if any(outcome.status == "interrupted" for outcome in outcomes) else "finished",
        num_done=before - missing,
        num_on_file=total - before,
        lacking=lacking,
    )


def work_off(request: Request, place: int, *, threads: int, number_of_workers: int) -> Outcome:
    """Be one of the workers.

    Args:
        request: What to have on file.
        place: Which of the workers, from 0: each starts at another cell.
        threads: CPU threads.
        number_of_workers: How many there are.

    Returns:
        How that went.
    """
    torch.set_num_threads(threads)
    cells = request.cells
    first = math.floor(place * len(cells) / number_of_workers)
    return run_cells(replace(request, cells=cells[first:] + cells[:first]), watch_by_lines, on_record=_say)


def say(record: TrialRecord) -> str:
    """A line on a trial that is on file."""
    curve = record.curve
    is_whole = record.status == "finished" and curve.test
    ending = f"{record.metric} {curve.test[-1]:.4g} at the end of" if is_whole else f"{record.status} after"
    return f"{record.cell}, trial {record.trial + 1}: {ending} {len(curve.test)} epochs, {sum(curve.seconds):.0f} s"


def _say(record: TrialRecord) -> None:
    print(say(record), flush=True)


def watch_by_lines(rule: str, trial: int, epochs: int) -> OnEpoch:
    """Say what is trained now, and every minute how far that is: a worker has no terminal for a bar.

    Args:
        rule: What is trained.
        trial: Its number, from 0; of several trained at once, that of the first.
        epochs: Of all of them together.

    Returns:
        What to call after each epoch.
    """
    name = f"{rule} trial {trial + 1}" if rule.endswith(" from") else f"{rule}, trial {trial + 1}"
    print(f"{name}: started, {epochs} epochs", flush=True)
    start = last = time.monotonic()
    num_done = 0

    def on_epoch(record: EpochRecord) -> None:
        del record
        nonlocal num_done, last
        num_done, now = num_done + 1, time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and num_done < epochs:
            last = now
            minutes = (now - start) / num_done * (epochs - num_done) / 60
            print(f"{name}: {num_done} of {epochs} epochs, about {minutes:.0f} min to go", flush=True)

    return on_epoch


def _locally(work: Work, workers: Workers, request: Request) -> Sequence[Outcome]:
    """Processes of this machine."""
    del request
    joblib = _package("joblib", "lab")
    outcomes: Sequence[Outcome] = joblib.Parallel(n_jobs=workers.number)(
        joblib.delayed(work)(place) for place in range(workers.number)
    )
    return outcomes


def _with_ray(work: Work, workers: Workers, request: Request) -> Sequence[Outcome]:
    """Tasks of the Ray cluster that this machine belongs to; one of its own where it belongs to none."""
    del request
    ray = _package("ray", "ray")
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(log_to_driver=True, configure_logging=False)
    try:
        remote = ray.remote(num_cpus=workers.threads_each, num_gpus=workers.gpus)(work_by_place)
        outcomes: Sequence[Outcome] = ray.get([remote.remote(work, place) for place in range(workers.number)])
    finally:
        if is_ours:
            ray.shutdown()
    return outcomes


def work_by_place(work: Work, place: int) -> Outcome:
    """Call a worker: what is sent to other machines has to be a function of this module."""
    return work(place)


def _with_slurm(work: Work, workers: Workers, request: Request) -> Sequence[Outcome]:
    """An array of SLURM's jobs; their logs lie beside the records."""
    submitit: Any = _package("submitit", "slurm")
    # Without SLURM submitit would quietly run the jobs here.
    if shutil.which("sbatch") is None:
        raise SettingError("There is no SLURM on this machine (no command sbatch): choose --launcher local or ray.")
    executor = submitit.AutoExecutor(folder=request.folder / ".jobs")
    executor.update_parameters(
        name=f"feedalign-{request.paper}-{request.table}",
        timeout_min=math.ceil(60 * workers.hours),
        cpus_per_task=workers.threads_each,
        **({"gpus_per_node": workers.gpus} if workers.gpus else {}),
        **({"slurm_partition": workers.partition} if workers.partition else {}),
    )
    jobs = executor.map_array(work, range(workers.number))
    print(f"submitted {len(jobs)} jobs: {', '.join(job.job_id for job in jobs)}", flush=True)
    return [job.result() for job in jobs]


def _package(name: str, extra: str) -> Any:
    """A package that one of the extras brings."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"The launcher needs the package {name}, which is not installed: pip install 'feedalign[{extra}]'."
        ) from error
