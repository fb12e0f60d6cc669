"""What rules can be compared on: data and a network that belong together, with the field's own measure of success."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import feedalign as fa
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import Better, TrialResult, Watch
from feedalign_lab.seeding import Stream

Tell = Callable[[str, float], object]
"""Told what is being done, and how much of it is done, from 0 to 1."""
ResultFile = tuple[str, Callable[[Path], object]]
"""Name of a file, and what writes it to a path with the same ending."""


def silent(what: str, share: float) -> None:
    """Tell nobody.

    Args:
        what: What is being done.
        share: How much of it is done, from 0 to 1.
    """
    del what, share


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        name: In lower case, as a heading has it: "error", "accuracy", "AUC", "PSNR".
        unit: "%", "dB"; empty for none.
        better: Which way is up.
        digits: Behind the point, in tables.
    """

    name: str
    unit: str = ""
    better: Better = "lower"
    digits: int = 2

    @property
    def heading(self) -> str:
        """The name with its unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True)
class Scores:
    """How good a model is after an epoch.

    Attributes:
        test: The task's metric on the test part.
        validation: The same on the validation part; None where there is none.
        others: Further metrics on the test part, by the names in `Task.others`.
    """

    test: float
    validation: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)


class Trial(ABC):
    """One rule on one split of the data from one seed, ready to train.

    Attributes:
        model: The network.
        handle: The rule's.
        optimizer: Over everything that the rule teaches.
        tell: To be called within what takes long, for a progress bar.
        rest: To be called between two steps of an epoch by trials whose `state` tells how far in it they are; they may
            be saved there.
    """

    model: nn.Module
    handle: fa.Handle
    optimizer: torch.optim.Optimizer
    tell: Tell = staticmethod(silent)
    rest: Callable[[], object] = staticmethod(lambda: None)

    @abstractmethod
    def train_epoch(self, number: int) -> float:
        """Pass over the training data once, and let the learning rate decay.

        Dropout draws from the global random state: it is the trial's own, whoever trains.

        Args:
            number: Of the epoch, from 1.

        Returns:
            The mean loss.

        Raises:
            DivergedError: An output, loss, parameter or gradient is not finite.
        """

    @abstractmethod
    def scores(self) -> Scores:
        """Measure on the held-out parts; the model is left in the mode it was in."""

    @abstractmethod
    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        """Angles between the rule's signals and backprop's, the same samples at every call."""

    @abstractmethod
    def step(self) -> object:
        """Take a whole training step on one fixed batch: for timing. Gradients are given back at its end."""

    def untrained_loss(self) -> float:
        """The loss before any step, without dropout, on training data; nan where it is not known.

        A trial whose last epoch is far above it has diverged.
        """
        return math.nan

    def handles(self) -> tuple[fa.Handle, ...]:
        """All rules of the model: more than one where it consists of networks with an error of their own each."""
        return (self.handle,)

    def generators(self) -> Mapping[str, torch.Generator]:
        """What the trial draws from as it trains, by name; dropout's stream is not its own."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that training has changed, in tensors, numbers, text and containers of them; not copied."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": {name: draws.get_state() for name, draws in self.generators().items()},
            # Of those that are counted in Python: when a rule looks at the form of the error again.
            "backwards": [handle._circuit.plan.num_backwards for handle in self.handles()],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what another trial of the same kind was.

        Args:
            state: Its `state`.

        Raises:
            KeyError: Something is missing.
            RuntimeError: Tensors do not fit.
            ValueError: Parameters or generators are others.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, draws in self.generators().items():
            draws.set_state(state["generators"][name])
        for handle, count in zip(self.handles(), state["backwards"], strict=True):
            handle._circuit.plan.num_backwards = count

    def results(self) -> Sequence[ResultFile]:
        """Return what else this trial leaves behind, once it is finished or cut short: a picture, a film."""
        return ()


class Task(ABC):
    """Data and a network.

    Attributes:
        data: What the user typed.
        network: What the user typed.
        metric: What trials are judged by.
        others: What else is measured on the test part.
        loss: Name of the loss.
        optimizer: Name of the optimizer.
        device: Where trials train.
        is_redrawn: Whether every trial splits the data anew.
        judged_at: The epoch that counts in the field: the last, or the one with the best validation score.
    """

    data: str
    network: str
    metric: Metric
    others: tuple[Metric, ...] = ()
    loss: str
    optimizer: str = "Adam"
    device: torch.device = torch.device("cpu")
    is_redrawn: bool = False
    judged_at: Literal["last", "chosen"] = "last"

    @abstractmethod
    def data_facts(self) -> Mapping[str, Any]:
        """Sizes and preparation of the data, for `results.json`."""

    def reading(self) -> Sequence[str]:
        """How the data were read, in sentences: told before anything is trained."""
        return ()

    def remarks(self) -> Sequence[str]:
        """What is unusual about the data, in short sentences: whoever reads the results must know it."""
        return ()

    @abstractmethod
    def network_facts(self) -> Mapping[str, Any]:
        """What the network consists of; `num_parameters` at least."""

    @abstractmethod
    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """The metric, on the test part of a trial's split, of predictors that learn nothing, by what they do."""

    @abstractmethod
    def trial(self, spec: LearnerSpec) -> Trial:
        """Build the network of a trial, attach the rule, make the optimizer."""

    def prepare(self, trial: int, watch: Watch, checkpoints: Checkpoints | None = None) -> TrialResult | None:
        """Do what all rules of a trial build upon.

        Args:
            trial: Number of the trial, from 0.
            watch: To be told of its epochs.
            checkpoints: What it is saved to and goes on from.

        Returns:
            How that went; None where there is nothing to do.
        """
        del trial, watch, checkpoints
        return None

    def results(self) -> Sequence[ResultFile]:
        """Return pictures of several rules side by side, from what their first trials' own `results` noted."""
        return ()

    def notes(self) -> dict[str, Any]:
        """Return what first trials' own `results` have noted, by rule, to be read and written in place.

        It is kept with what a trial came to, as tensors, numbers, text and containers of them.
        """
        return {}

    def with_weights(self) -> Sequence[ResultFile]:
        """Return what must lie beside a network's weights for it to be run on new data."""
        return ()

    def for_tuning(self) -> "Task":
        """The same task with its validation part in the place of the test part, to choose settings on."""
        from feedalign_lab.on_validation import TaskOnValidation

        return TaskOnValidation(self)

    def streams(self) -> tuple[Stream, ...]:
        """Names of the streams of random numbers that a trial draws from."""
        return ("weights", "feedback", "order", "dropout")
