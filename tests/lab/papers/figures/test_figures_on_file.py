"""What is on file of a figure: nothing of more is replaced by less, and what is said is read off the series."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.papers.catalogue import PAPER_NAMES
from feedalign_lab.papers.figures import (
    Drawing,
    Figure,
    Panel,
    Series,
    Size,
    figure_named,
    figures_of,
    is_on_file,
    read_drawing,
    size_of,
)
from feedalign_lab.papers.figures.checks import NOT_THERE, is_lower, ours
from feedalign_lab.papers.figures.figure import Made, Run
from feedalign_lab.papers.store import TrialStore

pytestmark = pytest.mark.usefixtures("rough_pictures")

RECORDS = Path(__file__).parents[4] / "docs" / "records" / "papers"


@dataclass(frozen=True)
class Falling:
    """Draws a line at once; counts how often."""

    made: list[Size]
    lacks: int = 0
    is_empty: bool = False

    def make(self, run: Run) -> Made:
        self.made.append(run.size)
        values = () if self.is_empty else (2.0, 1.0)
        panel = Panel("p", "epoch", "y", (Series("a", (1.0, 2.0)[: len(values)], values),))
        return Made((panel,), Size(run.size.epochs, run.size.trials - self.lacks))


def figure(*, lacks: int = 0, is_empty: bool = False) -> Figure:
    return Figure("drtp", "made", "Made", "", Falling([], lacks, is_empty), Size(4, 3))


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({}, {"trials": 1}, "4 epochs and 3 trials, which is more than 4 epochs and 1 trial,"),
        ({}, {"epochs": 1}, "4 epochs and 3 trials, which is more than 1 epoch and 3 trials,"),
        ({"epochs": 3, "trials": 1}, {"epochs": 2, "trials": 3}, "3 epochs and 1 trial, which is more"),
    ],
)
def test_a_figure_of_more_is_left_before_anything_is_computed(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any], words: str, *, is_old: bool
) -> None:
    one, store = figure(), TrialStore(tmp_path)
    one.run(store, tmp_path, **first)
    path = tmp_path / "made.json"
    if is_old:
        found = json.loads(path.read_text())
        del found["epochs"], found["trials"]
        path.write_text(json.dumps({**found, "format": 1}))
    before = files_in(tmp_path)
    again = figure()
    with pytest.raises(OutputFolderError, match=rf"made.png was made with {words}.* left as it is: .*--out"):
        again.run(store, tmp_path, **then)
    assert files_in(tmp_path) == before
    assert again.recipe.made == []  # type: ignore[attr-defined]
    assert len(again.run(store, tmp_path / "elsewhere", **then)) == 2


@pytest.mark.parametrize("then", [{"epochs": 2, "trials": 1}, {"epochs": 2, "trials": 2}, {}, {"trials": 9}])
def test_as_much_or_more_takes_its_place(tmp_path: Path, then: dict[str, Any]) -> None:
    one, store = figure(), TrialStore(tmp_path)
    one.run(store, tmp_path, epochs=2, trials=1)
    one.run(store, tmp_path, **then)
    drawing = read_drawing(tmp_path / "made.json")
    assert size_of(one, drawing) == one.size(**then)
    assert (drawing.epochs, drawing.trials) == (then.get("epochs", 4), then.get("trials", 3))


@pytest.mark.parametrize(
    ("lacking", "words"),
    [({"lacks": 1}, "3 trials, which is more than"), ({"is_empty": True}, "shows a in 'p'")],
)
def test_what_came_out_as_less_than_was_asked_replaces_nothing(
    tmp_path: Path, lacking: dict[str, Any], words: str
) -> None:
    store = TrialStore(tmp_path)
    figure().run(store, tmp_path)
    before = files_in(tmp_path)
    with pytest.raises(OutputFolderError, match=words):
        figure(**lacking).run(store, tmp_path)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(("name", "words"), [("made.json", "not known what"), ("made.png", "without made.json")])
def test_what_nobody_knows_the_size_of_is_left(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputFolderError, match=words):
        figure().run(TrialStore(tmp_path), tmp_path)
    assert files_in(tmp_path) == {name: b"mine"}


def test_sizes_are_those_of_the_label_where_the_file_does_not_have_them() -> None:
    one = replace(figure(), whole=Size(500, 10), counted="examples")
    sizes = {"": Size(500, 10), "40 of 500 epochs": Size(40, 10), "3 of 500 epochs, 2 of 10 examples": Size(3, 2)}
    for label, size in sizes.items():
        assert size_of(one, Drawing("drtp", "made", "", "", label, ())) == size
        assert one.label(size) == label


def test_a_figure_is_on_file_with_picture_and_data(tmp_path: Path) -> None:
    one = figure()
    assert not is_on_file(one, tmp_path)
    (tmp_path / "made.png").touch()
    assert not is_on_file(one, tmp_path)
    (tmp_path / "made.json").touch()
    assert is_on_file(one, tmp_path)


def test_a_statement_that_is_ours_is_marked() -> None:
    drawing = Drawing("drtp", "made", "", "", "", (Panel("p", "x", "y", ()),))
    check = is_lower("A lies lower.", "p", "a", "b")
    assert (check(drawing).source, ours(check)(drawing).source) == ("paper", "ours")


ON_FILE = [
    pytest.param(one, id=f"{paper}-{one.name}")
    for paper in PAPER_NAMES
    for one in figures_of(paper)
    if is_on_file(one, RECORDS / paper)
]


@pytest.mark.parametrize("one", ON_FILE)
def test_what_is_said_on_file_is_what_the_series_on_file_say(one: Figure) -> None:
    drawing = read_drawing(RECORDS / one.paper / f"{one.name}.json")
    found = one.checked(drawing)
    assert [(c.claim, c.measured, c.holds, c.source) for c in found.checks] == [
        (c.claim, c.measured, c.holds, c.source) for c in drawing.checks
    ]
    assert one.label(size_of(one, drawing)) == drawing.label


@pytest.mark.parametrize("one", ON_FILE)
def test_every_statement_says_what_counts_as_holding(one: Figure) -> None:
    for check in read_drawing(RECORDS / one.paper / f"{one.name}.json").checks:
        told = (" counts", " count as ", "standard errors apart", "more than any noise")
        is_missing = check.holds is None and check.measured == NOT_THERE
        assert is_missing or any(words in check.measured for words in told), check.measured


def test_figures_named_on_file_exist() -> None:
    for paper in PAPER_NAMES:
        for path in (RECORDS / paper).glob("*.json"):
            assert figure_named(paper, path.stem).paper == paper
