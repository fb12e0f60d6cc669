"""The same seed gives the same bits: twice in one process, and in another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import feedalign as fa
from faults.same_bits import checksums


@pytest.fixture
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_every_rule_gives_the_same_bits_again_and_in_another_process() -> None:
    search_path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    other = subprocess.Popen(
        [sys.executable, "-m", "faults.same_bits"],
        env={**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    first = checksums()
    torch.rand(17)  # whatever else draws from the global state
    assert checksums() == first
    assert len(first) == len(fa.ALL_RULES)
    assert len(set(first.values())) == len(first), "rules that are one and the same"
    assert not set(checksums(seed=1).values()) & set(first.values())
    told, _ = other.communicate(timeout=110)
    assert json.loads(told) == first
