"""Damaged files of every format are read or refused with a sentence; `python -m fuzzing` does many times as many."""

from __future__ import annotations

import os
import signal
import time
import warnings
from pathlib import Path
from random import Random

import pytest

from feedalign_lab.errors import CorruptFileError
from fuzzing import runs
from fuzzing.mutations import of_bytes
from fuzzing.readers import READERS
from fuzzing.runs import Campaign, outcomes_of
from fuzzing.trials import Outcome, Reader, outcome_of

INPUTS = 50
"""Of a reader of weight 1."""


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused_with_a_sentence(reader: Reader, tmp_path: Path) -> None:
    outcomes = {number: outcome_of(reader, number, tmp_path) for number in range(round(INPUTS * reader.weight))}
    assert outcomes[0].kind == "read", "a whole file"
    assert not {number: outcome for number, outcome in outcomes.items() if outcome.kind == "fault"}


def test_the_same_number_gives_the_same_damage() -> None:
    for reader in READERS:
        assert reader.files(7) == reader.files(7)
        assert any(reader.files(number) != reader.files(0) for number in range(1, 20))


# The harness itself: what it must notice is done on purpose.


def write(folder: Path) -> None:
    (folder / "a").write_bytes(bytes(range(64)))


def reader_that(does: object) -> Reader:
    """Reads whole files, and does something on damaged ones."""

    def read(folder: Path) -> None:
        if folder.name == "input" and (folder / "a").exists() and (folder / "a").read_bytes() != bytes(range(64)):
            does(folder)  # type: ignore[operator]

    return Reader("made", write, read, {"a": of_bytes()})


def wrap_a_lack_of_memory(_: Path) -> None:
    try:
        bytearray(2**48)
    except MemoryError as error:
        raise CorruptFileError("It is damaged.") from error


WRONG = {
    "ValueError": lambda _: int("x"),
    "lack of memory": wrap_a_lack_of_memory,
    "UserWarning": lambda _: warnings.warn("careful", stacklevel=1),
    "os.system": lambda _: os.system("true"),
    "compile": lambda _: eval("1 + 1"),
    "for writing": lambda folder: (folder.parents[1] / "beside").write_text(""),
    "characters": lambda _: (_ for _ in ()).throw(CorruptFileError("")),
    "SystemExit": lambda _: exit(),
}


@pytest.mark.parametrize("sign", WRONG)
def test_what_must_not_happen_is_noticed(sign: str, tmp_path: Path) -> None:
    found = [outcome_of(reader_that(WRONG[sign]), number, tmp_path) for number in range(4)]
    assert found[0] == Outcome("read")
    assert any(outcome.kind == "fault" and sign in outcome.detail for outcome in found), found


def test_a_process_that_dies_or_hangs_is_noticed_and_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SECONDS_PER_INPUT", 0.3)
    for does, sign in (
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "ended with -9"),
        (lambda _: time.sleep(9), "no answer in 0.3 seconds"),
    ):
        reader = reader_that(does)
        assert reader.files(1) != reader.files(0)
        found = dict(outcomes_of(reader, [1, 0]))
        assert found[1] == Outcome("fault", found[1].detail)
        assert sign in found[1].detail
        assert found[0] == Outcome("read")


def test_a_campaign_goes_on_where_it_was_broken_off_and_keeps_faults(tmp_path: Path) -> None:
    reader = reader_that(WRONG["ValueError"])
    first = Campaign(tmp_path).run(reader, 4)
    again = Campaign(tmp_path)
    assert again.tallies["made"] == first
    assert again.run(reader, 6).done == 6
    for number in again.tallies["made"].faults:
        assert (tmp_path / "faults" / "made" / number / "a").read_bytes() == reader.files(int(number))["a"]


def test_every_way_of_damaging_changes_something() -> None:
    damage = of_bytes(b"token")
    made = [damage(b"abc\ndef\n12\n" * 5, Random(number)) for number in range(60)]
    assert len(set(made)) > 50
    assert any(b"token" in content for content in made)
