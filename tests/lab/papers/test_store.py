"""Records: appended whole, read back as they were, and what is no record named and passed over."""

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from made_papers import cell, record

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.papers.store import RECORD_FORMAT, Curve, TrialStore, configuration_hash


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    return TrialStore(tmp_path / "records")


def read_names(store: TrialStore) -> list[tuple[str, int]]:
    return [(found.cell, found.trial) for found in store.read("made", "table1").records]


def test_nothing_is_read_from_a_folder_that_is_not_there_and_none_is_made(store: TrialStore) -> None:
    assert store.read("made", "table1").records == ()
    assert not store.folder.exists()


def test_a_record_comes_back_as_it_went(store: TrialStore) -> None:
    curve = Curve(
        train_loss=(1.0, 0.5, math.nan),
        test=(30.0, 20.0, 10.0),
        seconds=(1.0, 2.0, 3.0),
        validation=(31.0, 21.0, 11.0),
        others={"AP": (0.1, 0.2, 0.3)},
        angles={"3": {"0": 45.0, "2": math.nan}},
    )
    one = record(cell(), curve=curve, stacked=10, ended="2020-01-01T00:00:00+00:00")
    store.append(one)
    (found,) = store.read("made", "table1").records
    assert math.isnan(found.curve.train_loss[2])
    assert math.isnan(found.curve.angles["3"]["2"])
    assert found.curve.angles["3"]["0"] == 45.0
    assert found.curve.others == curve.others
    assert found.curve.validation == curve.validation
    assert replace(found, curve=curve) == one


def test_numbers_keep_seven_digits_and_the_configuration_all(store: TrialStore) -> None:
    one = record(cell(protocol=replace(cell().protocol, learning_rate=0.123456789012345)), test=(10.123456789,) * 3)
    store.append(one)
    (found,) = store.read("made", "table1").records
    assert found.curve.test[0] == 10.12346
    assert found.key == one.key


def test_every_record_is_one_line(store: TrialStore) -> None:
    for trial in range(3):
        store.append(record(cell(), trial))
    lines = store.path("made", "table1").read_text().splitlines()
    assert [json.loads(line)["trial"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_line_cut_short_is_named_and_what_follows_is_kept(store: TrialStore, cut: int) -> None:
    store.append(record(cell(), 0))
    path = store.path("made", "table1")
    whole = path.read_bytes()
    store.append(record(cell(), 1))
    second = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + second[:cut])
    if cut != -1:
        assert read_names(store) == [("fc1-8/dfa", 0)]
    store.append(record(cell(), 2))
    shelf = store.read("made", "table1")
    kept = [0, 1, 2] if cut == -1 else [0, 2]
    assert [found.trial for found in shelf.records] == kept
    assert [("line 2" in problem and "cut short" in problem) for problem in shelf.problems] == [True] * (3 - len(kept))


def test_a_line_whose_end_alone_is_lost_still_is_a_record(store: TrialStore) -> None:
    store.append(record(cell(), 0))
    path = store.path("made", "table1")
    path.write_bytes(path.read_bytes()[:-1])
    store.append(record(cell(), 1))
    assert read_names(store) == [("fc1-8/dfa", 0), ("fc1-8/dfa", 1)]
    assert store.read("made", "table1").problems == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": RECORD_FORMAT + 1}, "by a newer feedalign"),
        ({"status": "interrupted"}, "status is 'interrupted'"),
        ({"trial": "one"}, "trial is 'one'"),
        ({"trial": -1}, "trial is -1"),
        ({"trial": True}, "trial is True"),
        ({"stacked": 0}, "stacked is 0"),
        ({"message": 3}, "message is 3"),
        ({"environment": []}, r"environment is []"),
        ({"surprise": 1}, "surprise"),
        ({"curve": {"train_loss": [1], "test": [1, 2], "seconds": [1]}}, "differ in length"),
        ({"curve": {"train_loss": [1], "test": [1], "seconds": [1]}}, "it holds 1 epochs of 3"),
        ({"curve": {"train_loss": "abc", "test": [1], "seconds": [1]}}, "no record of a trial"),
        ({"format": "1"}, "no record of a trial"),
        ({"curve": {"train_loss": [1] * 3, "test": [9, 5, -1], "seconds": [1] * 3}}, "its error holds numbers below 0"),
        ({"curve": {"train_loss": [1] * 3, "test": [1] * 3, "seconds": [1, 1, -2]}}, "its seconds holds"),
        (
            {
                "metric": "accuracy",
                "curve": {"train_loss": [1] * 3, "test": [1] * 3, "seconds": [1] * 3, "validation": [5, 101, 7]},
            },
            "its accuracy holds numbers below 0 or above 100",
        ),
        (
            {"curve": {"train_loss": [1] * 3, "test": [1] * 3, "seconds": [1] * 3, "others": {"AP": [0.5, 1.5, None]}}},
            "its AP holds numbers below 0 or above 1",
        ),
    ],
)
def test_what_is_no_record_is_named(store: TrialStore, change: dict[str, object], words: str) -> None:
    store.append(record(cell(), 0))
    path = store.path("made", "table1")
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | change) + "\n" + path.read_text())
    shelf = store.read("made", "table1")
    assert [found.trial for found in shelf.records] == [0]
    (problem,) = shelf.problems
    assert words in problem
    assert f"{path}, line 1" in problem


@pytest.mark.parametrize("line", [b"\x00\xff\xfe", b"[1, 2]", b"7", b"{}", b"null"])
def test_foreign_lines_are_passed_over(store: TrialStore, line: bytes) -> None:
    store.append(record(cell(), 0))
    path = store.path("made", "table1")
    path.write_bytes(line + b"\n" + path.read_bytes())
    shelf = store.read("made", "table1")
    assert len(shelf.records) == 1
    assert len(shelf.problems) == 1


def test_a_trial_that_is_on_file_twice_counts_once(store: TrialStore) -> None:
    first = record(cell(), 0)
    store.append(first)
    store.append(record(cell(), 0, test=(9.0, 9.0, 9.0)))
    shelf = store.read("made", "table1")
    assert shelf.records == (first,)
    assert "on file already" in shelf.problems[0]


def test_a_full_disk_leaves_what_was_there_and_says_so(store: TrialStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(record(cell(), 0))
    before = store.path("made", "table1").read_bytes()
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OutputFolderError, match=r"No space left on device.*make room"):
        store.append(record(cell(), 1))
    monkeypatch.undo()
    assert store.path("made", "table1").read_bytes() == before


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("")
    with pytest.raises(OutputFolderError, match="--records"):
        TrialStore(tmp_path / "records").append(record(cell()))
    with (
        pytest.raises(OutputFolderError, match="--records"),
        TrialStore(tmp_path / "records").claim("made", "table1", "b", [0]),
    ):
        pass


def test_a_trial_is_claimed_once_until_it_is_given_back(store: TrialStore) -> None:
    other = TrialStore(store.folder)
    with store.claim("made", "table1", "key", [0, 1]) as mine:
        assert mine == (0, 1)
        with other.claim("made", "table1", "key", [0, 1, 2]) as theirs:
            assert theirs == (2,)
        with other.claim("made", "table1", "another", [0]) as another_configuration:
            assert another_configuration == (0,)
    with other.claim("made", "table1", "key", [0]) as later:
        assert later == (0,)


def test_the_hash_is_of_the_values_whatever_their_order() -> None:
    assert configuration_hash({"a": 1, "b": 0.5}) == configuration_hash({"b": 0.5, "a": 1})
    assert configuration_hash({"a": 1}) != configuration_hash({"a": 2})
    # Records on file are found by it: it must never change.
    assert configuration_hash({"rule": "dfa", "epochs": 3}) == "fa9a13e74b52"
