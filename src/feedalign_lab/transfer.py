"""The first half of transfer learning: backprop trains the convolutions that all rules of a trial then share."""

from collections.abc import Callable

from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.models import build_network
from feedalign_lab.models.transfer import Features, features_of
from feedalign_lab.records import TrialResult, Watch
from feedalign_lab.tensors import TensorTrial
from feedalign_lab.training import Schedule, run_trial

FEATURES = "convolutions"


class FeatureTraining:
    """What trains the convolutions of each trial, and keeps them."""

    def __init__(self, spec_of: Callable[[int], LearnerSpec], schedule: Schedule) -> None:
        """Get ready to train.

        Args:
            spec_of: What the backprop that trains a trial's convolutions starts from, by the trial's number.
            schedule: How long they are trained.
        """
        self._spec_of, self._schedule = spec_of, schedule
        self._trained: dict[int, Features] = {}

    def run(self, trial: int, dataset: Dataset, watch: Watch, checkpoints: Checkpoints | None = None) -> TrialResult:
        """Train the whole network of a trial with backprop and keep its convolutions.

        Args:
            trial: Number of the trial, from 0.
            dataset: What to train on.
            watch: Told of the training and its epochs.
            checkpoints: What it is saved to and goes on from.

        Returns:
            How the training went.
        """
        spec = self._spec_of(trial)
        dataset = dataset.of_trial(spec.seed, trial)
        learner = make_learner(spec, dataset)
        on_epoch = watch(FEATURES, trial, self._schedule.epochs)
        trained = TensorTrial(learner, spec, self._schedule, dataset)
        result = run_trial(trained, spec, self._schedule, on_epoch, checkpoints)
        # Those of one trial are enough: trials come one after the other.
        self._trained = {trial: features_of(learner.model)}
        return result

    def features(self, trial: int, dataset: Dataset) -> Features:
        """The convolutions that the rules of a trial share.

        Args:
            trial: Number of the trial, from 0.
            dataset: Gives the shapes.

        Returns:
            The convolutional part's weights, biases and running statistics; before they were trained as they are
            drawn, for what does not depend on their values, such as the cost of a step.
        """
        if trial in self._trained:
            return self._trained[trial]
        return features_of(build_network(self._spec_of(trial).network, dataset, seed=0))
