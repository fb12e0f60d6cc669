"""The figures of Bacho & Chu 2022."""

from feedalign_lab.papers.figures.checks import is_highest, is_near
from feedalign_lab.papers.figures.curves import CurvePanel, Curves, Line, curve_cell
from feedalign_lab.papers.figures.figure import Figure, Size
from feedalign_lab.papers.figures.layers import angle_panels, is_aligned_better, weight_angles

PAPER = "dirdfa"
_RULES = ("backprop", "dfa", "dkp", "fdfa")
_WHOLE = Size(epochs=100, trials=10)
_NETWORKS = {"without batch normalization": "cnn", "with batch normalization": "cnn-bn"}

FIG3 = Figure(
    PAPER,
    "fig3",
    "CIFAR-10: test accuracy of a CNN without and with batch normalization",
    "Mean over trials with a band of one standard deviation; the paper draws a line per rule. Its Directional DFA is "
    "fdfa here. The weights under DFA start as under the others, since ReLU layers that start at zero never move.",
    Curves(
        tuple(
            curve_cell(f"{network}/{rule}", "cifar10", network, rule, _WHOLE, "Bacho & Chu 2022, Fig. 3, section IV-A")
            for network in _NETWORKS.values()
            for rule in _RULES
        ),
        tuple(
            CurvePanel(
                title,
                "test accuracy (%)",
                tuple(Line(rule, f"{network}/{rule}", "accuracy") for rule in _RULES),
            )
            for title, network in _NETWORKS.items()
        ),
    ),
    _WHOLE,
    usual=Size(epochs=3, trials=1),
    checks=(
        is_highest(
            "DKP does worse than random DFA without batch normalization.",
            "without batch normalization",
            "dfa",
            ["dkp"],
        ),
        is_highest(
            "Directional DFA does best of the local rules without batch normalization.",
            "without batch normalization",
            "fdfa",
            ["dfa", "dkp"],
        ),
        is_highest(
            "Directional DFA does best of the local rules with batch normalization.",
            "with batch normalization",
            "fdfa",
            ["dfa", "dkp"],
        ),
        is_near("Directional DFA is close to BP with it.", "with batch normalization", "fdfa", "backprop", 5.0),
    ),
)

_ANGLED = ("dfa", "dkp", "fdfa")
_DEPTH = 5
FIG4 = Figure(
    PAPER,
    "fig4",
    "MNIST, six layers with batch normalization: angle of each layer's gradient to backprop's",
    "ReLU, hidden layers of 800 units, a width that the paper does not state. Angles are between the gradients of a "
    "layer's weight over the same training examples, after each epoch, with the running statistics of the "
    "normalization. Its Directional DFA is fdfa here.",
    Curves(
        tuple(
            curve_cell(rule, "mnist", f"mlp{_DEPTH}-800-bn", rule, _WHOLE, "Bacho & Chu 2022, Fig. 4, section IV-A")
            for rule in _ANGLED
        ),
        angle_panels(_ANGLED, _DEPTH),
        probe=weight_angles,
    ),
    _WHOLE,
    usual=Size(epochs=2, trials=1),
    checks=(
        is_aligned_better("DKP is aligned better than random DFA.", "dkp", "dfa", _DEPTH),
        is_aligned_better("Directional DFA is aligned better than DKP.", "fdfa", "dkp", _DEPTH),
        is_aligned_better("Directional DFA is aligned better than random DFA.", "fdfa", "dfa", _DEPTH),
    ),
)

FIGURES = (FIG3, FIG4)
