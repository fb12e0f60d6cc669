"""The main job: the same network and data under several rules, trial by trial."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from feedalign_lab.cost import CostRecord, measure_cost
from feedalign_lab.data.dataset import Dataset, DatasetFacts
from feedalign_lab.data.trivial import trivial_errors
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.errors import DivergedError
from feedalign_lab.learner import Learner, LearnerSpec, loss_name, make_learner
from feedalign_lab.models import NetworkFacts, build_network, network_facts
from feedalign_lab.models.transfer import Features, features_of, freeze_features
from feedalign_lab.plan import BASELINE, Plan
from feedalign_lab.plots import draw_angles, draw_learning_curves
from feedalign_lab.records import EpochRecord, RuleSummary, Spread, TrialResult, spread, summarize
from feedalign_lab.results import ANGLES_NAME, CURVES_NAME, WEIGHTS_NAME, ResultsFolder
from feedalign_lab.seeding import stream_seed
from feedalign_lab.training import run_trial
from feedalign_lab.transfer import train_features, untrained_features

_RESULTS_FORMAT = 1

OnEpoch = Callable[[EpochRecord], None]
Watch = Callable[[str, int, int], OnEpoch]
"""Told the rule, number and epochs of each trial before it starts; gives what to call after each epoch."""


@dataclass
class Comparison:
    """A comparison under way or done; everything in it can be read at any time.

    Attributes:
        plan: What is compared.
        dataset: What the data set consists of.
        network: What the network consists of.
        error_unit: Unit of the test error, "%" or "mean squared error".
        trivial: Test errors of predictors that learn nothing, over the trials' splits.
        environment: Versions and machine.
        status: "running", "finished" or "interrupted".
        cost: Step time and memory per rule.
        features: How the convolutions of each trial were trained, where they are transferred.
        trials: Results so far, trial by trial and in each by rule.
        files: What was written.
    """

    plan: Plan
    dataset: DatasetFacts
    network: NetworkFacts
    error_unit: str
    trivial: Mapping[str, Spread]
    environment: Environment
    status: Literal["running", "finished", "interrupted"] = "running"
    cost: tuple[CostRecord, ...] = ()
    features: list[TrialResult] = field(default_factory=list)
    trials: list[TrialResult] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def summaries(self) -> tuple[RuleSummary, ...]:
        """One summary per rule, in the order of the plan."""
        return tuple(summarize(rule, self.trials) for rule in self.plan.rules)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested containers for a JSON file."""
        streams: tuple[Literal["weights", "feedback", "order", "dropout", "classifier", "split"], ...] = (
            "weights", "feedback", "order", "dropout", "classifier", "split",
        )  # fmt: skip
        return {
            "format": _RESULTS_FORMAT,
            "status": self.status,
            "config": asdict(self.plan),
            "data": self.dataset,
            "network": self.network,
            "loss": loss_name(self.plan.network, self.dataset.task),
            "optimizer": "Adam",
            "settings": {rule: self.plan.setting(rule) for rule in self.plan.rules},
            "seeds": [
                {stream: stream_seed(self.plan.seed, trial, stream) for stream in streams}
                for trial in range(self.plan.trials)
            ],
            "environment": self.environment,
            "error_unit": self.error_unit,
            "trivial": self.trivial,
            "cost": self.cost,
            "summary": self.summaries(),
            "features": self.features,
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
    learner: Learner | None = None
    try:
        features = _train_features(comparison, 0, dataset, watch)
        learner = _run_trial(comparison, plan.rules[0], 0, dataset, features, watch)
    except DivergedError as error:
        _give_up(comparison, 0, str(error))
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    if comparison.status == "running":
        comparison.status = "finished"
    _write(comparison, folder)
    if learner is not None and comparison.trials[0].status != "diverged":
        learner.handle.remove()
        weights = learner.model.state_dict()
        _note(comparison.files, folder.write(WEIGHTS_NAME, lambda stream: torch.save(weights, stream)))
    _draw(comparison, folder)
    return comparison


def _start(plan: Plan, dataset: Dataset) -> Comparison:
    """An empty comparison, once plan and data are known to go together."""
    plan.schedule.check(dataset, plan.network)
    unit = "%" if dataset.task == "classification" else "mean squared error"
    network = build_network(plan.network, dataset, seed=0)
    if plan.transfer_epochs is not None:
        freeze_features(network, features_of(network))
    facts = dataset.facts(), network_facts(plan.network, network, dataset)
    return Comparison(plan, *facts, unit, _trivial(plan, dataset), describe_environment(dataset.x_train.device))


def _trivial(plan: Plan, dataset: Dataset) -> dict[str, Spread]:
    """What can be told without learning, trial by trial where each has a split of its own."""
    num_splits = plan.trials if dataset.pool is not None else 1
    errors = [trivial_errors(dataset.of_trial(plan.seed, trial)) for trial in range(num_splits)]
    return {what: spread([of_split[what] for of_split in errors]) for what in errors[0]}


def _measure_cost(plan: Plan, dataset: Dataset) -> tuple[CostRecord, ...]:
    """Cost of backprop and the plan's rules, on networks of their own, all on one batch."""
    x = dataset.x_train[: plan.schedule.batch_size]
    y = dataset.encode(dataset.y_train[: plan.schedule.batch_size])
    rules = dict.fromkeys([BASELINE, *plan.rules])
    # Without a learning rate all rules are timed at the same weights, however many steps the timing takes.
    specs = {rule: _at_rest(plan.spec(rule, 0)) for rule in rules}
    features = untrained_features(plan, dataset)
    learners = {rule: make_learner(spec, dataset, features) for rule, spec in specs.items()}
    steps = {rule: _bound_step(learner, x, y) for rule, learner in learners.items()}
    return measure_cost(steps, BASELINE, dataset.x_train.device)


def _at_rest(spec: LearnerSpec) -> LearnerSpec:
    """The same learner with steps of no length."""
    feedback_rate = None if spec.feedback_learning_rate is None else 0.0
    return replace(spec, learning_rate=0.0, feedback_learning_rate=feedback_rate)


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
    for trial in range(comparison.plan.trials):
        try:
            features = _train_features(comparison, trial, dataset, watch)
        except DivergedError as error:
            _give_up(comparison, trial, str(error))
            continue
        for rule in comparison.plan.rules:
            _run_trial(comparison, rule, trial, dataset, features, watch)
            if comparison.status == "interrupted":
                return
            _write(comparison, folder)


def _run_trial(
    comparison: Comparison, rule: str, trial: int, dataset: Dataset, features: Features | None, watch: Watch
) -> Learner:
    """Train one trial of one rule and keep the result."""
    spec, schedule = comparison.plan.spec(rule, trial), comparison.plan.schedule
    dataset = dataset.of_trial(spec.seed, trial)
    learner = make_learner(spec, dataset, features)
    result = run_trial(learner, spec, schedule, dataset, watch(rule, trial, schedule.epochs))
    comparison.trials.append(result)
    if result.status == "interrupted":
        comparison.status = "interrupted"
    return learner


def _train_features(comparison: Comparison, trial: int, dataset: Dataset, watch: Watch) -> Features | None:
    """Train the convolutions of a trial and keep the result; None where nothing is transferred."""
    plan = comparison.plan
    if plan.transfer_epochs is None:
        return None
    on_epoch = watch("convolutions", trial, plan.transfer_epochs)
    result, features = train_features(plan, trial, dataset, on_epoch)
    comparison.features.append(result)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "diverged":
        raise DivergedError(result.message)
    return features


def _give_up(comparison: Comparison, trial: int, reason: str) -> None:
    """Keep, for each rule, that a trial has no convolutions to build on."""
    message = f"the convolutions to transfer could not be trained: {reason}"
    for rule in comparison.plan.rules:
        rate = comparison.plan.setting(rule).learning_rate
        comparison.trials.append(TrialResult(rule, trial, rate, "diverged", f"{rule}: {message}", ()))


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
        if image is not None:
            _note(comparison.files, folder.write_bytes(name, image))


def _title(comparison: Comparison) -> str:
    """Heading of the images."""
    plan = comparison.plan
    trials = f"{plan.trials} trial{'s' if plan.trials > 1 else ''}"
    ending = ", interrupted" if comparison.status == "interrupted" else ""
    return f"{plan.data}, {plan.network}{transfer_remark(plan)}, {trials}{ending}"


def transfer_remark(plan: Plan) -> str:
    """What a title says of transfer learning: nothing where there is none."""
    return "" if plan.transfer_epochs is None else " with transferred convolutions"


def _note(files: list[Path], path: Path) -> None:
    """Remember a file that was written."""
    if path not in files:
        files.append(path)
