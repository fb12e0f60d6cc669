import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from feedalign_lab.errors import CorruptFileError
from feedalign_lab.papers.figures import Check, Drawing, Panel, Series, read_drawing
from feedalign_lab.papers.figures.picture import _below, draw

PNG = b"\x89PNG"


def drawing(*panels: Panel, checks: tuple[Check, ...] = ()) -> Drawing:
    return Drawing("drtp", "fig2", "A title", "A caption.", "1 of 2 trials", panels, checks, {"torch": "2"})


WHOLE = drawing(
    Panel("left", "epoch", "loss", (Series("dfa", (1.0, 2.0), (3.0, 2.0), (0.5, math.nan), 2, "dfa"),), guide=90.0),
    Panel("right", "x", "y", (Series("a", (1.0,), (1.0,), style="points"),), "log", "log", x_range=(0.5, 2.0)),
    checks=(Check("It falls.", "by 1", True, 1.0), Check("It rises.", "unknown", None, source="ours")),
)


def test_a_drawing_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "fig2.json"
    path.write_text(WHOLE.to_json())
    # nan is not equal to itself.
    assert repr(read_drawing(path)) == repr(WHOLE)
    assert json.loads(path.read_text())["panels"][0]["series"][0]["std"] == [0.5, None]


def test_what_an_older_version_wrote_is_read(tmp_path: Path) -> None:
    path, found = tmp_path / "fig2.json", json.loads(WHOLE.to_json())
    for check in found["checks"]:
        del check["source"]
    del found["epochs"], found["trials"]
    path.write_text(json.dumps({**found, "format": 1}))
    drawing = read_drawing(path)
    assert [check.source for check in drawing.checks] == ["paper", "paper"]
    assert (drawing.epochs, drawing.trials, drawing.format) == (None, None, 1)


def test_below_a_picture_stands_whose_a_statement_is_and_whether_it_is_so_far() -> None:
    assert "HOLDS SO FAR: It falls." in _below(WHOLE, 200)
    assert "OPEN: Ours: It rises." in _below(WHOLE, 200)
    assert "HOLDS: It falls." in _below(replace(WHOLE, label=""), 200)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no figure of a paper"),
        ("[]", "no figure of a paper"),
        ('{"format": 1}', "no figure of a paper"),
        ('{"format": 99}', "reads up to 2"),
        ('{"format": 1, "panels": [{"series": [{}]}], "checks": []}', "no figure of a paper"),
        (
            '{"format": 1, "panels": [{"title": "p", "series": [{"name": "a", "x": [1], "mean": [], "std": []}]}]}',
            "a in p are not as many as its places",
        ),
    ],
)
def test_what_is_no_drawing_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "fig2.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=words):
        read_drawing(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="draw it anew"):
        read_drawing(tmp_path / "fig2.json")


@pytest.mark.parametrize(
    "panel",
    [
        WHOLE.panels[0],
        WHOLE.panels[1],
        Panel("empty", "x", "y", (Series("a", (), ()),)),
        Panel("map", "", "", (Series("a", (1.0, 2.0), (1.0, 2.0), style="dots"),), is_map=True),
        Panel("moments", "x", "y", tuple(Series(f"{i}", (1.0,), (1.0,)) for i in range(12)), is_ordered=True),
        Panel("fit", "x", "y", (Series("a", (1.0, 2.0), (1.0, 2.0), style="fit"),)),
    ],
)
def test_every_kind_of_panel_is_drawn(panel: Panel) -> None:
    assert draw(drawing(panel, checks=WHOLE.checks)).startswith(PNG)


def test_the_last_value_has_a_standard_error() -> None:
    series = Series("a", (1.0, 2.0), (3.0, 5.0), (1.0, 2.0), 4)
    assert series.last == (5.0, 1.0)
    assert math.isnan(Series("a", (1.0,), (3.0,), (math.nan,), 1).last[1])
    assert all(math.isnan(value) for value in Series("a", (), ()).last)
