"""Training a learner on tensors, as the training loop does it."""

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import Learner, LearnerSpec
from feedalign_lab.records import OnEpoch, TrialResult
from feedalign_lab.tensors import TensorTrial
from feedalign_lab.training import Schedule, run_trial


def train_learner(
    learner: Learner, spec: LearnerSpec, schedule: Schedule, dataset: Dataset, on_epoch: OnEpoch | None = None
) -> TrialResult:
    return run_trial(TensorTrial(learner, spec, schedule, dataset), spec, schedule, on_epoch)
