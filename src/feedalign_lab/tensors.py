"""Tensors as a task: a data set held in memory, and a network of the papers' for it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.checkpoints.place import Place
from feedalign_lab.data.augmentation import flip_horizontally
from feedalign_lab.data.dataset import Dataset, Part, validation_split
from feedalign_lab.data.dataset import Task as Kind
from feedalign_lab.data.trivial import trivial_errors
from feedalign_lab.divergence import checked_step, diverged, first_non_finite
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import Learner, LearnerSpec, loss_name, make_learner
from feedalign_lab.models import build_network, network_facts, parse_network_name
from feedalign_lab.models.transfer import features_of, freeze_features
from feedalign_lab.records import TrialResult, Watch
from feedalign_lab.running import evaluating
from feedalign_lab.seeding import Stream, generator
from feedalign_lab.task import Metric, Scores, Task, Trial
from feedalign_lab.training import Schedule

if TYPE_CHECKING:
    from feedalign_lab.transfer import FeatureTraining

PERCENT_WRONG = Metric("error", "%")
SQUARED_ERROR = Metric("error", "mean squared error", digits=4)

_TEST_BATCH_SIZE = 500
_ALIGNMENT_BATCH_SIZE = 256


def refuse_unsuited_schedule(schedule: Schedule, dataset: Dataset, network: str) -> None:
    """Refuse a data set and network that a schedule does not suit.

    Args:
        schedule: Batch size and augmentation.
        dataset: The data set to train on.
        network: Name of the network.

    Raises:
        SettingError: There is something to flip only in images; under batch normalization, a batch of a single
            example has no variance to divide by.
    """
    if schedule.flip and dataset.x_train.dim() != 4:
        raise SettingError(f"{dataset.name} does not consist of images, so there is nothing to flip.")
    num_train = dataset.x_train.shape[0]
    batch_size = schedule.batch_size or num_train
    has_single = batch_size == 1 or num_train % batch_size == 1
    if parse_network_name(network).has_batch_norm and has_single:
        raise SettingError(
            f"{network} normalizes over batches, and with a batch size of {batch_size} some batch of the "
            f"{num_train} training examples would hold a single one: choose another batch size."
        )


def measure_test_error(model: nn.Module, dataset: Dataset) -> float:
    """Error on the test part.

    Args:
        model: The network; switched to evaluation for the measurement and back.
        dataset: The data set.

    Returns:
        Percent of examples in the wrong class, or where there are no classes the mean squared error.
    """
    return _error(model, dataset.test, dataset.task)


class TensorTrial(Trial):
    """A learner on the tensors of one split.

    Attributes:
        dataset: The split.
    """

    def __init__(self, learner: Learner, spec: LearnerSpec, schedule: Schedule, dataset: Dataset) -> None:
        """Get ready to train.

        Args:
            learner: The network with its rule; trained in place.
            spec: What it was made from.
            schedule: Batch size, augmentation and decay of the learning rate.
            dataset: What to train and test on.
        """
        refuse_unsuited_schedule(schedule, dataset, spec.network)
        self.model, self.handle, self.optimizer = learner.model, learner.handle, learner.optimizer
        self._learner, self._spec, self._schedule, self.dataset = learner, spec, schedule, dataset
        self._place = Place(generator(spec.seed, spec.trial, "order"))

    def train_epoch(self, number: int) -> float:
        """Pass over the training data once; see `Trial`."""
        num_train, schedule = self.dataset.x_train.shape[0], self._schedule
        num_steps = -(-num_train // (schedule.batch_size or num_train))
        for step, (x, y) in self._place.batches(self._batches, self.rest):
            when = f"step {(number - 1) * num_steps + step} (epoch {number})"
            self._place.add(checked_step(self._learner, self._spec.rule, x, y, when), len(x))
            self.tell("epoch", step / num_steps)
        # What the last update of an epoch did shows in no loss before the next one.
        if first_non_finite(self.model) is not None:
            raise diverged(self, self._spec.rule, "a parameter or gradient", f"the end of epoch {number}")
        self._learner.decay_learning_rate(schedule.lr_decay)
        return self._place.end()

    def _batches(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs and targets of one epoch, shuffled and mirrored.

        Yields:
            Each batch.
        """
        x_train = self.dataset.x_train
        num_train = x_train.shape[0]
        shuffled = torch.randperm(num_train, generator=order).to(x_train.device)
        for chosen in shuffled.split(self._schedule.batch_size or num_train):
            x = x_train[chosen]
            yield (flip_horizontally(x, order) if self._schedule.flip else x), self._targets[chosen]

    def state(self) -> dict[str, Any]:
        """All that training has changed; see `Trial`."""
        return {**super().state(), "place": self._place.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what another trial was; see `Trial`."""
        super().load_state(state)
        self._place.load_state(state["place"])

    def scores(self) -> Scores:
        """Measure on the held-out parts; see `Trial`."""
        validation = self.dataset.validation
        return Scores(
            measure_test_error(self.model, self.dataset),
            None if validation is None else _error(self.model, validation, self.dataset.task),
        )

    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        """Angles to backprop per layer, without dropout; see `Trial`."""
        with evaluating(self.model):
            return fa.measure.alignment(self.model, self._learner.loss_function, self._fixed_batch).layers

    def step(self) -> None:
        """Take a whole training step on the first batch, and give the gradients back; see `Trial`."""
        # Given back at the start of the next step, they would be freed in the memory measurement without having been
        # allocated in it.
        self._learner.step(*self._first_batch)
        self.optimizer.zero_grad()

    @torch.no_grad()
    def untrained_loss(self) -> float:
        """The loss on the examples that angles are measured on; see `Trial`."""
        x, y = self._fixed_batch
        with evaluating(self.model):
            output = self.model(x)
        # Binary cross-entropy fails on nan; the first step will say where it comes from.
        is_finite = bool(torch.isfinite(output).all())
        return float(self._learner.loss_function(output, y)) if is_finite else math.nan

    @cached_property
    def _targets(self) -> Tensor:
        return self.dataset.encode(self.dataset.y_train)

    @cached_property
    def _first_batch(self) -> tuple[Tensor, Tensor]:
        size = self._schedule.batch_size
        return self.dataset.x_train[:size], self.dataset.encode(self.dataset.y_train[:size])

    @cached_property
    def _fixed_batch(self) -> tuple[Tensor, Tensor]:
        """The training examples on which angles are measured, the same in all epochs and trials."""
        x_train = self.dataset.x_train
        shuffled = torch.randperm(x_train.shape[0], generator=generator(self._spec.seed, 0, "alignment"))
        chosen = shuffled[:_ALIGNMENT_BATCH_SIZE].to(x_train.device)
        return x_train[chosen], self._targets[chosen]


class TensorTask(Task):
    """A data set of tensors and a network of the papers'."""

    def __init__(
        self,
        dataset: Dataset,
        network: str,
        schedule: Schedule,
        training_of_features: "FeatureTraining | None" = None,
        *,
        tests_on_validation: bool = False,
    ) -> None:
        """Put data and network together.

        Args:
            dataset: The data set, on the device to train on.
            network: Name of the network.
            schedule: Batch size, augmentation and decay of the learning rate.
            training_of_features: What trains each trial's convolutions before the rules train a classifier on them;
                None: every rule trains the whole network.
            tests_on_validation: Test on the validation part, or where there is none on a fifth of the training part,
                and leave the test part alone.

        Raises:
            SettingError: They do not go together.
        """
        refuse_unsuited_schedule(schedule, dataset, network)
        self.data, self.network, self.device = dataset.name, network, dataset.x_train.device
        self.metric = metric_of(dataset.task)
        self.loss = loss_name(network, dataset.task)
        self.is_redrawn = dataset.pool is not None
        self._dataset, self._schedule, self._training_of_features = dataset, schedule, training_of_features
        self._tests_on_validation = tests_on_validation
        # Refuses inputs and targets that the network does not take.
        model = build_network(network, dataset, seed=0)
        if training_of_features is not None:
            freeze_features(model, features_of(model))
        self._network_facts = asdict(network_facts(network, model, dataset))

    def data_facts(self) -> Mapping[str, Any]:
        """What the data set consists of; see `Task`."""
        return asdict(self._dataset.facts())

    def network_facts(self) -> Mapping[str, Any]:
        """What the network consists of; see `Task`."""
        return self._network_facts

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """Test errors of what can be told without learning; see `Task`."""
        return trivial_errors(self._dataset.of_trial(seed, trial))

    def prepare(self, trial: int, watch: Watch, checkpoints: Checkpoints | None = None) -> TrialResult | None:
        """Train the convolutions that the rules of a trial share; see `Task`."""
        training = self._training_of_features
        return None if training is None else training.run(trial, self._dataset, watch, checkpoints)

    def trial(self, spec: LearnerSpec) -> TensorTrial:
        """Build a trial's learner on the trial's split; see `Task`."""
        dataset = self._dataset.of_trial(spec.seed, spec.trial)
        if self._tests_on_validation:
            dataset = validation_split(dataset)
        training = self._training_of_features
        features = None if training is None else training.features(spec.trial, dataset)
        return TensorTrial(make_learner(spec, dataset, features), spec, self._schedule, dataset)

    def for_tuning(self) -> "TensorTask":
        """The same on the validation part, or where there is none on a fifth of the training part; see `Task`."""
        return TensorTask(self._dataset, self.network, self._schedule, tests_on_validation=True)

    def streams(self) -> tuple[Stream, ...]:
        """Names of the streams of random numbers; see `Task`."""
        return ("weights", "feedback", "order", "dropout", "classifier", "split")


def metric_of(kind: Kind) -> Metric:
    """The metric of a kind of targets: percent of wrong classes, or the mean squared error of values."""
    return PERCENT_WRONG if kind == "classification" else SQUARED_ERROR


@torch.no_grad()
def _error(model: nn.Module, part: Part, kind: Kind) -> float:
    """Percent of wrong classes, or the mean squared error."""
    total = torch.zeros((), dtype=torch.float64, device=part.x.device)
    with evaluating(model):
        for x, y in zip(part.x.split(_TEST_BATCH_SIZE), part.y.split(_TEST_BATCH_SIZE), strict=True):
            output = model(x)
            if kind == "classification":
                total += (output.argmax(1) != y).sum()
            else:
                total += (output - y).square().flatten(1).mean(1).sum()
    mean = float(total) / part.x.shape[0]
    return 100 * mean if kind == "classification" else mean
