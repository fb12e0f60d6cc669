"""From the rule names a user types to rules, and which of them can learn what."""

from dataclasses import dataclass, replace
from typing import Protocol

import feedalign as fa
from feedalign.rules import DirectRule, Rule
from feedalign_lab.data.dataset import Task
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.limits import GivenLimits
from feedalign_lab.models import NetworkName, parse_network_name
from feedalign_lab.names import DATA_NAMES, TASKS_WITHOUT_CLASSES

ALL = "all"
_MIN_HIDDEN_OF_LOCAL_LOSSES = 2


class Learnable(Protocol):
    """What is to be learned by what, in any domain."""

    @property
    def where(self) -> str:
        """The data and the network, in words."""

    @property
    def is_forecast(self) -> bool:
        """Whether there is a value to tell at every step of a series."""

    def lack(self, rule: str) -> str | None:
        """What a rule needs and is not there, e.g. "needs classes"; None where it can learn this."""


@dataclass(frozen=True)
class Case:
    """A data set of tensors and a network for it.

    Attributes:
        data: Name of the data set.
        network: The network's name, taken apart.
        is_transfer: Whether only the classifier behind frozen convolutions learns.
    """

    data: str
    network: NetworkName
    is_transfer: bool = False

    @classmethod
    def named(cls, data: str, network: str, *, is_transfer: bool = False) -> "Case":
        """The case of a data set's and a network's name.

        Args:
            data: Name of the data set.
            network: Name of the network.
            is_transfer: Whether only the classifier behind frozen convolutions learns.

        Returns:
            The case.

        Raises:
            UnknownNameError: There is no data set or network of that name.
            SettingError: The network has no convolutions that could be transferred.
        """
        if data not in DATA_NAMES:
            raise UnknownNameError("data set", data, DATA_NAMES)
        name = parse_network_name(network)
        if is_transfer and not name.has_trained_convolutions:
            raise SettingError(
                f"--transfer trains convolutions and then freezes them, but {network} has none that learn: "
                "choose conv, cnn, cnn-bn, alexnet or alexnet-small."
            )
        return cls(data, name, is_transfer)

    @property
    def task(self) -> Task:
        """What the data set is for, known before it is loaded."""
        return TASKS_WITHOUT_CLASSES.get(self.data, "classification")

    @property
    def where(self) -> str:
        """The data and the network, in words."""
        return f"{self.network.text} on {self.data}" + (" with frozen convolutions" if self.is_transfer else "")

    @property
    def is_forecast(self) -> bool:
        """Whether there is a value to tell at every step of a series."""
        return self.task == "forecasting"

    @property
    def num_hidden(self) -> int:
        """Hidden layers that learn; convolutions are counted as one, which is enough to know."""
        num_hidden = self.network.num_hidden
        if self.network.family in {"conv", "conv-random"} and self.data.startswith("cifar"):
            num_hidden += 1
        return num_hidden if self.is_transfer or not self.network.has_trained_convolutions else num_hidden + 1

    def lack(self, rule: str) -> str | None:
        """What a rule needs and this case does not have.

        Args:
            rule: A name out of `rule_names()`.

        Returns:
            The need in words, e.g. "needs classes"; None where the rule can learn it.
        """
        if self.task != "classification" and rule in {"drtp", "lg-fg-a"}:
            return "needs classes"
        if rule == "drtp" and self.network.is_rectified:
            return "needs hidden units that saturate, such as tanh"
        if rule == "fg-w" and self.network.family == "lstm":
            return "needs forward-mode differentiation, which torch's LSTM does not have"
        if rule == "lg-fg-a" and self.num_hidden < _MIN_HIDDEN_OF_LOCAL_LOSSES:
            return "needs two hidden layers that learn"
        return None


@dataclass(frozen=True)
class UnderLimits:
    """What is to be learned under limits of hardware, which some rules cannot have.

    Attributes:
        case: What is to be learned by what.
        limits: The limits.
    """

    case: Learnable
    limits: GivenLimits

    @property
    def where(self) -> str:
        """The data and the network, in words."""
        return self.case.where

    @property
    def is_forecast(self) -> bool:
        """Whether there is a value to tell at every step of a series."""
        return self.case.is_forecast

    def lack(self, rule: str) -> str | None:
        """What a rule needs and is not there, or which of the limits it cannot have."""
        return self.case.lack(rule) or self.limits.lack(rule_class(rule)())


def rule_names() -> tuple[str, ...]:
    """Names of all rules, in the library's order."""
    return tuple(rule.name for rule in fa.ALL_RULES)


def rule_class(name: str) -> type[Rule]:
    """The rule of a name.

    Args:
        name: A name out of `rule_names()`.

    Returns:
        The class of the rule.

    Raises:
        UnknownNameError: There is no rule of that name.
    """
    for candidate in fa.ALL_RULES:
        if candidate.name == name:
            return candidate
    raise UnknownNameError("rule", name, rule_names())


def make_rule(name: str, task: Task, gamma: float | None = None) -> Rule:
    """The rule of a name with the options that a task needs.

    Args:
        name: A name out of `rule_names()`.
        task: What is learned; it decides how the sign rule finds the scale of the loss.
        gamma: For rules that broadcast the error, the discount of later steps' errors; None leaves the rule's own.

    Returns:
        The rule.
    """
    is_unscaled = task != "classification" and name == "sign-dfa"
    rule = fa.SignDFA(link="other") if is_unscaled else rule_class(name)()
    return replace(rule, gamma=gamma) if isinstance(rule, DirectRule) and gamma is not None else rule


def refuse_unsuited(name: str, case: Learnable) -> None:
    """Refuse a rule that cannot learn a case.

    Args:
        name: A rule's name.
        case: What is to be learned by what.

    Raises:
        SettingError: It lacks something.
        UnknownNameError: There is no such rule.
    """
    rule_class(name)
    if (need := case.lack(name)) is not None:
        raise SettingError(f"{name} {need}, so it cannot train {case.where}: choose other rules, or {ALL} that can.")


def left_out(text: str, case: Learnable) -> dict[str, str]:
    """The rules that "all" does not stand for in a case.

    Args:
        text: What `parse_rule_names` is given.
        case: What is to be learned by what.

    Returns:
        Why each rule is left out, by its name; empty where the rules are named one by one.
    """
    if text.strip().lower() != ALL:
        return {}
    return {name: need for name in rule_names() if (need := case.lack(name)) is not None}


def parse_rule_names(text: str, case: Learnable) -> tuple[str, ...]:
    """Split a list of rule names.

    Args:
        text: Names with commas between them, or "all" for every rule that can learn the case.
        case: What is to be learned by what.

    Returns:
        The names, each once, in the order given.

    Raises:
        SettingError: No name is given.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not names:
        raise SettingError(f"No rule is named: give {ALL!r} or some of {', '.join(rule_names())}.")
    if names == [ALL]:
        return tuple(name for name in rule_names() if case.lack(name) is None)
    for name in names:
        refuse_unsuited(name, case)
    return tuple(dict.fromkeys(names))
