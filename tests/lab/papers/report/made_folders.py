"""Folders of records made up for tests of the page."""

import base64
import math
from dataclasses import replace
from pathlib import Path

from made_papers import cell, record

from feedalign_lab.papers.cells import Cell, Paper, Published, Table
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.store import TrialStore

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def named_cells() -> dict[str, Cell]:
    """A cell for each verdict but one, in no order of their numbers."""
    means = {"fc1-8/c": 30.0, "fc1-8/a": 10.0, "fc1-8/d": 5.0, "fc1-8/b": 200.0, "fc1-8/e": 7.5}
    return {
        name: cell(name, network=f"fc1-{8 + place}", published=Published(mean, 0.25, 5))
        for place, (name, mean) in enumerate(means.items())
    }


def small_paper() -> Paper:
    """A paper with a table of five cells, and one of a cell that needs files."""
    tables = (
        Table("table1", "A table", "%", tuple(named_cells().values()), ("A note.",)),
        Table("table2", "Another", "%", (cell("other", needs="files of its own"),)),
    )
    return Paper("made", "A. Author & B. Author", 2020, "A title", tables)


def fill(store: TrialStore) -> None:
    """Put trials on file: a is reproduced, b is better, c is worse, d has one trial of two; e is not run."""
    ours = {"fc1-8/a": 10.0, "fc1-8/b": 150.0, "fc1-8/c": 40.0, "fc1-8/d": 5.0}
    for name, value in ours.items():
        for trial in range(1 if name.endswith("d") else 2):
            store.append(record(named_cells()[name], trial, test=(4 * value, 2 * value, value + trial / 8)))


def draw(folder: Path) -> Drawing:
    """Put a figure on file."""
    x = tuple(float(place) for place in range(1, 21))
    fall = Series("dfa", x, tuple(math.exp(-place / 5) for place in x), (0.01,) * 20, n=3)
    drawing = Drawing(
        "made",
        "fig2",
        "A figure",
        "What is drawn.",
        "20 of 100 epochs",
        (Panel("Loss", "epoch", "loss", (fall, replace(fall, name="drtp")), y_scale="log", guide=0.5),),
        (
            Check("It falls.", "from 1 to 0", True),
            Check("It rises.", "", None),
            Check("It ends.", "at 0", False, source="ours"),
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fig2.json").write_text(drawing.to_json())
    (folder / "fig2.png").write_bytes(PIXEL)
    return drawing
