"""The figures of Bacho & Chu 2024."""

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures.checks import (
    all_below,
    is_highest,
    is_highest_at_once,
    is_lower,
    is_near,
    ours,
    takes_longer,
)
from feedalign_lab.papers.figures.curves import Column, CurvePanel, Curves, Line, XAxis, curve_cell
from feedalign_lab.papers.figures.figure import Figure, Size
from feedalign_lab.papers.figures.layers import angle_panels, falls_short_by, has_smallest_angle_in_last, weight_angles
from feedalign_lab.papers.figures.variance_and_loss import VarianceAndLoss, lies_on_line
from feedalign_lab.papers.figures.variance_laws import (
    INPUTS,
    ONE_STEP,
    RATES,
    UNITS,
    RateLaw,
    SizeLaw,
    has_slope,
    runs_on_linearly,
)

PAPER = "fdfa"
_RULES = ("backprop", "fg-w", "fg-a", "dfa", "dkp", "fdfa")
_LOCAL = _RULES[1:]
_WHOLE = Size(epochs=100, trials=10)
_NETWORKS = {"FC": "mlp1-1000", "CNN": "cnn"}
_SETTINGS = (
    "Mean over trials with a band of one standard deviation. Rates and batch size are those of the lab's settings for "
    "the two papers of these authors; the weights under DFA start as under the others, since ReLU layers that start at "
    "zero never move."
)


def _cells(networks: dict[str, str], figure: str) -> tuple[Cell, ...]:
    source = f"Bacho & Chu 2024, {figure} and appendix A"
    return tuple(
        curve_cell(f"{title.lower()}/{rule}", "cifar10", network, rule, _WHOLE, source)
        for title, network in networks.items()
        for rule in _RULES
    )


def _panel(title: str, what: str, column: Column, x: XAxis = "epoch") -> CurvePanel:
    lines = tuple(Line(rule, f"{title.lower()}/{rule}", column) for rule in _RULES)
    label = "cross-entropy" if column == "train loss" else "test accuracy (%)"
    return CurvePanel(f"{what}, {title}", label, lines, x)


FIG3 = Figure(
    PAPER,
    "fig3",
    "CIFAR-10: convergence of a two-layer network and of a CNN against epochs",
    _SETTINGS,
    Curves(
        _cells(_NETWORKS, "Fig. 3"),
        (
            *(_panel(title, "train loss", "train loss") for title in _NETWORKS),
            *(_panel(title, "test accuracy", "accuracy") for title in _NETWORKS),
        ),
    ),
    _WHOLE,
    usual=Size(epochs=3, trials=1),
    checks=(
        is_near("FDFA is close to BP on the FC network.", "test accuracy, FC", "fdfa", "backprop", 2.0),
        is_highest(
            "FDFA converges faster than all other local rules on the CNN.",
            "test accuracy, CNN",
            "fdfa",
            [rule for rule in _LOCAL if rule != "fdfa"],
            at=20,
        ),
        is_lower("DKP does not reach BP's train loss on the CNN.", "train loss, CNN", "backprop", "dkp"),
        is_lower("FDFA does not fit the training data on the CNN as BP does.", "train loss, CNN", "backprop", "fdfa"),
    ),
)

FIG4 = Figure(
    PAPER,
    "fig4",
    "CIFAR-10: convergence of a CNN against time",
    _SETTINGS + " Trials are trained one by one. The paper's machines are an Intel i7-6700 and an RTX 3060.",
    Curves(
        _cells({"CNN": "cnn"}, "Fig. 4"),
        (_panel("CNN", "train loss", "train loss", "seconds"), _panel("CNN", "test accuracy", "accuracy", "seconds")),
        is_timed=True,
    ),
    _WHOLE,
    usual=Size(epochs=3, trials=1),
    checks=(
        takes_longer("FDFA is slower per step than DFA.", "test accuracy, CNN", "fdfa", "dfa"),
        is_highest_at_once(
            "FDFA converges fastest per second of all local rules.",
            "test accuracy, CNN",
            "fdfa",
            [rule for rule in _LOCAL if rule != "fdfa"],
        ),
    ),
)

FIG5 = Figure(
    PAPER,
    "fig5",
    "Variance of FDFA's estimates against the rate of the feedback's average",
    "One hidden layer of 100 ReLU units on MNIST, softmax cross-entropy; each point is the mean over examples (the "
    "paper's '10 iterations'), each with weights of its own, with a bar of one standard deviation. Slopes are those of "
    "straight lines through the logarithms, with asymptotic standard errors. The quadratic law needs feedback that is "
    "set to what it converges to before each step; an average that runs on has "
    "\N{GREEK SMALL LETTER ALPHA} / (2 - \N{GREEK SMALL LETTER ALPHA}), which is linear where "
    "\N{GREEK SMALL LETTER ALPHA} is small. The paper states neither width nor initialisation.",
    RateLaw(),
    Size(epochs=0, trials=10),
    checks=(
        has_slope("The variance is quadratic in \N{GREEK SMALL LETTER ALPHA}.", RATES, ONE_STEP, 2.0),
        ours(
            runs_on_linearly(
                "With an average that runs on it is \N{GREEK SMALL LETTER ALPHA} / (2 - \N{GREEK SMALL LETTER ALPHA}) "
                "of that of one estimate.",
                0.2,
            )
        ),
    ),
    counted="examples",
)

FIG6 = Figure(
    PAPER,
    "fig6",
    "Variance of forward gradients against the size of a two-layer network",
    "MNIST, ReLU, softmax cross-entropy; 32 hidden units where the inputs grow. Each point is the mean over examples "
    "(the paper's '10 iterations'), each with weights of its own, with a bar of one standard deviation; the variance "
    "is that of one entry, averaged over the hidden weight, which alone is perturbed, as in the paper's propositions. "
    "Every output weight is drawn as for 512 hidden units, whatever their number: with the usual draw, "
    "U(\N{PLUS-MINUS SIGN}1/\N{SQUARE ROOT}n), the gradient at each unit would shrink as their number grows, and both "
    "laws of the number of units with it. The paper states neither width nor initialisation.",
    SizeLaw(),
    Size(epochs=0, trials=10),
    checks=(
        has_slope("FG-W is linear in the number of inputs.", INPUTS, "fg-w", 1.0),
        has_slope("FG-A does not depend on the number of inputs.", INPUTS, "fg-a", 0.0),
        has_slope("FG-W is linear in the number of hidden units.", UNITS, "fg-w", 1.0),
        has_slope("FG-A is linear in the number of hidden units.", UNITS, "fg-a", 1.0),
    ),
    counted="examples",
)

FIG7 = Figure(
    PAPER,
    "fig7",
    "MNIST, one hidden layer of 1,000: loss after an epoch against the variance of the gradients",
    "Line: backprop with Gaussian noise on every entry of the gradient, and without. Variances are of batches of 64, "
    "from the choice of examples and from the rule's own randomness, summed over all weights and averaged over four "
    "moments of the epoch. The second panel has the same over the squared norm of backprop's gradient, where rules lie "
    "apart whose share in the first is near 1. Adam, in steps of 1e-4; the paper's text speaks of SGD.",
    VarianceAndLoss(),
    Size(epochs=1, trials=1),
    checks=tuple(lies_on_line(f"{rule} lies on the line of noisy BP.", rule, 0.1) for rule in VarianceAndLoss.rules),
)

_ANGLED = ("dfa", "dkp", "fdfa")
_DEPTH = 4
FIG8 = Figure(
    PAPER,
    "fig8",
    "MNIST, five layers: angle of each layer's gradient to backprop's",
    "ReLU, hidden layers of 800 units, a width that the paper does not state. Angles are between the gradients of a "
    "layer's weight over the same training examples, after each epoch; the feedback given, these rules have no "
    "randomness to average over. The weights under DFA start as under the others.",
    Curves(
        tuple(
            curve_cell(rule, "mnist", f"mlp{_DEPTH}-800", rule, _WHOLE, "Bacho & Chu 2024, Fig. 8 and appendix A")
            for rule in _ANGLED
        ),
        angle_panels(_ANGLED, _DEPTH),
        probe=weight_angles,
    ),
    _WHOLE,
    usual=Size(epochs=2, trials=1),
    checks=(
        falls_short_by("FDFA is aligned 30 degrees better than DFA.", "fdfa", "dfa", _DEPTH, 30.0),
        falls_short_by("FDFA is aligned 30 degrees better than DKP.", "fdfa", "dkp", _DEPTH, 30.0),
        has_smallest_angle_in_last("The last hidden layer is aligned best under FDFA.", "fdfa", _DEPTH),
        ours(all_below("All angles of FDFA stay below 90 degrees.", ["fdfa"], 90.0)),
    ),
)

FIGURES = (FIG3, FIG4, FIG5, FIG6, FIG7, FIG8)
