"""A grid search over networks, batch sizes, learning rates, weight decays and dropouts: `feedalign tune`.

It never looks at test data: every candidate is trained and then tested on the validation part of the data, or, where
tensors have none, on a fifth held out of the training part. The candidate with the best mean over the trials wins.
Learned feedback is trained at the same rate as the forward weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, product
from typing import Any, Literal

import torch

from feedalign_lab.checkpoints.keeper import CheckpointFolder, Checkpoints
from feedalign_lab.domains import domain_of
from feedalign_lab.done_trials import DoneTrial, checkpoints_named, done_trial
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.plan import Plan
from feedalign_lab.records import EpochRecord, Spread, TrialResult, Watch, best_of, spread
from feedalign_lab.task import Metric, Task, Tell, silent
from feedalign_lab.training import Schedule, run_trial

_TUNING_FORMAT = 2


@dataclass(frozen=True)
class Candidate:
    """One point of the grid, for one rule.

    Attributes:
        rule: Name of the rule.
        network: Name of the network.
        batch_size: Examples per step; None for all at once.
        learning_rate: Step size of Adam.
        weight_decay: Adam's `weight_decay` for the forward weights.
        dropout: Probability of dropping.
        score: On the validation part, at the epoch that counts (see `Task.judged_at`), over the trials; None if a
            trial of it diverged.
    """

    rule: str
    network: str
    batch_size: int | None
    learning_rate: float
    weight_decay: float
    dropout: float
    score: Spread | None


@dataclass(frozen=True)
class Grid:
    """What is tried in each plan.

    Attributes:
        rates: Learning rates.
        weight_decays: Weight decays; nothing leaves each rule its own.
        dropouts: Probabilities of dropping; nothing leaves each rule its own.
    """

    rates: Sequence[float]
    weight_decays: Sequence[float] = ()
    dropouts: Sequence[float] = ()

    def plans_of(self, plan: Plan) -> list[Plan]:
        """A plan for each point, with its values in the place of the rules' own.

        Args:
            plan: The plan to vary.

        Returns:
            The plans, the learning rate changing fastest.

        Raises:
            SettingError: A value is out of range.
        """
        points = product(self.dropouts or (None,), self.weight_decays or (None,), self.rates)
        return [
            replace(plan, learning_rate=rate, weight_decay=decay, dropout=dropout) for dropout, decay, rate in points
        ]


@dataclass
class GridSearch:
    """A search under way or done; everything in it can be read at any time.

    Attributes:
        plans: A plan for each network and batch size; its own rates are not used.
        grid: What is tried in each of them.
        environment: Versions and machine.
        metric: What is measured; None before the data are loaded.
        status: "running", "finished" or "interrupted".
        candidates: What was tried so far.
    """

    plans: Sequence[Plan]
    grid: Grid
    environment: Environment
    metric: Metric | None = None
    status: Literal["running", "finished", "interrupted"] = "running"
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules of all plans, in the order of the first."""
        return tuple(dict.fromkeys(rule for plan in self.plans for rule in plan.rules))

    def num_epochs(self) -> int:
        """Epochs of all trials of all candidates."""
        return sum(plan.num_epochs() * len(self.grid.plans_of(plan)) for plan in self.plans)

    def best(self, rule: str) -> Candidate | None:
        """The candidate of a rule with the best mean score.

        Args:
            rule: Name of the rule.

        Returns:
            The first of the best; None if every candidate diverged, or none was tried.
        """
        found = [(one.score.mean, one) for one in self.candidates if one.rule == rule and one.score is not None]
        return None if self.metric is None else best_of(found, self.metric.better)

    def config(self) -> dict[str, Any]:
        """What was asked for, as it stands in the file."""
        plan = self.plans[0]
        return {
            "data": plan.data,
            "rules": self.rules,
            "networks": list(dict.fromkeys(plan.network for plan in self.plans)),
            "batch_sizes": list(dict.fromkeys(plan.schedule.batch_size for plan in self.plans)),
            "rates": self.grid.rates,
            "weight_decays": self.grid.weight_decays,
            "dropouts": self.grid.dropouts,
            "epochs": plan.schedule.epochs,
            "clips": list(dict.fromkeys(plan.clip for plan in self.plans)),
            "trials": plan.trials,
            "seed": plan.seed,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested containers for a JSON file."""
        return {
            "format": _TUNING_FORMAT,
            "command": "tune",
            "status": self.status,
            "config": self.config(),
            "environment": self.environment,
            "metric": self.metric,
            "best": {rule: self.best(rule) for rule in self.rules},
            "candidates": self.candidates,
        }


def start_search(plans: Sequence[Plan], grid: Grid, device: torch.device) -> GridSearch:
    """A search in which nothing has been tried yet.

    Args:
        plans: A plan for each network and batch size, one at least.
        grid: What to try in each of them.
        device: Where to train.

    Returns:
        The search.

    Raises:
        SettingError: A value of the grid is out of range.
    """
    for plan in plans:
        grid.plans_of(plan)
    return GridSearch(plans, grid, describe_environment(device))


def run_search(
    search: GridSearch,
    device: torch.device,
    watch: Watch,
    on_candidate: Callable[[], object],
    tell: Tell = silent,
    on_task: Callable[[Task], CheckpointFolder | None] | None = None,
) -> None:
    """Try every candidate. Ctrl-C ends the search early; what was done is kept and marked as interrupted.

    With checkpoints, a search that was cut goes on: trials that are done are taken as they are, and the one that was
    under way goes on.

    Args:
        search: The search; filled in place.
        device: Where to train.
        watch: Told of every trial and epoch.
        on_candidate: Called after each candidate.
        tell: Told how far something long is.
        on_task: Called with the first of the tasks, which all have the same data, once they are loaded; gives what
            each trial is saved to and goes on from.
    """
    try:
        for candidate in _tried(search, device, watch, tell, on_task):
            search.candidates.append(candidate)
            on_candidate()
        search.status = "finished"
    except KeyboardInterrupt:
        search.status = "interrupted"


def _tried(
    search: GridSearch,
    device: torch.device,
    watch: Watch,
    tell: Tell,
    on_task: Callable[[Task], CheckpointFolder | None] | None,
) -> Iterator[Candidate]:
    """Train candidate after candidate.

    Yields:
        Each once it has been tried.
    """
    # All are loaded before any is trained: what does not suit is told before hours go into what does.
    tasks = domain_of(search.plans[0].data).load_all(search.plans, device, tell)
    search.metric = tasks[0].metric
    checkpoints = None if on_task is None else on_task(tasks[0])
    numbers = count(1)
    for whole, task in zip(search.plans, tasks, strict=True):
        on_validation = task.for_tuning()
        for rule in whole.rules:
            for plan in search.grid.plans_of(whole):
                specs = [_same_rate(plan.spec(rule, trial)) for trial in range(plan.trials)]
                of_trial = partial(checkpoints_named, checkpoints, f"candidate-{next(numbers)}")
                score = try_candidate(on_validation, specs, plan.schedule, watch, tell, of_trial)
                spec, size = specs[0], plan.schedule.batch_size
                yield Candidate(rule, plan.network, size, spec.learning_rate, spec.weight_decay, spec.dropout, score)


def _same_rate(spec: LearnerSpec) -> LearnerSpec:
    """The same learner, with its feedback learned at the rate of the forward weights."""
    return spec if spec.feedback_learning_rate is None else replace(spec, feedback_learning_rate=spec.learning_rate)


def _score(task: Task, epochs: Sequence[EpochRecord]) -> float:
    """The score at the epoch that counts."""
    scores = [epoch.test_score for epoch in epochs]
    best = best_of([(score, score) for score in scores], task.metric.better)
    return scores[-1] if task.judged_at == "last" or best is None else best


def _nowhere(trial: int) -> None:
    """Where the trials of a search without checkpoints are saved."""


def try_candidate(
    task: Task,
    specs: Sequence[LearnerSpec],
    schedule: Schedule,
    watch: Watch,
    tell: Tell = silent,
    checkpoints: Callable[[int], Checkpoints | None] = _nowhere,
) -> Spread | None:
    """Train one rule at one point of the grid and test it.

    Args:
        task: A task `for_tuning`, which tests on the validation part.
        specs: The learner of each trial.
        schedule: How long to train.
        watch: Told of every trial and epoch.
        tell: Told how far something long is.
        checkpoints: What a trial is saved to and goes on from, by its number.

    Returns:
        The score over the trials; None if one of them diverged.

    Raises:
        KeyboardInterrupt: The user ended a trial.
    """
    scores = []
    for spec in specs:
        outcome = _outcome(task, spec, schedule, watch, tell, checkpoints(spec.trial))
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        if outcome.status == "finished":
            scores.append(_score(task, outcome.epochs))
    return spread(scores) if len(scores) == len(specs) else None


def _outcome(
    task: Task, spec: LearnerSpec, schedule: Schedule, watch: Watch, tell: Tell, checkpoints: Checkpoints | None
) -> TrialResult:
    """Train one trial, unless it is done already."""
    on_epoch = watch(spec.rule, spec.trial, schedule.epochs)
    if (done := done_trial(checkpoints)) is not None:
        return done.result
    trial = task.trial(spec)
    trial.tell = tell
    result = run_trial(trial, spec, schedule, on_epoch, checkpoints)
    DoneTrial(result).keep(checkpoints)
    return result
