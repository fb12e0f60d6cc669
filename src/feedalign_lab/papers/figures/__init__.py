"""The figures of the papers, each made anew: as a picture, and as data with the paper's claims on it measured."""

import importlib
from collections.abc import Mapping

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series, read_drawing
from feedalign_lab.papers.figures.figure import DATA, PICTURE, Figure, Size
from feedalign_lab.papers.figures.on_file import is_on_file, size_of

__all__ = [
    "DATA",
    "PICTURE",
    "Check",
    "Drawing",
    "Figure",
    "Panel",
    "Series",
    "Size",
    "figure_named",
    "figures_of",
    "is_on_file",
    "read_drawing",
    "size_of",
]

_MODULES: Mapping[str, str] = {
    "rnn-dfa": "of_rnn_dfa",
    "drtp": "of_drtp",
    "dirdfa": "of_dirdfa",
    "dfa-scales": "of_dfa_scales",
    "fdfa": "of_fdfa",
}


def figures_of(paper: str) -> tuple[Figure, ...]:
    """The figures of a paper.

    Args:
        paper: Its name.

    Returns:
        The figures, in the paper's order.

    Raises:
        UnknownNameError: There is no paper of that name.
    """
    if paper not in _MODULES:
        raise UnknownNameError("paper", paper, _MODULES)
    found: tuple[Figure, ...] = importlib.import_module(f"{__name__}.{_MODULES[paper]}").FIGURES
    return found


def figure_named(paper: str, name: str) -> Figure:
    """A figure of a paper.

    Args:
        paper: Name of the paper.
        name: Name of the figure.

    Returns:
        The figure.

    Raises:
        UnknownNameError: There is none.
    """
    figures = {figure.name: figure for figure in figures_of(paper)}
    if name not in figures:
        raise UnknownNameError(f"figure of {paper}", name, figures)
    return figures[name]
