"""Cossu, Ceni, Lomonaco, Bacciu and Gallicchio (2024): table 1."""

from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.rnn_dfa.tables import TABLE_1

PAPER = Paper(
    name="rnn-dfa",
    authors="Cossu, Ceni, Lomonaco, Bacciu & Gallicchio",
    year=2024,
    title="Direct Feedback Alignment for Recurrent Neural Networks",
    tables=(TABLE_1,),
)

__all__ = ["PAPER"]
