"""The domain of data sets that are tensors: images, series, simulated ones."""

from collections.abc import Sequence

import torch

from feedalign_lab import data, settings
from feedalign_lab.choices import Case
from feedalign_lab.domains import CHOOSABLE, Domain
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.models import parse_network_name
from feedalign_lab.names import DATA_NAMES, NETWORK_NAMES
from feedalign_lab.papers.setting import RuleSetting, RunSetting
from feedalign_lab.plan import Plan
from feedalign_lab.task import Task, Tell, silent
from feedalign_lab.tensors import TensorTask
from feedalign_lab.transfer import FeatureTraining


class TensorDomain(Domain):
    """Data sets that are tensors in memory, and the papers' networks for them."""

    what = "images, series and simulated data"
    data_names = DATA_NAMES
    network_names = NETWORK_NAMES
    options = frozenset(CHOOSABLE)

    def has_network(self, network: str) -> bool:
        """Whether a name is that of one of this domain's networks: of those listed, or of another size."""
        try:
            parse_network_name(network)
        except UnknownNameError:
            return False
        return True

    def default_network(self, data: str) -> str:
        """The network that is taken where none is named."""
        return settings.data_setting(data).network

    def case(self, data: str, network: str, *, is_transfer: bool = False) -> Case:
        """What is to be learned by what; see `Domain`."""
        return Case.named(data, network, is_transfer=is_transfer)

    def run_setting(self, data: str, network: str) -> RunSetting:
        """What a network is trained with, whatever the rule."""
        return settings.run_setting(data, network)

    def rule_setting(self, data: str, network: str, rule: str) -> RuleSetting:
        """What a rule is trained with."""
        return settings.rule_setting(data, network, rule)

    def load(self, plan: Plan, device: torch.device, tell: Tell) -> Task:
        """Load what a plan names; see `Domain`."""
        return self.load_all([plan], device, tell)[0]

    def load_all(self, plans: Sequence[Plan], device: torch.device, tell: Tell = silent) -> list[Task]:
        """Load what several plans name, the data once for each scaling; see `Domain`."""
        del tell
        asked = dict.fromkeys((plan.data, plan.inputs) for plan in plans)
        loaded = {(name, inputs): data.load(name, device, inputs=inputs) for name, inputs in asked}
        return [
            TensorTask(loaded[plan.data, plan.inputs], plan.network, plan.schedule, _training_of_features(plan))
            for plan in plans
        ]


def _training_of_features(plan: Plan) -> FeatureTraining | None:
    """What trains the convolutions of a plan that transfers them."""
    if plan.transfer_epochs is None:
        return None
    return FeatureTraining(plan.transfer_spec, plan.transfer_schedule())
