"""The figure of "Direct Feedback Alignment for Recurrent Neural Networks"."""

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.checks import is_highest
from feedalign_lab.papers.figures.curves import CurvePanel, Curves, Line, curve_cell
from feedalign_lab.papers.figures.figure import Figure, Size
from feedalign_lab.papers.recurrent_dfa import APPENDIX_B, CHOSEN, EPOCHS
from feedalign_lab.papers.recurrent_dfa import Cell as Unit

PAPER = "rnn-dfa"
_WHOLE = Size(epochs=900, trials=5)
_EPOCHS = {**EPOCHS, "row-mnist": 20}
_TITLES = {"libras": "Libras", "row-mnist": "Row-MNIST", "strawberry": "Strawberry", "ecg200": "ECG200"}
_UNITS: dict[Unit, tuple[str, str]] = {"rnn": ("Vanilla", "rnn"), "gru": ("GRU", "gru-before")}
_METHODS = {"dfa": "DFA", "backprop": "BPTT"}


def _cell(data: str, unit: Unit, rule: str) -> Cell:
    network = f"{_UNITS[unit][1]}-{CHOSEN[data, unit][rule].width}"
    return curve_cell(_name(data, unit, rule), data, network, rule, Size(_EPOCHS[data], _WHOLE.trials), APPENDIX_B)


def _name(data: str, unit: Unit, rule: str) -> str:
    return f"{data}/{unit}/{rule}"


FIG2 = Figure(
    PAPER,
    "fig2",
    "Test accuracy of recurrent networks under DFA and backprop through time",
    "Mean over trials with a band of one standard deviation. Libras is trained for 900 epochs at most, ECG200 for 500, "
    "Strawberry for 300 as in the paper, and Row-MNIST for 20, since the paper does not say. The GRU resets the state "
    "before it multiplies it; its updates are the derivatives of its step, not those printed in the paper, which has "
    "slips. Splits are drawn anew in every trial, but for Row-MNIST.",
    Curves(
        tuple(_cell(data, unit, rule) for data in _TITLES for unit in _UNITS for rule in _METHODS),
        tuple(
            CurvePanel(
                title,
                "test accuracy (%)",
                tuple(
                    Line(f"{_UNITS[unit][0]} {_METHODS[rule]}", _name(data, unit, rule), "accuracy")
                    for unit in _UNITS
                    for rule in _METHODS
                ),
            )
            for data, title in _TITLES.items()
        ),
    ),
    _WHOLE,
    usual=Size(epochs=10, trials=1),
    checks=tuple(
        is_highest(
            f"BPTT is better than DFA on {title}, {cell}.",
            title,
            f"{cell} BPTT",
            [f"{cell} DFA"],
        )
        for title in _TITLES.values()
        for cell in ("Vanilla", "GRU")
    ),
)

FIGURES = (FIG2,)
