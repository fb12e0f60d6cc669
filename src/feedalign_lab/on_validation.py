"""A task tested on its validation part: what settings are chosen on."""

from collections.abc import Mapping
from typing import Any

import feedalign as fa
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.records import TrialResult, Watch
from feedalign_lab.seeding import Stream
from feedalign_lab.task import Scores, Task, Trial


class _TrialOnValidation(Trial):
    """A trial that says of the validation part what it else says of the test part."""

    def __init__(self, trial: Trial, data: str) -> None:
        self._trial, self._data = trial, data
        self.model, self.handle, self.optimizer = trial.model, trial.handle, trial.optimizer

    def train_epoch(self, number: int) -> float:
        """Pass over the training data once; see `Trial`."""
        self._trial.tell, self._trial.rest = self.tell, self.rest
        return self._trial.train_epoch(number)

    def scores(self) -> Scores:
        """Measure on the validation part; see `Trial`."""
        found = self._trial.scores()
        if found.validation is None:
            raise SettingError(f"{self._data} has no validation part, so there is nothing to choose settings on.")
        return Scores(found.validation)

    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        """Angles to backprop; see `Trial`."""
        return self._trial.alignment()

    def step(self) -> object:
        """Take a whole training step; see `Trial`."""
        return self._trial.step()

    def untrained_loss(self) -> float:
        """The loss before any step; see `Trial`."""
        return self._trial.untrained_loss()

    def handles(self) -> tuple[fa.Handle, ...]:
        """All rules of the model; see `Trial`."""
        return self._trial.handles()

    def state(self) -> dict[str, Any]:
        """All that training has changed; see `Trial`."""
        return self._trial.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what another trial was; see `Trial`."""
        self._trial.load_state(state)


class TaskOnValidation(Task):
    """A task whose trials are tested on the validation part, and say nothing of the test part."""

    def __init__(self, task: Task) -> None:
        """Wrap a task.

        Args:
            task: The task; each trial of it has a validation score.
        """
        self._task = task
        self.data, self.network, self.metric, self.loss = task.data, task.network, task.metric, task.loss
        self.device, self.is_redrawn, self.optimizer = task.device, task.is_redrawn, task.optimizer
        self.judged_at = task.judged_at

    def data_facts(self) -> Mapping[str, Any]:
        """Sizes and preparation of the data; see `Task`."""
        return self._task.data_facts()

    def network_facts(self) -> Mapping[str, Any]:
        """What the network consists of; see `Task`."""
        return self._task.network_facts()

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """Nothing: settings are not compared with it; see `Task`."""
        del seed, trial
        return {}

    def trial(self, spec: LearnerSpec) -> Trial:
        """Build a trial; see `Task`."""
        return _TrialOnValidation(self._task.trial(spec), self.data)

    def prepare(self, trial: int, watch: Watch, checkpoints: Checkpoints | None = None) -> TrialResult | None:
        """Do what all rules of a trial build upon; see `Task`."""
        return self._task.prepare(trial, watch, checkpoints)

    def streams(self) -> tuple[Stream, ...]:
        """Names of the streams of random numbers; see `Task`."""
        return self._task.streams()
