"""Results: checked before, written whole, never overwritten unasked."""

import json
import math
from pathlib import Path

import pytest

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.records import Spread
from feedalign_lab.results import ResultsFolder, to_json


def test_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = ResultsFolder.open(tmp_path / "a" / "b", overwrite=False)
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(("was_there", "is_written"), [(False, False), (False, True), (True, False)])
def test_new_folder_goes_again_where_nothing_came_of_it(tmp_path: Path, was_there: bool, is_written: bool) -> None:
    path = tmp_path / "out"
    if was_there:
        path.mkdir()
    folder = ResultsFolder.open(path, overwrite=False)

    def load() -> None:
        with folder.only_kept_with_content():
            if is_written:
                folder.write_results({})
            raise ValueError("no such data")

    with pytest.raises(ValueError, match="no such data"):
        load()
    assert path.exists() == (was_there or is_written)


def test_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFolderError, match=r"cannot be written \(.+\): choose another with --out"):
        ResultsFolder.open(tmp_path / "file" / "results", overwrite=True)


@pytest.mark.parametrize("name", ["results.json", "weights.pt", "learning_curves.png", "angles.png"])
def test_no_file_is_overwritten_unless_told_to(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(OutputFolderError, match=rf"{name} exists already.*--overwrite"):
        ResultsFolder.open(tmp_path, overwrite=False)
    assert (tmp_path / name).read_text() == "precious"
    ResultsFolder.open(tmp_path, overwrite=True).write_results({"a": 1})
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}


def test_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    folder = ResultsFolder.open(tmp_path, overwrite=False)
    path = folder.write_results({"epoch": 1})

    def fail_half_way(stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputFolderError, match="No space left"):
        folder.write("results.json", fail_half_way)
    assert json.loads(path.read_text()) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_writer_that_wants_a_path_gets_one_with_the_files_ending(tmp_path: Path) -> None:
    folder, seen = ResultsFolder.open(tmp_path, overwrite=False), []

    def save(path: Path) -> None:
        seen.append(path)
        path.write_text("film")

    assert folder.write_file("turn.gif", save) == tmp_path / "turn.gif"
    assert seen[0].suffix == ".gif"
    assert seen[0].name != "turn.gif"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"turn.gif": "film"}


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(28, "No space left on device"), OutputFolderError), (ValueError("odd"), ValueError)]
)
def test_writer_that_fails_half_way_leaves_the_old_file(
    tmp_path: Path, error: Exception, told: type[Exception]
) -> None:
    folder = ResultsFolder.open(tmp_path, overwrite=False)
    folder.write_file("turn.gif", lambda path: path.write_text("old"))

    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(told):
        folder.write_file("turn.gif", fail)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"turn.gif": "old"}


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    folder = ResultsFolder.open(tmp_path, overwrite=False)
    path = folder.write_results({"epoch": 1})

    def interrupt(stream: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.write("results.json", interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
    assert json.loads(path.read_text()) == {"epoch": 1}


def test_folder_that_vanished(tmp_path: Path) -> None:
    folder = ResultsFolder.open(tmp_path / "gone", overwrite=False)
    folder.path.rmdir()
    with pytest.raises(OutputFolderError, match="cannot be written"):
        folder.write_results({})


def test_json_has_no_nan() -> None:
    text = to_json({"spread": Spread(1.5, math.nan, 1), "list": (math.inf, 2), "path": Path("a/b")})
    assert json.loads(text) == {
        "spread": {"mean": 1.5, "std": None, "count": 1},
        "list": [None, 2],
        "path": str(Path("a/b")),
    }
