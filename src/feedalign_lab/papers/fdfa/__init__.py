"""Bacho and Chu (2024): tables 1, 2, 3 and B.6."""

from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.fdfa.tables import TABLE_1, TABLE_2, TABLE_3, TABLE_B6

PAPER = Paper(
    name="fdfa",
    authors="Bacho & Chu",
    year=2024,
    title="Low-variance Forward Gradients using Direct Feedback Alignment and momentum",
    tables=(TABLE_1, TABLE_2, TABLE_3, TABLE_B6),
)

__all__ = ["PAPER"]
