"""Runs killed with SIGKILL at any moment: what was on file stays, and the table ends as an undisturbed one."""

import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from made_papers import cell, protocol

from feedalign_lab.papers.runner import Request, run_cells
from feedalign_lab.papers.store import TrialRecord
from feedalign_lab.records import EpochRecord, OnEpoch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch loaded")

_KILLS = 10


def unwatched(rule: str, trial: int, epochs: int) -> OnEpoch:
    def on_epoch(record: EpochRecord) -> None:
        pass

    return on_epoch


def made_request(folder: Path) -> Request:
    long = protocol(trials=6, epochs=4)
    cells = (cell(protocol=long), cell("fc1-8/fa", rule="fa", protocol=long))
    return Request("made", "table1", cells, folder, stacked=1)


def train(request: Request, told: Connection) -> None:
    run_cells(request, unwatched, on_record=lambda record: told.send((record.cell, record.trial)))


def facts(record: TrialRecord) -> tuple[object, ...]:
    curve = record.curve
    return record.cell, record.key, record.trial, record.status, curve.train_loss, curve.test, str(curve.angles)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ten_kills_lose_nothing_that_was_on_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    moments = random.Random(0)
    request = made_request(tmp_path / "killed")
    told: set[tuple[str, int]] = set()
    num_killed = 0
    for _ in range(_KILLS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(request, theirs))
        process.start()
        theirs.close()
        time.sleep(moments.uniform(0.0, 0.5))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        num_killed += process.exitcode == -signal.SIGKILL
        while ours.poll():
            try:
                told.add(ours.recv())
            except EOFError:
                break
        on_file = {(found.cell, found.trial) for found in request.store.read("made", "table1").records}
        assert told <= on_file
        # At most one more than was told: that which was put on file and not yet told of.
        assert len(on_file - told) <= 1
        told = on_file
    assert num_killed > 1
    assert run_cells(request, unwatched).status == "finished"
    undisturbed = replace(request, folder=tmp_path / "undisturbed")
    run_cells(undisturbed, unwatched)
    found = sorted(map(facts, request.store.read("made", "table1").records))
    assert found == sorted(map(facts, undisturbed.store.read("made", "table1").records))
    assert len(found) == 12


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_share_a_table(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    request = made_request(tmp_path / "shared")
    pipes, processes = [], []
    for cells in (request.cells, request.cells[::-1]):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(replace(request, cells=cells), theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    told: list[list[tuple[str, int]]] = [[], []]
    for place, process in enumerate(processes):
        process.join()
        while pipes[place].poll():
            try:
                told[place].append(pipes[place].recv())
            except EOFError:
                break
    # Each trained some, and none trained what the other one did.
    assert all(told)
    assert len(told[0]) + len(told[1]) == len({*told[0], *told[1]}) == 12
    shelf = request.store.read("made", "table1")
    assert len(shelf.records) == 12
    assert shelf.problems == ()
