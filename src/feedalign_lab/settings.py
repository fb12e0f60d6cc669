"""How each data set is trained: the paper's learning rates, and ours where the paper has none.

The rates of Frenkel, Lefebvre and Bol (2021), Table 3, come out of the text of the paper, in which the
columns of FA, DFA, sDFA and DRTP can only be told apart by their order; backprop's and shallow's are certain.
Rates marked as tuned were chosen by `feedalign_lab.tuning` on a part held out of the training data, never on
test data. Rates marked as untuned are borrowed from the nearest row: a short search would pick larger rates
than the paper's, whose runs last 100 epochs, and favor the rules it was made for over those of the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.models import WeightInit, check_network_name, fully_connected_sizes
from feedalign_lab.names import DATA_NAMES

PAPER = "Frenkel et al. 2021, Table 3"
PAPER_SYNTHETIC = "Frenkel et al. 2021, section 4"
TUNED = "ours, tuned on held-out training data"
UNTUNED = "ours, untuned"


@dataclass(frozen=True)
class DataSetting:
    """What a data set is trained with when nothing else is asked for.

    Attributes:
        network: Name of the network.
        batch_size: Examples per step.
        epochs: Passes over the training data; enough for a first look, the papers' own runs are longer.
    """

    network: str
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class RuleSetting:
    """What a rule is trained with.

    Attributes:
        learning_rate: Step size of Adam.
        weight_init: How the forward weights start.
        source: Where the learning rate comes from, in words.
    """

    learning_rate: float
    weight_init: WeightInit
    source: str


_DATA_SETTINGS: Mapping[str, DataSetting] = {
    "digits": DataSetting("fc2-20", batch_size=32, epochs=60),
    "mnist": DataSetting("fc1-500", batch_size=60, epochs=10),
    "fashion-mnist": DataSetting("fc1-500", batch_size=60, epochs=10),
    "cifar10": DataSetting("fc1-500", batch_size=100, epochs=20),
    "cifar100": DataSetting("fc1-1000", batch_size=100, epochs=20),
    "synthetic-regression": DataSetting("fc2-100", batch_size=50, epochs=50),
    "synthetic-classification": DataSetting("fc2-500", batch_size=50, epochs=20),
}


def _row(
    backprop: float, fa: float, dfa: float, sign_dfa: float, drtp: float, shallow: float | None
) -> dict[str, float]:
    """One row of Table 3; the networks with trained kernels have no shallow entry there."""
    row = {"backprop": backprop, "fa": fa, "dfa": dfa, "sign-dfa": sign_dfa, "drtp": drtp}
    return row if shallow is None else {**row, "shallow": shallow}


_TABLE_3: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("mnist", "fc1"): _row(1.5e-4, 5e-4, 1.5e-4, 5e-4, 1.5e-4, 1.5e-2),
    ("mnist", "fc2"): _row(5e-4, 1.5e-4, 5e-4, 5e-4, 1.5e-4, 5e-3),
    ("mnist", "conv-random"): _row(5e-5, 1.5e-4, 5e-5, 5e-4, 5e-4, 5e-3),
    ("mnist", "conv"): _row(5e-4, 5e-5, 5e-5, 1.5e-4, 1.5e-4, None),
    ("cifar10", "fc1"): _row(1.5e-5, 1.5e-5, 1.5e-5, 5e-5, 1.5e-4, 1.5e-4),
    ("cifar10", "fc2"): _row(5e-6, 5e-6, 5e-6, 5e-5, 5e-5, 5e-4),
    ("cifar10", "conv-random"): _row(5e-6, 5e-6, 5e-6, 1.5e-4, 1.5e-4, 1.5e-3),
    ("cifar10", "conv"): _row(1.5e-4, 5e-6, 5e-6, 1.5e-5, 5e-5, None),
}
_TABLE_3_FULLY_CONNECTED = ("fc1-500", "fc1-1000", "fc2-500", "fc2-1000")

# The best of 0.0005, 0.0015, 0.005 ... 0.15 (for shallow ... 1.5) in 5 trials of 60 epochs each.
_TUNED: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("digits", "fc2-20"): {
        "backprop": 5e-3, "shallow": 1.5e-1, "fa": 5e-3, "usf": 5e-3, "brsf": 1.5e-2, "frsf": 5e-3,
        "dfa": 5e-3, "sign-dfa": 5e-3, "drtp": 1.5e-2,
    },
}  # fmt: skip

# Where a data set without rates of its own borrows them.
_LENDERS: Mapping[str, str] = {"fashion-mnist": "mnist", "cifar100": "cifar10"}

_SYNTHETIC_RATE = 5e-4
_SYNTHETIC_ZERO_INIT = ("fa", "dfa", "sign-dfa")
_SYNTHETIC_IN_PAPER = ("backprop", "shallow", *_SYNTHETIC_ZERO_INIT)


def data_setting(data: str) -> DataSetting:
    """The defaults of a data set.

    Args:
        data: Name of the data set.

    Returns:
        Network, batch size and epochs.

    Raises:
        UnknownNameError: There is no data set of that name.
    """
    if data not in _DATA_SETTINGS:
        raise UnknownNameError("data set", data, DATA_NAMES)
    return _DATA_SETTINGS[data]


def rule_setting(data: str, network: str, rule: str) -> RuleSetting:
    """Learning rate and start of the weights for one rule on one network and data set.

    Args:
        data: Name of the data set.
        network: Name of the network.
        rule: Name of the rule.

    Returns:
        The setting, with the source of the rate.
    """
    check_network_name(network)
    if data.startswith("synthetic"):
        return _synthetic_setting(data, network, rule)
    rows = data if data in {"digits", "mnist", "cifar10"} else _LENDERS[data]
    family = _family(network)
    if rule in (tuned := _TUNED.get((data, network), {})):
        return RuleSetting(tuned[rule], "default", TUNED)
    if data == "digits":
        rate = _TUNED["digits", _DATA_SETTINGS["digits"].network][rule]
        return RuleSetting(rate, "default", f"{UNTUNED}: the rate of {_DATA_SETTINGS['digits'].network}")
    row = _TABLE_3[rows, family]
    is_in_paper = not network.startswith("fc") or network in _TABLE_3_FULLY_CONNECTED
    if rule in row and rows == data and is_in_paper:
        return RuleSetting(row[rule], "default", PAPER)
    return _borrowed_setting(rows, family, rule)


def _family(network: str) -> str:
    """The row of Table 3 nearest to a network: deeper networks go by FC2."""
    sizes = fully_connected_sizes(network)
    if sizes is None:
        return network
    return "fc1" if sizes[0] == 1 else "fc2"


def _borrowed_setting(rows: str, family: str, rule: str) -> RuleSetting:
    """A rate from the nearest row of Table 3, which has none for this case."""
    row = _TABLE_3[rows, family]
    if rule in row:
        rate, lender = row[rule], f"{rows} {family} {rule}"
    elif rule == "shallow":
        rate, lender = _TABLE_3[rows, "conv-random"][rule], f"{rows} conv-random {rule}"
    else:
        rate, lender = row["backprop"], f"{rows} {family} backprop"
    return RuleSetting(rate, "default", f"{UNTUNED}: that of {lender} in Table 3")


def _synthetic_setting(data: str, network: str, rule: str) -> RuleSetting:
    """One rate for all rules; feedback alignment starts from zero weights, as the paper says."""
    is_in_paper = rule in _SYNTHETIC_IN_PAPER and network == _DATA_SETTINGS[data].network
    source = PAPER_SYNTHETIC if is_in_paper else f"{UNTUNED}: the one rate of {PAPER_SYNTHETIC}"
    return RuleSetting(_SYNTHETIC_RATE, "zero" if rule in _SYNTHETIC_ZERO_INIT else "default", source)
