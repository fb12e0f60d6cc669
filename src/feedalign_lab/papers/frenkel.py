"""Settings of Frenkel, Lefebvre and Bol (2021): the tanh networks, fully connected and convolutional.

The rates of Table 3 come out of the text of the paper, in which the columns of FA, DFA, sDFA and DRTP can only be
told apart by their order; backprop's and shallow's are certain.
"""

from collections.abc import Mapping

TABLE_3_SOURCE = "Frenkel et al. 2021, Table 3"
SYNTHETIC_SOURCE = "Frenkel et al. 2021, section 4"


def _row(
    backprop: float, fa: float, dfa: float, sign_dfa: float, drtp: float, shallow: float | None
) -> dict[str, float]:
    """One row of Table 3; the networks with trained kernels have no shallow entry there."""
    row = {"backprop": backprop, "fa": fa, "dfa": dfa, "sign-dfa": sign_dfa, "drtp": drtp}
    return row if shallow is None else {**row, "shallow": shallow}


TABLE_3: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("mnist", "fc1"): _row(1.5e-4, 5e-4, 1.5e-4, 5e-4, 1.5e-4, 1.5e-2),
    ("mnist", "fc2"): _row(5e-4, 1.5e-4, 5e-4, 5e-4, 1.5e-4, 5e-3),
    ("mnist", "conv-random"): _row(5e-5, 1.5e-4, 5e-5, 5e-4, 5e-4, 5e-3),
    ("mnist", "conv"): _row(5e-4, 5e-5, 5e-5, 1.5e-4, 1.5e-4, None),
    ("cifar10", "fc1"): _row(1.5e-5, 1.5e-5, 1.5e-5, 5e-5, 1.5e-4, 1.5e-4),
    ("cifar10", "fc2"): _row(5e-6, 5e-6, 5e-6, 5e-5, 5e-5, 5e-4),
    ("cifar10", "conv-random"): _row(5e-6, 5e-6, 5e-6, 1.5e-4, 1.5e-4, 1.5e-3),
    ("cifar10", "conv"): _row(1.5e-4, 5e-6, 5e-6, 1.5e-5, 5e-5, None),
}
"""Learning rates of Adam, by data set and network."""

TABLE_3_FULLY_CONNECTED = ("fc1-500", "fc1-1000", "fc2-500", "fc2-1000")
"""The fully connected networks that the rates are for."""

SYNTHETIC_RATE = 5e-4
SYNTHETIC_ZERO_INIT = ("fa", "dfa", "sign-dfa")
"""Rules whose forward weights start at zero on the synthetic tasks."""
SYNTHETIC_RULES = ("backprop", "shallow", *SYNTHETIC_ZERO_INIT)
