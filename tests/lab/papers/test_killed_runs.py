"""Runs killed with SIGKILL at any moment: what was on file stays, and the table ends as an undisturbed one."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from made_papers import cell, protocol

from feedalign_lab.papers.runner import Request, run_cells
from feedalign_lab.papers.store import TrialRecord
from feedalign_lab.records import EpochRecord, OnEpoch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes there have no server to fork from")

_KILLS = 10
# A pause after every epoch, so that a machine of any speed is in the middle of the table at all ten moments.
_PAUSE = 0.03


def unwatched(rule: str, trial: int, epochs: int) -> OnEpoch:
    def on_epoch(record: EpochRecord) -> None:
        pass

    return on_epoch


def made_request(folder: Path) -> Request:
    long = protocol(trials=6, epochs=4)
    cells = (cell(protocol=long), cell("fc1-8/fa", rule="fa", protocol=long))
    return Request("made", "table1", cells, folder, stacked=1)


def train(request: Request, told: Connection) -> None:
    """Tell of every epoch with None, and of every record with its trial."""

    def slow(rule: str, trial: int, epochs: int) -> OnEpoch:
        def on_epoch(record: EpochRecord) -> None:
            told.send(None)
            time.sleep(_PAUSE)

        return on_epoch

    run_cells(request, slow, on_record=lambda record: told.send((record.cell, record.trial)))


def waiting(pipe: Connection) -> Iterator[Any]:
    """What has been told and not been read, of a process that may be gone."""
    while pipe.poll():
        try:
            yield pipe.recv()
        except EOFError:
            return


def facts(record: TrialRecord) -> tuple[object, ...]:
    curve = record.curve
    return record.cell, record.key, record.trial, record.status, curve.train_loss, curve.test, str(curve.angles)


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes forked from one that has everything imported, and no threads that a fork would lose."""
    made = multiprocessing.get_context("forkserver")
    # What the first step of an optimizer and the digits import by themselves takes longer than the training.
    by_itself = ["torch._dynamo", "sklearn.datasets", "sklearn.model_selection"]
    made.set_forkserver_preload(["feedalign_lab.papers.runner", "feedalign_lab.tensor_domain", *by_itself])
    return made


def test_ten_kills_lose_nothing_that_was_on_file(tmp_path: Path, context: ForkServerContext) -> None:
    moments = random.Random(0)
    request = made_request(tmp_path / "killed")
    told: set[tuple[str, int]] = set()
    num_killed = 0
    for _ in range(_KILLS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(request, theirs))
        process.start()
        theirs.close()
        heard = [ours.recv() for _ in range(moments.randrange(5))]
        time.sleep(moments.uniform(0.0, _PAUSE))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        num_killed += process.exitcode == -signal.SIGKILL
        told.update(message for message in [*heard, *waiting(ours)] if message is not None)
        on_file = {(found.cell, found.trial) for found in request.store.read("made", "table1").records}
        assert told <= on_file
        # At most one more than was told: that which was put on file and not yet told of.
        assert len(on_file - told) <= 1
        told = on_file
    assert num_killed == _KILLS
    assert run_cells(request, unwatched).status == "finished"
    undisturbed = replace(request, folder=tmp_path / "undisturbed")
    run_cells(undisturbed, unwatched)
    found = sorted(map(facts, request.store.read("made", "table1").records))
    assert found == sorted(map(facts, undisturbed.store.read("made", "table1").records))
    assert len(found) == 12


def test_two_processes_share_a_table(tmp_path: Path, context: ForkServerContext) -> None:
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
        told[place] += [message for message in waiting(pipes[place]) if message is not None]
    # Each trained some, and none trained what the other one did.
    assert all(told)
    assert len(told[0]) + len(told[1]) == len({*told[0], *told[1]}) == 12
    shelf = request.store.read("made", "table1")
    assert len(shelf.records) == 12
    assert shelf.problems == ()
