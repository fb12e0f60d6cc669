"""How each network for click logs is trained under each rule, and where every number comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from feedalign.rules import DirectRule, LearnedRule, Rule, WeightRule
from feedalign.rules.base import LayerwiseRule
from feedalign.rules.control import Backprop
from feedalign_lab.choices import rule_class
from feedalign_lab.clicks import paper
from feedalign_lab.clicks.names import DATA_NAMES, DATA_PREFIXES
from feedalign_lab.clicks.networks import Family, network_size
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.setting import UNTUNED, RuleSetting, RunSetting

TUNED = "ours, chosen on the validation part"

_BATCH_SIZE = 1024
_EPOCHS: Mapping[str, int] = {"adult": 12, "planted": 4}
_EPOCHS_OF_OWN = 5
# A first look at a log of millions of rows; the chosen epoch is rarely a late one.
_EPOCHS_OF_CRITEO = 2


@dataclass(frozen=True)
class _Found:
    """What a search found best.

    Attributes:
        rate: Learning rate of Adam.
        dropout: Probability of dropping a hidden unit.
        weight_decay: Adam's.
    """

    rate: float
    dropout: float = 0.0
    weight_decay: float = 0.0


# By the AUC at the best epoch on the validation part, of all rates and probabilities of dropping named in
# docs/recommenders.md: as many for each rule.
_SEARCHED: Mapping[tuple[str, str, str], _Found] = {
    ("adult", "fm", "backprop"): _Found(3e-3),
    ("adult", "deepfm-small", "backprop"): _Found(1e-2),
    ("adult", "deepfm-small", "dfa"): _Found(1e-2),
    ("adult", "deepfm-small", "shallow"): _Found(1e-2, 0.2),
    ("adult", "deepcross-small", "backprop"): _Found(1e-2, 0.5),
    ("adult", "deepcross-small", "dfa"): _Found(3e-3, 0.5),
    ("adult", "deepcross-small", "shallow"): _Found(1e-2, 0.2),
    ("adult", "afn-small", "backprop"): _Found(1e-2, 0.5),
    ("adult", "afn-small", "dfa"): _Found(1e-2, 0.2),
    ("adult", "afn-small", "shallow"): _Found(1e-2, 0.2),
    ("planted", "fm", "backprop"): _Found(1e-3),
    ("planted", "deepfm-small", "backprop"): _Found(3e-3),
    ("planted", "deepfm-small", "dfa"): _Found(1e-3),
    ("planted", "deepfm-small", "shallow"): _Found(3e-3),
    ("planted", "deepcross-small", "backprop"): _Found(3e-3),
    ("planted", "deepcross-small", "dfa"): _Found(3e-3),
    ("planted", "deepcross-small", "shallow"): _Found(1e-2),
    ("planted", "afn-small", "backprop"): _Found(1e-2),
    ("planted", "afn-small", "dfa"): _Found(3e-3),
    ("planted", "afn-small", "shallow"): _Found(3e-3),
}


def default_network(data: str) -> str:
    """The network that is taken where none is named.

    Args:
        data: Name or path of the data.

    Returns:
        DeepFM: in the paper's size for Criteo's format, else in the small one.

    Raises:
        UnknownNameError: There are no such data.
    """
    return "deepfm" if _kind(data) == "criteo:" else "deepfm-small"


def run_setting(data: str, network: str) -> RunSetting:
    """What a network is trained with, whatever the rule.

    Args:
        data: Name or path of the data.
        network: Name of the network.

    Returns:
        The setting.

    Raises:
        UnknownNameError: There are no such data or no such network.
    """
    kind, family = _kind(data), network_size(network).family
    if kind != "criteo:":
        return RunSetting(_BATCH_SIZE, _EPOCHS.get(kind, _EPOCHS_OF_OWN), 1.0, "own", "ours")
    found = paper.RUNS[family]
    source = paper.RUN_SOURCE
    if not found.is_size_known or network != family:
        source = f"{UNTUNED}: as in {source}" + ("" if found.is_size_known else " for DeepFM")
    return RunSetting(found.batch_size, _EPOCHS_OF_CRITEO, 1.0, "own", source, found.clip)


def rule_setting(data: str, network: str, rule: str) -> RuleSetting:
    """What a rule is trained with.

    Args:
        data: Name or path of the data.
        network: Name of the network.
        rule: Name of the rule.

    Returns:
        The setting, with its source. Where nothing was searched, it is borrowed: from the same network in its small
        size, from DFA for rules that broadcast, from backprop for others, and from Adult for a user's own log.

    Raises:
        UnknownNameError: There are no such data, no such network or no such rule.
    """
    kind, family = _kind(data), network_size(network).family
    chosen = rule_class(rule)
    if kind == "criteo:":
        return _with_feedback(chosen, _of_paper(network, family, rule))
    lender_data = kind if kind in DATA_NAMES else "adult"
    lender_network = "fm" if family == "fm" else f"{family}-small"
    lender_rule = _lender(family, rule)
    found = _SEARCHED[lender_data, lender_network, lender_rule]
    is_own = (lender_data, lender_network, lender_rule) == (data, network, rule)
    source = TUNED if is_own else f"{UNTUNED}: that of {lender_network} on {lender_data} under {lender_rule}"
    setting = RuleSetting(found.rate, "default", source, weight_decay=found.weight_decay, dropout=found.dropout)
    return _with_feedback(chosen, setting)


def lack(data: str, network: str, rule: str) -> str | None:
    """Why a rule cannot train a network.

    Args:
        data: Name or path of the data.
        network: Name of the network.
        rule: Name of the rule.

    Returns:
        The need in words; None where the rule can train it.

    Raises:
        UnknownNameError: There are no such data, no such network or no such rule.
    """
    _kind(data)
    family, chosen = network_size(network).family, rule_class(rule)
    if family == "fm" and not issubclass(chosen, (Backprop, WeightRule)):
        return "needs hidden layers, of which a factorization machine has none: all of it learns from the error itself"
    if family == "afn" and issubclass(chosen, LayerwiseRule):
        return "needs linear layers: errors would pass the logarithmic one through its true weights"
    if rule == "drtp":
        return "needs hidden units that saturate, such as tanh"
    return None


def _kind(data: str) -> str:
    """The name of data, or the prefix before their path."""
    for known in (*DATA_NAMES, *DATA_PREFIXES):
        if data == known or (data.startswith(known) and known in DATA_PREFIXES):
            return known
    raise UnknownNameError("click log", data, (*DATA_NAMES, *(f"{prefix}PATH" for prefix in DATA_PREFIXES)))


def _of_paper(network: str, family: Family, rule: str) -> RuleSetting:
    """The paper's rate and dropout, borrowed for what it did not train."""
    lender = _lender(family, rule)
    found = paper.RULES[family, lender]
    source = paper.RULE_SOURCE if found.is_in_paper else paper.RUN_SOURCE
    if lender != rule or network != family:
        source = f"{UNTUNED}: that of {family} under {lender} in {source}"
    return RuleSetting(found.rate, "default", source, dropout=found.dropout)


def _lender(family: Family, rule: str) -> str:
    """The rule whose setting another one borrows."""
    if family == "fm":
        return "backprop"
    if rule in {"backprop", "dfa", "shallow"}:
        return rule
    return "dfa" if issubclass(rule_class(rule), DirectRule) else "backprop"


def _with_feedback(rule: type[Rule], setting: RuleSetting) -> RuleSetting:
    """The same rate for learned feedback, where there is some."""
    if not issubclass(rule, LearnedRule):
        return setting
    return replace(setting, feedback_learning_rate=setting.learning_rate)
