"""The figures of Frenkel, Lefebvre & Bol 2021."""

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.checks import all_below, is_lower, is_lowest, ours
from feedalign_lab.papers.figures.curves import CurvePanel, Curves, Line, curve_cell
from feedalign_lab.papers.figures.densities import Densities, FinalDensities, is_more_saturated
from feedalign_lab.papers.figures.figure import Figure, Size
from feedalign_lab.papers.figures.parallel import (
    Parallel,
    is_not_parallel,
    is_parallel,
    is_within_right_angle,
    is_zero_before,
)
from feedalign_lab.papers.theorem import CASES

PAPER = "drtp"
_RULES = ("backprop", "shallow", "fa", "dfa", "sign-dfa")
_ALIGNED = ("fa", "dfa", "sign-dfa")
_LAYERS = ("fc1", "fc2")
_AT_FIRST = 20
"""The epoch at which those are judged that are fast at first."""
_WHOLE = Size(epochs=500, trials=10)
_ANGLES = (
    "Angles are between the modulatory signals on the same training examples after each epoch, not smoothed, where the "
    "paper smooths those of every step with a momentum of 0.95."
)


def _synthetic(data: str, network: str, figure: str) -> tuple[Cell, ...]:
    source = f"Frenkel et al. 2021, {figure} and section 4"
    return tuple(curve_cell(rule, data, network, rule, _WHOLE, source) for rule in _RULES)


def _angle_panel(layer: str) -> CurvePanel:
    lines = tuple(Line(rule, rule, "angle", layer) for rule in _ALIGNED)
    return CurvePanel(f"angle, hidden layer {layer[-1]}", "angle to backprop (degrees)", lines, guide=90.0)


def _over_training(test_title: str, train_label: str, test_label: str) -> tuple[CurvePanel, ...]:
    train = tuple(Line(rule, rule, "train loss") for rule in _RULES)
    test = tuple(Line(rule, rule, "test") for rule in _RULES)
    return (
        CurvePanel("train loss", train_label, train, y_scale="log"),
        CurvePanel(test_title, test_label, test, y_scale="log"),
        *map(_angle_panel, _LAYERS),
    )


_ANGLE_TITLES = tuple(_angle_panel(layer).title for layer in _LAYERS)

FIG2 = Figure(
    PAPER,
    "fig2",
    "Synthetic regression, 256-100-100-10, tanh and tanh: losses and angles",
    "Mean over trials with a band of one standard deviation. The train loss is the mean of the steps of each epoch. "
    "The optimizer, which the paper does not name, is Adam; the authors' code starts from Nesterov's momentum and does "
    "not divide hidden gradients by the batch, so that what is fast at first there need not be so here. " + _ANGLES,
    Curves(
        _synthetic("synthetic-regression", "fc2-100", "Fig. 2"),
        _over_training("test loss", "mean squared error", "mean squared error"),
        angles_every=1,
    ),
    _WHOLE,
    usual=Size(epochs=40, trials=2),
    checks=(
        is_lowest("Shallow training fails.", "train loss", "sign-dfa", ["shallow"]),
        is_lowest("DFA has the lowest train loss in the end.", "train loss", "dfa", [*_RULES[:3], "sign-dfa"]),
        is_lower("DFA is faster than BP at first.", "train loss", "dfa", "backprop", at=_AT_FIRST),
        is_lower("Error-sign DFA is faster than BP at first.", "train loss", "sign-dfa", "backprop", at=_AT_FIRST),
        is_lower("Error-sign DFA stagnates above DFA.", "train loss", "dfa", "sign-dfa"),
        all_below("All angles stay below 90 degrees.", _ANGLE_TITLES, 90.0),
        is_lowest(
            "FA has the smallest angle in layer 1 within the first 100 epochs.",
            _ANGLE_TITLES[0],
            "fa",
            ["dfa", "sign-dfa"],
            at=100,
        ),
        is_lower("Error-sign DFA is better aligned than DFA in layer 2.", _ANGLE_TITLES[1], "sign-dfa", "dfa"),
    ),
)

FIG3 = Figure(
    PAPER,
    "fig3",
    "Synthetic classification, 256-500-500-10, tanh and sigmoid: losses, errors and angles",
    "Mean over trials with a band of one standard deviation. In the place of the train error, which is not measured "
    "at every epoch here, stands the train loss (binary cross-entropy), the mean of the steps of each epoch. "
    + _ANGLES,
    Curves(
        _synthetic("synthetic-classification", "fc2-500", "Fig. 3"),
        _over_training("test error", "binary cross-entropy", "test error (%)"),
        angles_every=1,
    ),
    _WHOLE,
    usual=Size(epochs=10, trials=1),
    checks=(
        is_lowest("DFA has the lowest train loss of the feedback rules.", "train loss", "dfa", ["fa", "sign-dfa"]),
        is_lower("Error-sign DFA trains: its test error is below shallow's.", "test error", "sign-dfa", "shallow"),
        all_below("All angles stay below 90 degrees.", _ANGLE_TITLES, 90.0),
        is_lower("FA is better aligned than DFA in layer 1.", _ANGLE_TITLES[0], "fa", "dfa"),
        is_lower("DFA is better aligned than error-sign DFA in layer 1.", _ANGLE_TITLES[0], "dfa", "sign-dfa"),
    ),
)

_WHOLE_DENSITY = Size(epochs=100, trials=1)
_TITLES = {"backprop": "BP", "dfa": "FA / DFA", "drtp": "DRTP"}
_SAMPLED = (
    "Densities are histograms of the activations of 1,000 training examples after an epoch, where the paper takes 100 "
    "examples in 100 successive batches; it does not say of how many runs."
)


def _density_cells(data: str, figure: str, rates: dict[str, float]) -> tuple[tuple[str, Cell], ...]:
    source = f"Frenkel et al. 2021, {figure}; epochs as in Supp. Fig. 1"
    return tuple(
        (_TITLES[rule], curve_cell(rule, data, "fc1-1000", rule, _WHOLE_DENSITY, source, learning_rate=rate))
        for rule, rate in rates.items()
    )


_MNIST = _density_cells("mnist", "Supp. Fig. 4", {"backprop": 1.5e-4, "dfa": 1.5e-4, "drtp": 1.5e-4})
_CIFAR = _density_cells("cifar10", "Supp. Fig. 5", {"backprop": 5e-6, "dfa": 5e-6, "drtp": 5e-5})
_SKEW = (
    is_more_saturated("DRTP pushes activations towards -1 and 1 more than BP.", ("DRTP", ""), ("BP", "")),
    is_more_saturated("DRTP pushes activations towards -1 and 1 more than FA and DFA.", ("DRTP", ""), ("FA / DFA", "")),
)

S4 = Figure(
    PAPER,
    "s4",
    "MNIST, 784-1000-10: activations of the hidden tanh units over training",
    _SAMPLED,
    Densities(_MNIST),
    _WHOLE_DENSITY,
    usual=Size(epochs=5, trials=1),
    checks=_SKEW,
)
S5 = Figure(
    PAPER,
    "s5",
    "CIFAR-10, 3072-1000-10: activations of the hidden tanh units over training",
    _SAMPLED + " The rates are those that the figure's caption has, which are the row of FC2 in Table 3.",
    Densities(_CIFAR),
    _WHOLE_DENSITY,
    usual=Size(epochs=5, trials=1),
    checks=_SKEW,
)
S6 = Figure(
    PAPER,
    "s6",
    "Activations of the hidden tanh units at the end of training, one hidden layer of 1,000",
    _SAMPLED + " The trials are those of s4 and s5.",
    FinalDensities((("MNIST", "s4", _MNIST), ("CIFAR-10", "s5", _CIFAR))),
    _WHOLE_DENSITY,
    usual=Size(epochs=5, trials=1),
    checks=tuple(
        is_more_saturated(f"DRTP is skewed more towards -1 and 1 than {_TITLES[rule]} on {data}.", one, other)
        for data in ("MNIST", "CIFAR-10")
        for rule in ("backprop", "dfa")
        for one, other in [((data, "DRTP"), (data, _TITLES[rule]))]
    ),
)

_LINEAR, _RANDOM, _TANH = CASES
THEOREM = Figure(
    PAPER,
    "theorem",
    "DRTP and backprop on one example: the teaching signals of hidden layers",
    "Four layers, softmax output, plain gradient descent in double precision. The paper states the theorem for t > 0 "
    "and for directions within 90 degrees; it holds from t = K on, K layers, and then exactly. The other two networks "
    "break one condition each, and show that signals are then no longer parallel; whether they leave the paper's 90 "
    "degrees is said beside each. The error is computed without cancellation, so that angles mean something however "
    "small backprop's signal has become.",
    Parallel(),
    Size(epochs=0, trials=1),
    checks=(
        is_within_right_angle("Signals are within 90 degrees of each other.", _LINEAR),
        ours(is_parallel("Signals are exactly parallel from update K on.", _LINEAR)),
        ours(is_zero_before("Backprop's signals are zero before update K.", _LINEAR)),
        ours(is_not_parallel("They are not exactly parallel from a random start (a control).", _RANDOM)),
        ours(is_not_parallel("They are not exactly parallel with tanh layers (a control).", _TANH)),
    ),
)

FIGURES = (FIG2, FIG3, S4, S5, S6, THEOREM)
