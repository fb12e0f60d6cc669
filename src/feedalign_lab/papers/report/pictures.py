"""The figures that lie beside the records: pictures, and the numbers they are drawn from."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from feedalign_lab.errors import CorruptFileError
from feedalign_lab.papers.figures.drawing import Drawing, Source, read_drawing

_PICTURE, _DATA = ".png", ".json"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Picture:
    """A figure as it is shown.

    Attributes:
        name: Of the figure: "fig2".
        drawing: Its numbers; None where there are none on file.
        image: The picture as text, for `data:image/png;base64,`; empty where there is none on file.
    """

    name: str
    drawing: Drawing | None
    image: str


def find_figures(folder: Path) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Read the figures of a paper.

    Args:
        folder: Where its pictures and their data are.

    Returns:
        The figures by name, and what could not be used, in words.
    """
    names = sorted({path.stem for ending in (_PICTURE, _DATA) for path in folder.glob(f"*{ending}")}, key=_by_number)
    pictures: list[Picture] = []
    problems: list[str] = []
    for name in names:
        image = _image(folder / f"{name}{_PICTURE}", problems)
        drawing = _drawing(folder / f"{name}{_DATA}", problems)
        if image or drawing:
            pictures.append(Picture(name, drawing, image))
    return tuple(pictures), tuple(problems)


def _by_number(name: str) -> tuple[str, int, str]:
    """Order with fig2 before fig10."""
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0), name


def _drawing(path: Path, problems: list[str]) -> Drawing | None:
    """The numbers of a figure, where they are there and whole."""
    if not path.exists():
        return None
    try:
        drawing = read_drawing(path)
    except CorruptFileError as error:
        problems.append(str(error))
        return None
    if not _is_sound(drawing):
        problems.append(f"{path} is no figure of a paper (text and numbers stand in each other's places).")
        return None
    return drawing


def _is_sound(drawing: Drawing) -> bool:
    """Whether what is shown as text is text; the file can come from anywhere."""
    texts: list[object] = [drawing.title, drawing.caption, drawing.label]
    for check in drawing.checks:
        texts += [check.claim, check.measured]
    for panel in drawing.panels:
        texts += [panel.title, panel.x_label, panel.y_label, *(series.name for series in panel.series)]
    guides = [panel.guide for panel in drawing.panels if panel.guide is not None]
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(guide, int | float) for guide in guides)
        and all(check.holds is None or isinstance(check.holds, bool) for check in drawing.checks)
        and all(check.source in get_args(Source) for check in drawing.checks)
    )


def _image(path: Path, problems: list[str]) -> str:
    """A picture as text."""
    if not path.exists():
        return ""
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror}).")
        return ""
    if not content.startswith(_PNG_START):
        problems.append(f"{path} is no PNG picture.")
    elif len(content) > _MAX_PICTURE_BYTES:
        problems.append(f"{path} is too large for the page ({len(content) / 2**20:.1f} MiB).")
    else:
        return base64.b64encode(content).decode("ascii")
    return ""
