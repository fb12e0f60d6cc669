"""Files of checkpoints: whole or not at all, and of damaged ones nothing is believed."""

import hashlib
import io
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_runs import assert_equal

from feedalign_lab.checkpoints import file, keeper
from feedalign_lab.checkpoints.file import path_before, read_checkpoint, write_checkpoint
from feedalign_lab.checkpoints.keeper import CheckpointFolder, Checkpoints, differences
from feedalign_lab.errors import CheckpointError, SettingError

CONTENT = {"weights": torch.arange(6.0), "records": [{"loss": float("inf"), "angles": ()}], "step": 3}
LABEL = {"configuration": {"rule": "dfa"}, "what": "after epoch 1"}

Damage = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, draws: random.Random) -> None:
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)


def cut(data: bytearray, draws: random.Random) -> None:
    del data[draws.randrange(len(data)) :]


def take_out(data: bytearray, draws: random.Random) -> None:
    start = draws.randrange(len(data))
    del data[start : start + 1 + draws.randrange(40)]


def put_in(data: bytearray, draws: random.Random) -> None:
    place = draws.randrange(len(data) + 1)
    data[place:place] = draws.randbytes(1 + draws.randrange(40))


def zero(data: bytearray, draws: random.Random) -> None:
    # One byte of it at least was none: of a run of zeros nothing would change.
    place = draws.choice([place for place, value in enumerate(data) if value])
    length = 1 + draws.randrange(600)
    data[place : place + length] = bytes(len(data[place : place + length]))


DAMAGES: tuple[Damage, ...] = (flip, cut, take_out, put_in, zero)


def damaged(data: bytes, damage: Damage, draws: random.Random) -> bytes:
    changed = bytearray(data)
    damage(changed, draws)
    return bytes(changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "training.feedalign-checkpoint"


@pytest.fixture
def written(path: Path) -> bytes:
    write_checkpoint(path, LABEL, CONTENT, keeps_older=True)
    return path.read_bytes()


def test_what_was_written_is_read(path: Path, written: bytes) -> None:
    label, content = read_checkpoint(path)
    assert label == LABEL
    assert_equal(content, CONTENT)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_thousand_damages_are_all_noticed(path: Path, written: bytes) -> None:
    draws = random.Random(0)
    for number in range(1000):
        damage = DAMAGES[number % len(DAMAGES)]
        path.write_bytes(damaged(written, damage, draws))
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_damage_of_which_the_sum_is_right_is_an_error_with_a_name(path: Path, written: bytes) -> None:
    """As if somebody had meant it: what is behind the first line is made anew, and its sum with it."""
    draws, first, num_refused = random.Random(0), written.index(b"\n") + 1, 0
    for number in range(200):
        rest = damaged(written[first:], DAMAGES[number % len(DAMAGES)], draws)
        path.write_bytes(f"feedalign checkpoint 1 {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
        try:
            read_checkpoint(path)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 100


def harm() -> None:
    pytest.fail("ran code")


class Harmful:
    def __reduce__(self) -> Any:
        return harm, ()


@pytest.mark.parametrize("is_plain", [False, True])
def test_no_code_is_run(is_plain: bool, path: Path, written: bytes) -> None:
    stream = io.BytesIO()
    torch.save({"weights": Harmful()}, stream)
    rest = b"{}\n" + (pickle.dumps({"weights": Harmful()}) if is_plain else stream.getvalue())
    path.write_bytes(f"feedalign checkpoint 1 {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
    with pytest.raises(CheckpointError, match="holds what no checkpoint does"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "is no checkpoint"),
        (b"feedalign checkpoint 2 " + b"0" * 64 + b"\n", "has format 2, and this version of feedalign reads format 1"),
        (b"feedalign checkpoint 1 " + b"0" * 64 + b"\n", "is damaged"),
    ],
)
def test_every_damage_has_its_sentence(content: bytes, words: str, path: Path, written: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(path)


def test_a_folder_in_its_place_cannot_be_read(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(path)


def test_a_process_that_dies_while_it_writes_leaves_what_was_there(
    path: Path, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the steps of a write, and with either of the two names in its place."""

    class Dies(BaseException):
        pass

    for name in ("fsync", "replace"):
        for at in (1, 2):
            calls = []
            honest = getattr(os, name)

            def step(*arguments: Any, honest: Any = honest, at: int = at, calls: list[int] = calls) -> Any:
                calls.append(1)
                if len(calls) == at:
                    raise Dies
                return honest(*arguments)

            monkeypatch.setattr(file.os, name, step)
            with pytest.raises(Dies):
                write_checkpoint(path, LABEL, {**CONTENT, "step": 4}, keeps_older=True)
            monkeypatch.undo()
            left = [one for one in (path, path_before(path)) if one.exists()]
            assert {read_checkpoint(one)[1]["step"] for one in left} & {3, 4}


# What is gone on from.


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(path: Path, said: list[str]) -> Callable[..., Checkpoints]:
    def made(configuration: Any = None, **changes: Any) -> Checkpoints:
        return Checkpoints(path, {"rule": "dfa"} if configuration is None else configuration, said.append, **changes)

    return made


@pytest.fixture
def two(make: Callable[..., Checkpoints]) -> Checkpoints:
    """Two checkpoints on file."""
    saved = make()
    saved.save("after epoch 1", {"step": 1})
    saved.save("after epoch 2", {"step": 2})
    return saved


def test_the_newest_is_gone_on_from(make: Callable[..., Checkpoints], two: Checkpoints, said: list[str]) -> None:
    again = make()
    assert again.newest() == {"step": 2}
    assert said == [f"going on from {two.path}, saved after epoch 2"]
    assert again.resumed == "after epoch 2"


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_one_falls_back_to_the_one_before(
    content: bytes | None, make: Callable[..., Checkpoints], two: Checkpoints, said: list[str]
) -> None:
    if content is None:
        two.path.unlink()
    else:
        two.path.write_bytes(content)
    again = make()
    assert again.newest() == {"step": 1}
    assert said[-1] == f"going on from {path_before(two.path)}, saved after epoch 1"
    assert len(said) == (1 if content is None else 2)
    # The damaged one does not take the place of the sound one before.
    again.save("after epoch 2", {"step": 3})
    assert read_checkpoint(path_before(two.path))[1] == {"step": 1}
    assert read_checkpoint(two.path)[1] == {"step": 3}


def test_two_damaged_ones_begin_anew(make: Callable[..., Checkpoints], two: Checkpoints, said: list[str]) -> None:
    two.path.write_bytes(two.path.read_bytes()[:-1])
    path_before(two.path).write_bytes(b"")
    assert make().newest() is None
    assert ["damaged" in said[0], "empty" in said[1], "begins anew" in said[2], len(said)] == [True, True, True, 3]


def test_damaged_pairs_never_end_in_a_traceback(make: Callable[..., Checkpoints], two: Checkpoints) -> None:
    draws = random.Random(1)
    paths = (two.path, path_before(two.path))
    sound = [path.read_bytes() for path in paths]
    for number in range(200):
        for path, data in zip(paths, sound, strict=True):
            path.write_bytes(damaged(data, DAMAGES[number % 5], draws) if draws.random() < 0.7 else data)
        whole = [path.read_bytes() == data for path, data in zip(paths, sound, strict=True)]
        expected = {"step": 2} if whole[0] else {"step": 1} if whole[1] else None
        assert make().newest() == expected


def test_another_configuration_is_not_believed(
    make: Callable[..., Checkpoints], two: Checkpoints, said: list[str]
) -> None:
    other = make({"rule": "fa", "schedule": {"epochs": 3}})
    assert other.newest() is None
    assert 'rule: "dfa" there, "fa" here; schedule: null there' in said[0]
    assert "begins anew" in said[-1]
    with pytest.raises(SettingError, match='rule: "dfa" there, "fa" here'):
        other.refuse_others()
    make().refuse_others()


def test_other_versions_are_believed_only_where_that_is_asked_for(
    make: Callable[..., Checkpoints], two: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "9.0")
    assert make().newest() is None
    assert "was made by other versions (torch:" in said[0]
    said.clear()
    assert make(trusts_other_versions=True).newest() == {"step": 2}
    assert "the last digits may differ" in said[0]
    assert "torch:" in said[0]


def test_other_threads_are_told(
    make: Callable[..., Checkpoints], two: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    again = make()
    assert again.newest() == {"step": 2}
    assert "99 here), so that the last digits may differ" in said[0]
    assert "99 here" in again.resumed


def test_a_full_disk_is_told_once_and_training_goes_on(
    make: Callable[..., Checkpoints], two: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file.os, "fsync", full)
    for _ in range(2):
        two.save("after epoch 3", {"step": 3})
    assert len(said) == 1
    assert "cannot be written (No space left on device). Training goes on" in said[0]
    monkeypatch.undo()
    assert make().newest() == {"step": 2}
    assert len(list(two.path.parent.iterdir())) == 2
    two.save("after epoch 4", {"step": 4})
    assert make().newest() == {"step": 4}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_torch_on_a_full_disk_is_an_error_with_a_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir(parents=True)
    path.with_name(f"{path.name}.new").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(path, LABEL, {"weights": torch.zeros(100_000)}, keeps_older=True)
    assert not path.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("")
    Checkpoints(tmp_path / "file" / "a.feedalign-checkpoint", {}, said.append).save("after epoch 1", {})
    assert "Training goes on" in said[0]


def test_saving_takes_no_more_than_its_share(make: Callable[..., Checkpoints], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    def slow(*_: Any, **__: Any) -> None:
        nonlocal now
        now += 3.0

    monkeypatch.setattr(keeper, "time", Clock)
    monkeypatch.setattr(keeper, "write_checkpoint", slow)
    saved, num_saved = make(), 0
    assert not saved.is_due
    for _ in range(10_000):
        now += 1.0
        if saved.is_due:
            num_saved += 1
            saved.save("", {})
    assert 3.0 * num_saved < 1.01 * keeper.MOST_SHARE * now
    assert 3.0 * num_saved > 0.9 * keeper.MOST_SHARE * now


def test_a_folder_knows_what_was_gone_on_from_and_removes_it(two: Checkpoints, said: list[str]) -> None:
    folder = CheckpointFolder(two.path.parent, {"rule": "dfa"}, said.append)
    assert folder.of("training").newest() == {"step": 2}
    assert folder.of("convolutions").newest() is None
    assert folder.resumed() == "training after epoch 2"
    folder.remove()
    assert list(two.path.parent.iterdir()) == []


def test_differences_are_named() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == []
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}}) == ["a.b: 1 there, 2 here"]
    assert differences({"a": "x" * 100}, None)[0].startswith('configuration: {"a": "xxx')
