"""The main job: the same network and data under several rules, trial by trial."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from feedalign_lab.cost import CostRecord, measure_cost
from feedalign_lab.data.dataset import Dataset, DatasetFacts
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import Learner, LearnerSpec, loss_name, make_learner
from feedalign_lab.models import NetworkFacts, network_facts
from feedalign_lab.plots import draw_angles, draw_learning_curves
from feedalign_lab.records import EpochRecord, RuleSummary, TrialResult, summarize
from feedalign_lab.results import ANGLES_NAME, CURVES_NAME, WEIGHTS_NAME, ResultsFolder
from feedalign_lab.seeding import stream_seed
from feedalign_lab.settings import RuleSetting, rule_setting
from feedalign_lab.training import Schedule, run_trial

_RESULTS_FORMAT = 1
_BASELINE = "backprop"

OnEpoch = Callable[[EpochRecord], None]
Watch = Callable[[str, int], OnEpoch]
"""Told the rule and the number of each trial before it starts; gives what to call after each epoch."""


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        data: Name of the data set.
        network: Name of the network.
        rules: Names of the rules.
        trials: Runs per rule, at least 1; they differ in weights, feedback and order of the data.
        schedule: Epochs, batch size and augmentation.
        learning_rate: Step size for every rule; None takes each rule's own from the settings.
        dropout: Probability of dropping at the input of every fully connected layer.
        seed: Seed of everything, not negative.
        left_out: Rules that were asked for among all the others and do not suit the data, with the reason.
    """

    data: str
    network: str
    rules: tuple[str, ...]
    trials: int
    schedule: Schedule
    learning_rate: float | None = None
    dropout: float = 0.0
    seed: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.trials < 1:
            raise SettingError(f"The number of trials must be at least 1, not {self.trials}.")
        if self.seed < 0:
            raise SettingError(f"The seed must not be negative, but is {self.seed}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise SettingError(f"The learning rate must be above 0 and finite, not {self.learning_rate}.")

    def setting(self, rule: str) -> RuleSetting:
        """Learning rate and start of the weights for one rule."""
        setting = rule_setting(self.data, self.network, rule)
        if self.learning_rate is None:
            return setting
        return RuleSetting(self.learning_rate, setting.weight_init, "given for this run")

    def spec(self, rule: str, trial: int) -> LearnerSpec:
        """What one trial of one rule starts from."""
        setting = self.setting(rule)
        return LearnerSpec(
            rule=rule,
            network=self.network,
            learning_rate=setting.learning_rate,
            weight_init=setting.weight_init,
            dropout=self.dropout,
            seed=self.seed,
            trial=trial,
        )


@dataclass
class Comparison:
    """A comparison under way or done; everything in it can be read at any time.

    Attributes:
        plan: What is compared.
        dataset: What the data set consists of.
        network: What the network consists of.
        error_unit: Unit of the test error, "%" or "mean squared error".
        environment: Versions and machine.
        status: "running", "finished" or "interrupted".
        cost: Step time and memory per rule.
        trials: Results so far, trial by trial and in each by rule.
        files: What was written.
    """

    plan: Plan
    dataset: DatasetFacts
    network: NetworkFacts
    error_unit: str
    environment: Environment
    status: Literal["running", "finished", "interrupted"] = "running"
    cost: tuple[CostRecord, ...] = ()
    trials: list[TrialResult] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def summaries(self) -> tuple[RuleSummary, ...]:
        """One summary per rule, in the order of the plan."""
        return tuple(summarize(rule, self.trials) for rule in self.plan.rules)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested containers for a JSON file."""
        streams: tuple[Literal["weights", "feedback", "order", "dropout"], ...] = (
            "weights", "feedback", "order", "dropout",
        )  # fmt: skip
        return {
            "format": _RESULTS_FORMAT,
            "status": self.status,
            "config": asdict(self.plan),
            "data": self.dataset,
            "network": self.network,
            "loss": loss_name(self.dataset.task),
            "optimizer": "Adam",
            "settings": {rule: self.plan.setting(rule) for rule in self.plan.rules},
            "seeds": [
                {stream: stream_seed(self.plan.seed, trial, stream) for stream in streams}
                for trial in range(self.plan.trials)
            ],
            "environment": self.environment,
            "error_unit": self.error_unit,
            "cost": self.cost,
            "summary": self.summaries(),
            "trials": self.trials,
        }


def run_comparison(plan: Plan, dataset: Dataset, folder: ResultsFolder, watch: Watch) -> Comparison:
    """Measure the cost of the rules, train every trial of each, and write results as they come.

    Ctrl-C ends the comparison early; what was done is kept, written and marked as interrupted.

    Args:
        plan: What to compare.
        dataset: The data set of the plan, on the device to train on.
        folder: Where `results.json` and the images go.
        watch: Told of every trial and epoch.

    Returns:
        The comparison.
    """
    comparison = _start(plan, dataset)
    try:
        comparison.cost = _measure_cost(plan, dataset)
        _run_trials(comparison, dataset, folder, watch)
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    if comparison.status == "running":
        comparison.status = "finished"
    _write(comparison, folder)
    _draw(comparison, folder)
    return comparison


def run_training(plan: Plan, dataset: Dataset, folder: ResultsFolder, watch: Watch) -> Comparison:
    """Train one trial of one rule and save the weights of the plain network beside the results.

    The weights are those of the network alone, without feedback; they load into the same network with
    `torch.load(path, weights_only=True)`. A trial that diverged saves none.

    Args:
        plan: What to train, with a single rule and a single trial.
        dataset: The data set of the plan, on the device to train on.
        folder: Where `results.json`, `weights.pt` and the images go.
        watch: Told of the trial and its epochs.

    Returns:
        The comparison of that one rule with nothing else; its cost is not measured.
    """
    comparison = _start(plan, dataset)
    spec = plan.spec(plan.rules[0], 0)
    learner = make_learner(spec, dataset)
    result = run_trial(learner, spec, plan.schedule, dataset, watch(spec.rule, 0))
    comparison.trials.append(result)
    comparison.status = "interrupted" if result.status == "interrupted" else "finished"
    _write(comparison, folder)
    if result.status != "diverged":
        learner.handle.remove()
        weights = learner.model.state_dict()
        _note(comparison.files, folder.write(WEIGHTS_NAME, lambda stream: torch.save(weights, stream)))
    _draw(comparison, folder)
    return comparison


def _start(plan: Plan, dataset: Dataset) -> Comparison:
    """An empty comparison, once plan and data are known to go together."""
    plan.schedule.check(dataset)
    unit = "%" if dataset.task == "classification" else "mean squared error"
    facts = dataset.facts(), network_facts(plan.network, dataset)
    return Comparison(plan, *facts, unit, describe_environment(dataset.x_train.device))


def _measure_cost(plan: Plan, dataset: Dataset) -> tuple[CostRecord, ...]:
    """Cost of backprop and the plan's rules, on networks of their own, all on one batch."""
    x = dataset.x_train[: plan.schedule.batch_size]
    y = dataset.encode(dataset.y_train[: plan.schedule.batch_size])
    rules = dict.fromkeys([_BASELINE, *plan.rules])
    # Without a learning rate all rules are timed at the same weights, however many steps the timing takes.
    specs = {rule: replace(plan.spec(rule, 0), learning_rate=0.0) for rule in rules}
    learners = {rule: make_learner(spec, dataset) for rule, spec in specs.items()}
    steps = {rule: _bound_step(learner, x, y) for rule, learner in learners.items()}
    return measure_cost(steps, _BASELINE, dataset.x_train.device)


def _bound_step(learner: Learner, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """The learner's step on one batch, with the gradients given back at its end.

    Given back at the start of the next step, they would be freed in the memory measurement without having
    been allocated in it.
    """

    def step() -> None:
        learner.step(x, y)
        learner.optimizer.zero_grad()

    return step


def _run_trials(comparison: Comparison, dataset: Dataset, folder: ResultsFolder, watch: Watch) -> None:
    """Train trial after trial, all rules in each, so that stopping early leaves a fair comparison."""
    plan = comparison.plan
    for trial in range(plan.trials):
        for rule in plan.rules:
            spec = plan.spec(rule, trial)
            learner = make_learner(spec, dataset)
            result = run_trial(learner, spec, plan.schedule, dataset, watch(rule, trial))
            comparison.trials.append(result)
            if result.status == "interrupted":
                comparison.status = "interrupted"
                return
            _write(comparison, folder)


def _write(comparison: Comparison, folder: ResultsFolder) -> None:
    """Write what there is, over what this run wrote before."""
    _note(comparison.files, folder.write_results(comparison.to_dict()))


def _draw(comparison: Comparison, folder: ResultsFolder) -> None:
    """Draw the learning curves and the angles of the epochs there are."""
    plan = comparison.plan
    if not any(result.epochs for result in comparison.trials):
        return
    title = _title(comparison)
    curves = draw_learning_curves(plan.rules, comparison.trials, title, comparison.error_unit)
    angles = draw_angles(plan.rules, comparison.trials, title)
    for name, image in ((CURVES_NAME, curves), (ANGLES_NAME, angles)):
        _note(comparison.files, folder.write_bytes(name, image))


def _title(comparison: Comparison) -> str:
    """Heading of the images."""
    plan = comparison.plan
    trials = f"{plan.trials} trial{'s' if plan.trials > 1 else ''}"
    ending = ", interrupted" if comparison.status == "interrupted" else ""
    return f"{plan.data}, {plan.network}, {trials}{ending}"


def _note(files: list[Path], path: Path) -> None:
    """Remember a file that was written."""
    if path not in files:
        files.append(path)
