"""Frenkel, Lefebvre and Bol (2021): tables 1 and 2, their supplements, and the errors that captions give."""

from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.drtp.captions import FIG3_ERRORS, S1_ERRORS, S2_ERRORS
from feedalign_lab.papers.drtp.tables import TABLE_1, TABLE_2, TABLE_S1, TABLE_S2

PAPER = Paper(
    name="drtp",
    authors="Frenkel, Lefebvre & Bol",
    year=2021,
    title=(
        "Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward Training of Deep Neural "
        "Networks"
    ),
    tables=(TABLE_1, TABLE_2, TABLE_S1, TABLE_S2, FIG3_ERRORS, S1_ERRORS, S2_ERRORS),
)

__all__ = ["PAPER"]
