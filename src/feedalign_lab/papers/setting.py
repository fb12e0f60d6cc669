"""What a setting consists of."""

from dataclasses import dataclass

from feedalign_lab.data.dataset import Inputs
from feedalign_lab.models import WeightInit

UNTUNED = "ours, untuned"


@dataclass(frozen=True)
class RunSetting:
    """What a network is trained with, whatever the rule.

    Attributes:
        batch_size: Examples per step; None for all at once.
        epochs: Passes over the training data; enough for a first look, the papers' own runs are longer.
        lr_decay: What the learning rate is multiplied with after each epoch.
        inputs: How the inputs are scaled.
        source: Where batch size, decay, scaling and clipping come from, in words.
        clip: Largest norm of the gradient of all weights together; None leaves it as it is.
        angles_every: Epochs from one measurement of the angles to the next.
    """

    batch_size: int | None
    epochs: int
    lr_decay: float
    inputs: Inputs
    source: str
    clip: float | None = None
    angles_every: int = 1


@dataclass(frozen=True)
class RuleSetting:
    """What a rule is trained with.

    Attributes:
        learning_rate: Step size of Adam at the start.
        weight_init: How the forward weights start.
        source: Where the rates and decays come from, in words.
        feedback_learning_rate: Step size of Adam for learned feedback, the same in all epochs; None where the rule
            learns none.
        weight_decay: Adam's `weight_decay` (added to the gradient) for the forward weights.
        feedback_decay: The same for learned feedback.
        gamma: In a forecast, what the error of a step counts one step before, for rules that broadcast errors; None
            where there is no forecast, or nothing is broadcast.
        dropout: Probability of dropping, where the network drops.
    """

    learning_rate: float
    weight_init: WeightInit
    source: str
    feedback_learning_rate: float | None = None
    weight_decay: float = 0.0
    feedback_decay: float = 0.0
    gamma: float | None = None
    dropout: float = 0.0
