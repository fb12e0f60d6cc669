"""How each network is trained on each data set: the papers' settings, and ours where the papers have none.

Rates marked as tuned were chosen by `feedalign_lab.tuning` on a part held out of the training data, never on
test data. Rates marked as untuned are borrowed from the nearest case: a short search would pick larger rates
than the papers', whose runs last 100 epochs, and favor the rules it was made for over those of the papers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from feedalign_lab.data.dataset import Inputs
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.models import NetworkName, parse_network_name
from feedalign_lab.names import DATA_NAMES, PIXEL_NAMES, TASKS_WITHOUT_CLASSES
from feedalign_lab.papers import bacho, frenkel, recurrent_dfa
from feedalign_lab.papers.setting import UNTUNED, RuleSetting, RunSetting

TUNED = "ours, tuned on held-out training data"
TUNED_ON_VALIDATION = "ours, tuned on the validation part"
OURS = "ours"


@dataclass(frozen=True)
class DataSetting:
    """What a data set is trained with when nothing else is asked for.

    Attributes:
        network: Name of the network.
        batch_size: Examples per step, for networks that have no number of their own.
        epochs: Passes over the training data; enough for a first look, the papers' own runs are longer.
    """

    network: str
    batch_size: int
    epochs: int


_DATA_SETTINGS: Mapping[str, DataSetting] = {
    "digits": DataSetting("fc2-20", batch_size=32, epochs=60),
    "mnist": DataSetting("fc1-500", batch_size=60, epochs=10),
    "fashion-mnist": DataSetting("fc1-500", batch_size=60, epochs=10),
    "cifar10": DataSetting("fc1-500", batch_size=100, epochs=20),
    "cifar100": DataSetting("fc1-1000", batch_size=100, epochs=20),
    "row-mnist": DataSetting("gru-512", batch_size=100, epochs=5),
    "row-fashion-mnist": DataSetting("gru-512", batch_size=100, epochs=5),
    "libras": DataSetting("gru-512", batch_size=10, epochs=100),
    "ecg200": DataSetting("gru-50", batch_size=256, epochs=500),
    "strawberry": DataSetting("gru-50", batch_size=10, epochs=100),
    "mackey-glass": DataSetting("gru-50", batch_size=20, epochs=50),
    "synthetic-regression": DataSetting("fc2-100", batch_size=50, epochs=50),
    "synthetic-classification": DataSetting("fc2-500", batch_size=50, epochs=20),
}

# The best of 0.0005, 0.0015, 0.005 ... 0.15 (for shallow ... 1.5) in 5 trials of 60 epochs each, learned feedback at
# the same rate.
_TUNED: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("digits", "fc2-20"): {
        "backprop": 5e-3, "shallow": 1.5e-1, "fa": 5e-3, "usf": 5e-3, "brsf": 1.5e-2, "frsf": 5e-3,
        "dfa": 5e-3, "sign-dfa": 5e-3, "drtp": 1.5e-2, "dkp": 5e-3, "fdfa": 5e-3, "fg-a": 5e-3, "lg-fg-a": 5e-3,
        "fg-w": 1.5e-2, "noisy-backprop": 1.5e-2,
    },
}  # fmt: skip

# Where a data set without rates of its own borrows them.
_LENDERS: Mapping[str, str] = {
    "fashion-mnist": "mnist",
    "cifar100": "cifar10",
    "row-mnist": "mnist",
    "row-fashion-mnist": "mnist",
}
_LENDERS_OF_ROWS: Mapping[str, str] = {"row-fashion-mnist": "row-mnist"}
# The rule from which one without a rate borrows it; all others from backprop.
_LENDING_RULES: Mapping[str, str] = {"dkp": "dfa", "fdfa": "dfa"}
# The lowest mean error on the validation part after 20 epochs, in 2 trials: of 0.002, 0.005, 0.01 for dfa with gamma
# 0.5, which is the best of 0, 0.25, 0.5, 0.75, 0.9 at that rate; of 0.005, 0.01, 0.02, 0.05 for the others.
_FORECAST_NETWORK = "gru-50"
_FORECAST_RATES: Mapping[str, float] = {"dfa": 2e-3, "backprop": 5e-2, "shallow": 5e-2}
_BROADCASTING = ("dfa", "sign-dfa", "drtp", "dkp", "fdfa")
"""Rules in DFA's place: from it they borrow on recurrent networks, and later steps' errors are discounted alike."""
_GAMMA = 0.5
# Backprop through time, which angles are to, takes longer than the epoch of a rule that needs none of it.
_EPOCHS_BETWEEN_ANGLES = 10
_LEARNED_FEEDBACK = ("dkp", "fdfa")
_RATE_OF_SMALL_DATA = 1e-3


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


def run_setting(data: str, network: str) -> RunSetting:
    """Batch size, epochs, decay and scaling of the inputs for one network on one data set.

    Args:
        data: Name of the data set.
        network: Name of the network.

    Returns:
        The setting, with its source.
    """
    name, defaults = parse_network_name(network), data_setting(data)
    if name.is_recurrent:
        return _recurrent_run_setting(data, name, defaults)
    if not name.is_rectified:
        return RunSetting(defaults.batch_size, defaults.epochs, 1.0, "own", OURS)
    inputs: Inputs = "symmetric" if data in PIXEL_NAMES else "own"
    if _is_small(data):
        return RunSetting(defaults.batch_size, defaults.epochs, 1.0, inputs, OURS)
    is_alexnet = name.family in {"alexnet", "alexnet-small"}
    batch_size = bacho.BATCH_SIZE_OF_ALEXNET if is_alexnet else bacho.BATCH_SIZE
    source = bacho.SECTION_IV
    if not bacho.is_in_papers(data, name):
        source = f"{UNTUNED}: as in {source}"
    return RunSetting(batch_size, defaults.epochs, bacho.LR_DECAY, inputs, source)


def rule_setting(data: str, network: str, rule: str) -> RuleSetting:
    """Rates, decays and start of the weights for one rule on one network and data set.

    Args:
        data: Name of the data set.
        network: Name of the network.
        rule: Name of the rule.

    Returns:
        The setting, with the source of the rates.
    """
    name = parse_network_name(network)
    if name.is_recurrent:
        setting = _recurrent_setting(data, name, rule)
    elif name.is_rectified:
        setting = _rectified_setting(data, name, rule)
    elif data.startswith("synthetic"):
        setting = _synthetic_setting(data, network, rule)
    else:
        setting = _tanh_setting(data, name, rule)
    if TASKS_WITHOUT_CLASSES.get(data) == "forecasting" and rule in _BROADCASTING:
        setting = replace(setting, gamma=_GAMMA)
    if rule not in _LEARNED_FEEDBACK:
        return setting
    # 2024 has one rate for both; 2022 has a larger forward rate for its CNN alone.
    has_rate = name.is_rectified and not _is_small(data)
    feedback_rate = bacho.FEEDBACK_RATE if has_rate else setting.learning_rate
    decay = bacho.DKP_DECAY if rule == "dkp" else 0.0
    return replace(setting, feedback_learning_rate=feedback_rate, weight_decay=decay, feedback_decay=decay)


def _is_small(data: str) -> bool:
    """Whether a data set is none of those the papers train ReLU networks on, nor like them."""
    return data == "digits" or data not in PIXEL_NAMES


def _recurrent_run_setting(data: str, network: NetworkName, defaults: DataSetting) -> RunSetting:
    """Batch size and clipping of the paper on recurrent networks, borrowed for what it did not train."""
    rows = _LENDERS_OF_ROWS.get(data, data)
    found = recurrent_dfa.batch_size_of(rows, network)
    batch_size, is_in_paper = found if found is not None else (defaults.batch_size, False)
    source = recurrent_dfa.APPENDIX_B
    if not is_in_paper or rows != data:
        source = f"{UNTUNED}: clipped as in {source}" if found is None else f"{UNTUNED}: as in {source}"
    return RunSetting(
        batch_size, defaults.epochs, 1.0, "own", source, recurrent_dfa.CLIP, angles_every=_EPOCHS_BETWEEN_ANGLES
    )


def _recurrent_setting(data: str, network: NetworkName, rule: str) -> RuleSetting:
    """The rates of the paper on recurrent networks, borrowed for what it did not train."""
    rows = _LENDERS_OF_ROWS.get(data, data)
    if TASKS_WITHOUT_CLASSES.get(data) == "forecasting":
        return _forecast_setting(network, rule)
    own = recurrent_dfa.of_paper(data, network, rule)
    if own is not None:
        return RuleSetting(own.rate, "default", recurrent_dfa.APPENDIX_B)
    lender: Literal["dfa", "backprop"] = "dfa" if rule in _BROADCASTING else "backprop"
    near = recurrent_dfa.nearest(rows, network, lender)
    if near is None:
        return RuleSetting(_RATE_OF_SMALL_DATA, "default", f"{UNTUNED}: PyTorch's default")
    cell = "RNN" if network.family == "rnn" else "GRU"
    whose = f"that of the {cell} of {near.width} units on {rows} under {lender}"
    return RuleSetting(near.rate, "default", f"{UNTUNED}: {whose} in {recurrent_dfa.APPENDIX_B}")


def _forecast_setting(network: NetworkName, rule: str) -> RuleSetting:
    """Our own rates of the Mackey-Glass series, borrowed for other networks and rules."""
    lender = "dfa" if rule in _BROADCASTING else rule
    if lender not in _FORECAST_RATES:
        return RuleSetting(_RATE_OF_SMALL_DATA, "default", f"{UNTUNED}: PyTorch's default")
    is_own = lender == rule and network.text == _FORECAST_NETWORK
    source = TUNED_ON_VALIDATION if is_own else f"{UNTUNED}: that of {_FORECAST_NETWORK} under {lender}"
    return RuleSetting(_FORECAST_RATES[lender], "default", source)


def _rectified_setting(data: str, network: NetworkName, rule: str) -> RuleSetting:
    """The rates of Bacho and Chu, borrowed for what they did not train."""
    source = bacho.source_of(data, network, rule)
    if source is not None:
        return RuleSetting(bacho.rate_of(network, rule), "default", source)
    if _is_small(data):
        return RuleSetting(_RATE_OF_SMALL_DATA, "default", f"{UNTUNED}: PyTorch's default")
    lender = rule if rule in bacho.RULES_2024 else _LENDING_RULES.get(rule, "backprop")
    rate = bacho.rate_of(network, lender)
    paper = bacho.SECTION_IV if lender in bacho.RULES_2022 else bacho.APPENDIX_A
    return RuleSetting(rate, "default", f"{UNTUNED}: that of {lender} in {paper}")


def _tanh_setting(data: str, network: NetworkName, rule: str) -> RuleSetting:
    """The rates of Table 3 and our own, borrowed for what neither has."""
    if data == "digits":
        return _digits_setting(network.text, rule)
    if data not in PIXEL_NAMES:
        return RuleSetting(_RATE_OF_SMALL_DATA, "default", f"{UNTUNED}: PyTorch's default")
    rows = _LENDERS.get(data, data)
    family = _row_of(network)
    row = frenkel.TABLE_3[rows, family]
    is_in_paper = network.family != "fc" or network.text in frenkel.TABLE_3_FULLY_CONNECTED
    if rule in row and rows == data and is_in_paper:
        return RuleSetting(row[rule], "default", frenkel.TABLE_3_SOURCE)
    if rule == "shallow" and rule not in row:
        family = "conv-random"
    lender = rule if rule in (*row, "shallow") else _LENDING_RULES.get(rule, "backprop")
    rate = frenkel.TABLE_3[rows, family][lender]
    return RuleSetting(rate, "default", f"{UNTUNED}: that of {rows} {family} {lender} in Table 3")


def _digits_setting(network: str, rule: str) -> RuleSetting:
    """The tuned rate of the rule, borrowed for other networks than the one it was tuned on."""
    tuned_network = _DATA_SETTINGS["digits"].network
    source = TUNED if network == tuned_network else f"{UNTUNED}: the rate of {tuned_network}"
    return RuleSetting(_TUNED["digits", tuned_network][rule], "default", source)


def _row_of(network: NetworkName) -> str:
    """The row of Table 3 nearest to a network: deeper networks go by FC2."""
    if network.family != "fc":
        return network.family
    return "fc1" if network.num_hidden == 1 else "fc2"


def _synthetic_setting(data: str, network: str, rule: str) -> RuleSetting:
    """One rate for all rules; feedback alignment starts from zero weights, as the paper says."""
    is_in_paper = rule in frenkel.SYNTHETIC_RULES and network == _DATA_SETTINGS[data].network
    source = frenkel.SYNTHETIC_SOURCE
    if not is_in_paper:
        source = f"{UNTUNED}: the one rate of {source}"
    return RuleSetting(frenkel.SYNTHETIC_RATE, "zero" if rule in frenkel.SYNTHETIC_ZERO_INIT else "default", source)
