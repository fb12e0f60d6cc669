"""Launchers: whoever starts the workers, the records are those of one process."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_papers import cell, record

from feedalign_lab.errors import MissingPackageError, SettingError, UnknownNameError
from feedalign_lab.papers import launch as launching
from feedalign_lab.papers.launch import Workers, launch, say, watch_by_lines, work_off
from feedalign_lab.papers.runner import Outcome, Request
from feedalign_lab.records import EpochRecord


@pytest.fixture
def request_of_two(tmp_path: Path) -> Request:
    cells = (cell(), cell("fc1-8/fa", rule="fa"))
    return Request("made", "table1", cells, tmp_path / "records", trials=2, epochs=1, stacked=1)


def on_file(request: Request) -> list[tuple[str, int]]:
    return sorted((found.cell, found.trial) for found in request.store.read("made", "table1").records)


EVERYTHING = [("fc1-8/dfa", 0), ("fc1-8/dfa", 1), ("fc1-8/fa", 0), ("fc1-8/fa", 1)]


def test_workers_start_at_different_cells_and_say_what_they_did(
    request_of_two: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    try:
        outcome = work_off(request_of_two, 1, threads=1, number_of_workers=2)
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    started = [line for line in lines if line.endswith(": started, 1 epochs")]
    assert len(started) == 4
    assert [line.split(":")[0] for line in lines if line not in started] == [
        "fc1-8/fa, trial 1", "fc1-8/fa, trial 2", "fc1-8/dfa, trial 1", "fc1-8/dfa, trial 2",
    ]  # fmt: skip
    assert outcome.num_done == 4


def test_a_line_on_a_trial() -> None:
    assert say(record(cell(), 1)) == "fc1-8/dfa, trial 2: error 10 at the end of 3 epochs, 3 s"
    assert "diverged" in say(record(cell(), status="diverged"))


def test_a_worker_says_every_minute_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 40.0, 80.0, 100.0, 200.0])
    monkeypatch.setattr(launching, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    on_epoch = watch_by_lines("fc1-8/dfa", 2, 4)
    for _ in range(4):
        on_epoch(EpochRecord(1, 0.5, 10.0, 1.0, ()))
    assert capsys.readouterr().out.splitlines() == [
        "fc1-8/dfa, trial 3: started, 4 epochs",
        "fc1-8/dfa, trial 3: 2 of 4 epochs, about 1 min to go",
    ]


def test_the_outcome_is_that_of_the_records(request_of_two: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        launching,
        "_package",
        lambda name, extra: SimpleNamespace(
            Parallel=lambda n_jobs: lambda calls: [call() for call in calls],
            delayed=lambda work: lambda place: lambda: work(place),
        ),
    )
    work_off(request_of_two, 0, threads=torch.get_num_threads(), number_of_workers=1)
    outcome = launch(request_of_two, Workers(number=2))
    assert (outcome.num_done, outcome.num_on_file, outcome.status) == (0, 4, "finished")
    assert on_file(request_of_two) == EVERYTHING


def test_ctrl_c_while_workers_run(request_of_two: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(n_jobs: int) -> Callable[[object], object]:
        def run(calls: object) -> object:
            raise KeyboardInterrupt

        return run

    monkeypatch.setattr(
        launching, "_package", lambda name, extra: SimpleNamespace(Parallel=interrupted, delayed=lambda work: work)
    )
    outcome = launch(request_of_two, Workers(number=2))
    assert (outcome.status, outcome.num_done) == ("interrupted", 0)


class FakeSlurm:
    """What submitit does, without SLURM: keeps what it was asked for, and runs the jobs here."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.parameters = folder, dict[str, Any]()
        FakeSlurm.last = self

    last: "FakeSlurm"

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def map_array(self, work: Callable[[int], Outcome], places: range) -> list[SimpleNamespace]:
        return [SimpleNamespace(job_id=f"7_{place}", result=lambda place=place: work(place)) for place in places]


def test_slurm_is_given_an_array_of_jobs(
    request_of_two: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "_package", lambda name, extra: SimpleNamespace(AutoExecutor=FakeSlurm))
    monkeypatch.setattr(launching.shutil, "which", lambda name: "/usr/bin/sbatch")
    workers = Workers("slurm", 2, threads=torch.get_num_threads(), hours=1.5, partition="long", gpus=1)
    outcome = launch(request_of_two, workers)
    assert outcome.num_done == 4
    assert on_file(request_of_two) == EVERYTHING
    assert FakeSlurm.last.folder == request_of_two.folder / ".jobs"
    assert FakeSlurm.last.parameters == {
        "name": "feedalign-made-table1",
        "timeout_min": 90,
        "cpus_per_task": torch.get_num_threads(),
        "gpus_per_node": 1,
        "slurm_partition": "long",
    }
    assert "submitted 2 jobs: 7_0, 7_1" in capsys.readouterr().out


def test_workers_are_told_the_whole_path_of_the_records(
    request_of_two: Request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders: list[Path] = []

    def note(work: Callable[[int], Outcome], workers: Workers, request: Request) -> list[Outcome]:
        folders.extend([request.folder, work.args[0].folder])  # type: ignore[attr-defined]
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "_locally", note)
    launch(replace(request_of_two, folder=Path("records")), Workers(number=2))
    assert folders == [tmp_path / "records"] * 2


def test_without_slurm_nothing_is_run_here_in_its_place(
    request_of_two: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "_package", lambda name, extra: SimpleNamespace(AutoExecutor=FakeSlurm))
    monkeypatch.setattr(launching.shutil, "which", lambda name: None)
    with pytest.raises(SettingError, match="sbatch"):
        launch(request_of_two, Workers("slurm", 2))
    assert on_file(request_of_two) == []


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_a_launcher_that_is_not_installed_is_told_with_its_extra(
    request_of_two: Request, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[name], None)
    monkeypatch.setattr(launching.shutil, "which", lambda command: "/usr/bin/sbatch")
    with pytest.raises(MissingPackageError, match=rf"feedalign\[{name}\]"):
        launch(request_of_two, Workers(name, 2))


def test_wrong_workers_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean slurm"):
        Workers("slrm")
    with pytest.raises(SettingError, match="at least 1, not 0"):
        Workers(number=0)
    with pytest.raises(SettingError, match="threads must be at least 1"):
        Workers(threads=0)
    with pytest.raises(SettingError, match="above 0"):
        Workers(hours=0.0)


def test_local_workers_share_the_processors_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching.os, "cpu_count", lambda: 8)
    assert [Workers(number=number).threads_each for number in (1, 3, 20)] == [8, 2, 1]
    assert Workers("slurm", 2).threads_each == 1
    assert Workers("ray", 2, threads=3).threads_each == 3


@pytest.mark.slow
def test_real_processes(request_of_two: Request, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from feedalign_lab.papers.launch import Workers, launch\n"
        "from feedalign_lab.papers.runner import Request\n"
        "from made_papers import cell\n"
        "cells = (cell(), cell('fc1-8/fa', rule='fa'))\n"
        f"request = Request('made', 'table1', cells, Path({str(request_of_two.folder)!r}), trials=2, epochs=1)\n"
        "print(launch(request, Workers(number=2)).num_done)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
    )
    assert done.stdout.splitlines()[-1] == "4", done.stderr
    assert on_file(request_of_two) == EVERYTHING
