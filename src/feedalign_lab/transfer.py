"""The first half of transfer learning: backprop trains the convolutions that all rules of a trial then share."""

from collections.abc import Callable

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import make_learner
from feedalign_lab.models import build_network
from feedalign_lab.models.transfer import Features, features_of
from feedalign_lab.plan import Plan
from feedalign_lab.records import EpochRecord, TrialResult
from feedalign_lab.training import run_trial


def train_features(
    plan: Plan, trial: int, dataset: Dataset, on_epoch: Callable[[EpochRecord], None]
) -> tuple[TrialResult, Features]:
    """Train the whole network of a trial with backprop and take its convolutions.

    Args:
        plan: What to compare, with `transfer_epochs`.
        trial: Number of the trial, from 0.
        dataset: What to train on.
        on_epoch: Called with each record as it is made.

    Returns:
        How the training went, and the convolutional part's weights, biases and running statistics.
    """
    spec = plan.transfer_spec(trial)
    dataset = dataset.of_trial(spec.seed, trial)
    learner = make_learner(spec, dataset)
    result = run_trial(learner, spec, plan.transfer_schedule(), dataset, on_epoch)
    return result, features_of(learner.model)


def untrained_features(plan: Plan, dataset: Dataset) -> Features | None:
    """Convolutions as they are drawn, for what does not depend on their values, such as the cost of a step.

    Args:
        plan: What to compare.
        dataset: Gives the shapes.

    Returns:
        The convolutional part; None if the plan transfers nothing.
    """
    return None if plan.transfer_epochs is None else features_of(build_network(plan.network, dataset, seed=0))
