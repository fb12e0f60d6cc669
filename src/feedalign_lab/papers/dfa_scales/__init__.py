"""Launay, Poli, Boniface and Krzakala (2020): tables 1 to 5 and A.1 to A.5."""

from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.dfa_scales.clicks import TABLE_2, TABLE_A1, TABLE_A3
from feedalign_lab.papers.dfa_scales.graphs import TABLE_3, TABLE_4, TABLE_A2, TABLE_A4
from feedalign_lab.papers.dfa_scales.language import TABLE_5
from feedalign_lab.papers.dfa_scales.scenes import TABLE_1, TABLE_A5

PAPER = Paper(
    name="dfa-scales",
    authors="Launay, Poli, Boniface & Krzakala",
    year=2020,
    title="Direct Feedback Alignment Scales to Modern Deep Learning Tasks and Architectures",
    tables=(TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_A1, TABLE_A2, TABLE_A3, TABLE_A4, TABLE_A5),
)

__all__ = ["PAPER"]
