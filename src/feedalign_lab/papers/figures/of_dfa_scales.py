"""The figures of Launay et al. 2020."""

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.curves import curve_cell
from feedalign_lab.papers.figures.figure import Figure, Size
from feedalign_lab.papers.figures.scatters import Scatters, alike, has_clusters

PAPER = "dfa-scales"
_WHOLE = Size(epochs=250, trials=1)
_CAPTION = (
    "Hidden activations of all nodes of Cora in a network of two graph convolutions, placed by t-SNE of scikit-learn "
    "(perplexity 20, rate 100, 1,000 steps; the authors' code takes 5,000 of another implementation); one color per "
    "class."
)


def _cell(rule: str) -> Cell:
    source = "Launay et al. 2020, Fig. 2 and A.2, and its public code"
    return curve_cell(rule, "cora", "gcn", rule, _WHOLE, source)


FIG2 = Figure(
    PAPER,
    "fig2",
    "Cora, GraphConv: hidden activations under DFA",
    _CAPTION,
    Scatters((_cell("dfa"),)),
    _WHOLE,
    checks=(has_clusters("Classes form clear clusters.", "dfa", at_least=70.0),),
)
A2 = Figure(
    PAPER,
    "fig-a2",
    "Cora, GraphConv: hidden activations under shallow training, backprop and DFA",
    _CAPTION,
    Scatters(tuple(map(_cell, ("shallow", "backprop", "dfa")))),
    _WHOLE,
    checks=(
        has_clusters("Shallow training has no structure.", "shallow", at_most=40.0),
        has_clusters("Classes form clear clusters under DFA.", "dfa", at_least=70.0),
        alike("DFA's map is like backprop's.", "dfa", "backprop", 5.0),
    ),
)

FIGURES = (FIG2, A2)
