"""The kinds of data that there are, found by the name or path of the data; imports nothing heavy.

Each domain is a package with three modules: `names` (what users can type), `settings` (how each network is trained on
it) and `task` (which loads it). The last two are imported once they are needed.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, cast

from feedalign_lab.errors import SettingError, UnknownNameError

if TYPE_CHECKING:
    import torch

    from feedalign_lab.choices import Learnable
    from feedalign_lab.papers.setting import RuleSetting, RunSetting
    from feedalign_lab.plan import Plan
    from feedalign_lab.task import Task, Tell

CHOOSABLE = (
    "batch_size", "lr_decay", "clip", "weight_decay", "dropout", "feedback_lr", "gamma", "limits", "flip", "inputs",
    "transfer", "transfer_epochs",
)  # fmt: skip
"""Options of the command line that do not mean something in every domain."""


class Domain(ABC):
    """A kind of data, with the networks for it.

    Attributes:
        what: The data in words, in the plural.
        data_names: Names of its data.
        data_prefixes: What stands before the path of a user's own data, with the colon.
        network_names: Names of its networks.
        options: Those of `CHOOSABLE` that mean something here.
    """

    what: str
    data_names: Sequence[str]
    data_prefixes: Sequence[str] = ()
    network_names: Sequence[str]
    options: frozenset[str]

    def has(self, data: str) -> bool:
        """Whether a name or path of data is one of this domain's."""
        return data in self.data_names or data.startswith(tuple(self.data_prefixes))

    def has_network(self, network: str) -> bool:
        """Whether a name is that of one of this domain's networks."""
        return network in self.network_names

    @abstractmethod
    def default_network(self, data: str) -> str:
        """The network that is taken where none is named."""

    @abstractmethod
    def case(self, data: str, network: str, *, is_transfer: bool = False) -> "Learnable":
        """What is to be learned by what.

        Args:
            data: Name or path of the data.
            network: Name of the network.
            is_transfer: Whether only the classifier behind frozen convolutions learns.

        Returns:
            The case, which knows which rules can learn it.

        Raises:
            UnknownNameError: There is no network of that name.
        """

    @abstractmethod
    def run_setting(self, data: str, network: str) -> "RunSetting":
        """What a network is trained with, whatever the rule."""

    @abstractmethod
    def rule_setting(self, data: str, network: str, rule: str) -> "RuleSetting":
        """What a rule is trained with."""

    @abstractmethod
    def load(self, plan: "Plan", device: "torch.device", tell: "Tell") -> "Task":
        """Load what a plan names.

        Args:
            plan: What to train.
            device: Where to train.
            tell: Told how far a long loading is.

        Returns:
            The task.
        """

    def load_all(self, plans: Sequence["Plan"], device: "torch.device", tell: "Tell") -> list["Task"]:
        """Load what several plans name, all of the same data."""
        return [self.load(plan, device, tell) for plan in plans]


@dataclass(frozen=True)
class PackagedCase:
    """Data and a network of a domain that is a package.

    Attributes:
        domain: The domain.
        data: Name or path of the data.
        network: Name of the network.
    """

    domain: "PackagedDomain"
    data: str
    network: str
    is_forecast: bool = False

    @property
    def where(self) -> str:
        """The data and the network, in words."""
        return f"{self.network} on {self.data}"

    def lack(self, rule: str) -> str | None:
        """What a rule needs and is not there; None where it can learn this."""
        return cast("str | None", self.domain.module("settings").lack(self.data, self.network, rule))


class PackagedDomain(Domain):
    """A domain of which everything stands in a package of its own."""

    def __init__(self, package: str) -> None:
        """Read the names.

        Args:
            package: Name of the package.
        """
        self._package = package
        names = self.module("names")
        self.what = names.WHAT
        self.data_names, self.data_prefixes = names.DATA_NAMES, names.DATA_PREFIXES
        self.network_names = names.NETWORK_NAMES
        self.options = frozenset(names.OPTIONS)

    def module(self, name: str) -> ModuleType:
        """One of the package's modules."""
        return importlib.import_module(f"{self._package}.{name}")

    def default_network(self, data: str) -> str:
        """The network that is taken where none is named."""
        return cast("str", self.module("settings").default_network(data))

    def case(self, data: str, network: str, *, is_transfer: bool = False) -> PackagedCase:
        """What is to be learned by what; see `Domain`."""
        if network not in self.network_names:
            raise UnknownNameError(f"network for {self.what}", network, self.network_names)
        if is_transfer:
            raise SettingError(f"--transfer means nothing for {self.what}: leave it out.")
        return PackagedCase(self, data, network)

    def run_setting(self, data: str, network: str) -> "RunSetting":
        """What a network is trained with, whatever the rule."""
        return cast("RunSetting", self.module("settings").run_setting(data, network))

    def rule_setting(self, data: str, network: str, rule: str) -> "RuleSetting":
        """What a rule is trained with."""
        return cast("RuleSetting", self.module("settings").rule_setting(data, network, rule))

    def load(self, plan: "Plan", device: "torch.device", tell: "Tell") -> "Task":
        """Load what a plan names; see `Domain`."""
        load = self.module("task").load
        return cast("Task", load(plan.data, plan.network, schedule=plan.schedule, device=device, tell=tell))


PACKAGES = ("feedalign_lab.graphs", "feedalign_lab.clicks", "feedalign_lab.scenes")
"""The domains beside that of tensors."""


def all_domains() -> tuple[Domain, ...]:
    """Every domain, that of tensors first."""
    from feedalign_lab.tensor_domain import TensorDomain

    return (TensorDomain(), *(PackagedDomain(package) for package in PACKAGES))


def domain_of(data: str) -> Domain:
    """The domain that data belong to.

    Args:
        data: A name, or a prefix with a path behind it.

    Returns:
        The domain.

    Raises:
        UnknownNameError: No domain has data of that name.
        SettingError: There is no path behind the prefix.
    """
    domains = all_domains()
    for domain in domains:
        if data in domain.data_prefixes:
            raise SettingError(f"{data!r} names no data: put the path of your own behind the colon.")
        if domain.has(data):
            return domain
    named = [name for domain in domains for name in domain.data_names]
    paths = [f"{prefix}PATH" for domain in domains for prefix in domain.data_prefixes]
    raise UnknownNameError("data set", data, [*named, *paths])


def refuse_foreign_network(domain: Domain, data: str, network: str) -> None:
    """Refuse a network that is for other data.

    Args:
        domain: The domain of the data.
        data: Name or path of the data.
        network: Name of the network; one that no domain has is none of this function's business.

    Raises:
        SettingError: It is another domain's.
    """
    if domain.has_network(network):
        return
    for other in all_domains():
        if other.has_network(network):
            raise SettingError(
                f"{network} is a network for {other.what}, and {data} belongs to {domain.what}: choose one for those, "
                f"such as {domain.default_network(data)}."
            )
