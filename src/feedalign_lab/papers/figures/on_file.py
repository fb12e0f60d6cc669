"""What a figure left on file, so that a smaller run does not take the place of a larger one."""

import re
from pathlib import Path

from feedalign_lab.errors import CorruptFileError, OutputFolderError
from feedalign_lab.papers.figures.drawing import Drawing, read_drawing
from feedalign_lab.papers.figures.figure import DATA, PICTURE, Figure, Size

_OF = re.compile(r"(\d+) of \d+ (\w+)")
_ELSEWHERE = "choose another folder with --out, or move it away"


def is_on_file(figure: Figure, folder: Path) -> bool:
    """Whether a figure has been made.

    Args:
        figure: Which.
        folder: Where the pictures of its paper are.

    Returns:
        True where both its picture and its data are there.
    """
    return all((folder / f"{figure.name}{ending}").is_file() for ending in (PICTURE, DATA))


def size_of(figure: Figure, drawing: Drawing) -> Size:
    """How much was run for a drawing.

    Args:
        figure: The figure it is of.
        drawing: What is on file. Where it does not have its size, which is so in format 1, its label tells: what that
            does not speak of was run as in the paper.

    Returns:
        The size.
    """
    if drawing.epochs is not None and drawing.trials is not None:
        return Size(drawing.epochs, drawing.trials)
    lacking = {what: int(number) for number, what in _OF.findall(drawing.label)}
    epochs = lacking.get("epochs", figure.whole.epochs)
    return Size(epochs, lacking.get(figure.counted, figure.whole.trials))


def refuse_less(figure: Figure, folder: Path, asked: Size) -> None:
    """Refuse to make a figure where one of more is on file, before anything is computed.

    Args:
        figure: Which.
        folder: Where it is to go.
        asked: How much is to be run.

    Raises:
        OutputFolderError: What is there was made with more epochs or trials, or cannot be read.
    """
    before = _read(figure, folder)
    if before is not None:
        _refuse_smaller(figure, folder, size_of(figure, before), asked)


def refuse_to_lose(figure: Figure, folder: Path, made: Drawing) -> None:
    """Refuse to write a figure that came out as less than what is on file: trials diverged, or data were not there.

    Args:
        figure: Which.
        folder: Where it is to go.
        made: What came out.

    Raises:
        OutputFolderError: What is there was made with more epochs or trials, shows series that are empty now, or
            cannot be read.
    """
    before = _read(figure, folder)
    if before is None:
        return
    _refuse_smaller(figure, folder, size_of(figure, before), size_of(figure, made))
    if lost := sorted(_series(before, empty=False) & _series(made, empty=True)):
        panel, name = lost[0]
        raise OutputFolderError(
            f"{folder / figure.name}{DATA} shows {name or 'a series'} in {panel!r}, for which nothing was found this "
            f"time, and was left as it is: {_ELSEWHERE}."
        )


def _refuse_smaller(figure: Figure, folder: Path, before: Size, now: Size) -> None:
    if now.epochs < before.epochs or now.trials < before.trials:
        raise OutputFolderError(
            f"{folder / figure.name}{PICTURE} was made with {_in_words(figure, before)}, which is more than "
            f"{_in_words(figure, now)}, and was left as it is: {_ELSEWHERE}."
        )


def _in_words(figure: Figure, size: Size) -> str:
    """Such as "20 epochs and 2 trials"."""
    counted = figure.counted if size.trials != 1 else figure.counted.removesuffix("s")
    epochs = f"{size.epochs} epoch{'s' if size.epochs != 1 else ''} and " if size.epochs else ""
    return f"{epochs}{size.trials} {counted}"


def _read(figure: Figure, folder: Path) -> Drawing | None:
    """What is on file; None where nothing is."""
    data, picture = (folder / f"{figure.name}{ending}" for ending in (DATA, PICTURE))
    if not data.exists():
        if picture.exists():
            raise OutputFolderError(
                f"{picture} lies there without {data.name}, so that it is not known what it was made with, and was "
                f"left as it is: {_ELSEWHERE}."
            )
        return None
    try:
        return read_drawing(data)
    except CorruptFileError as error:
        raise OutputFolderError(
            f"It is not known what {picture} was made with, and it was left as it is: {_ELSEWHERE}. {error}"
        ) from error


def _series(drawing: Drawing, *, empty: bool) -> set[tuple[str, str]]:
    """The series that are empty, or that are not, by panel and name."""
    return {(panel.title, one.name) for panel in drawing.panels for one in panel.series if empty == (not one.mean)}
