"""Bacho and Chu (2022): tables I and II."""

from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.dirdfa.tables import TABLE_1, TABLE_2

PAPER = Paper(
    name="dirdfa",
    authors="Bacho & Chu",
    year=2022,
    title=(
        "Directional Direct Feedback Alignment: Estimating Backpropagation Paths for Efficient Learning on Neural "
        "Processors"
    ),
    tables=(TABLE_1, TABLE_2),
)

__all__ = ["PAPER"]
