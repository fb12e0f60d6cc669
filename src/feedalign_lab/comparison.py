"""The main job: the same network and data under several rules, trial by trial."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from feedalign_lab.checkpoints.keeper import CONVOLUTIONS, TRAINING, CheckpointFolder, Checkpoints
from feedalign_lab.cost import CostRecord, measure_cost
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.errors import DivergedError
from feedalign_lab.kept_weights import KeptWeights
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.plan import BASELINE, Plan
from feedalign_lab.plots import draw_angles, draw_learning_curves
from feedalign_lab.records import RuleSummary, Spread, TrialResult, Watch, spread, summarize
from feedalign_lab.results import ANGLES_NAME, CURVES_NAME, WEIGHTS_NAME, ResultsFolder
from feedalign_lab.running import dropout_stream
from feedalign_lab.seeding import stream_seed
from feedalign_lab.task import Metric, ResultFile, Task, Tell, Trial, silent
from feedalign_lab.training import run_trial

RESULTS_FORMAT = 2


@dataclass
class Comparison:
    """A comparison under way or done; everything in it can be read at any time.

    Attributes:
        plan: What is compared.
        task: The data and the network.
        trivial: The metric of predictors that learn nothing, over the trials' splits.
        environment: Versions and machine.
        status: "running", "finished" or "interrupted".
        cost: Step time and memory per rule.
        features: How the convolutions of each trial were trained, where they are transferred.
        trials: Results so far, trial by trial and in each by rule.
        files: What was written.
        result_files: Names of what the task's trials left behind, among `files`.
        weights_epoch: Epoch of the weights that were saved; None where none were.
    """

    plan: Plan
    task: Task
    trivial: Mapping[str, Spread]
    environment: Environment
    status: Literal["running", "finished", "interrupted"] = "running"
    cost: tuple[CostRecord, ...] = ()
    features: list[TrialResult] = field(default_factory=list)
    trials: list[TrialResult] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    result_files: list[str] = field(default_factory=list)
    weights_epoch: int | None = None

    @property
    def metric(self) -> Metric:
        """What trials are judged by."""
        return self.task.metric

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation part that an epoch can be chosen on."""
        return any(epoch.validation_score is not None for result in self.trials for epoch in result.epochs)

    def summaries(self) -> tuple[RuleSummary, ...]:
        """One summary per rule, in the order of the plan."""
        return tuple(summarize(rule, self.trials, self.metric.better) for rule in self.plan.rules)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested containers for a JSON file."""
        task, plan = self.task, self.plan
        return {
            "format": RESULTS_FORMAT,
            "status": self.status,
            "config": asdict(plan),
            "data": dict(task.data_facts()),
            "remarks": list(task.remarks()),
            "network": dict(task.network_facts()),
            "loss": task.loss,
            "optimizer": task.optimizer,
            "settings": {rule: plan.setting(rule) for rule in plan.rules},
            "seeds": [
                {stream: stream_seed(plan.seed, trial, stream) for stream in task.streams()}
                for trial in range(plan.trials)
            ],
            "environment": self.environment,
            "metric": task.metric,
            "other_metrics": task.others,
            "judged_at": task.judged_at,
            "trivial": self.trivial,
            "cost": self.cost,
            "summary": self.summaries(),
            "result_files": self.result_files,
            "weights_epoch": self.weights_epoch,
            "features": self.features,
            "trials": self.trials,
        }


def run_comparison(plan: Plan, task: Task, folder: ResultsFolder, watch: Watch, tell: Tell = silent) -> Comparison:
    """Measure the cost of the rules, train every trial of each, and write results as they come.

    Ctrl-C ends the comparison early; what was done is kept, written and marked as interrupted. A second one ends the
    writing of pictures, too.

    Args:
        plan: What to compare.
        task: The data and the network of the plan, on the device to train on.
        folder: Where `results.json` and the images go.
        watch: Told of every trial and epoch.
        tell: Told how far something long is.

    Returns:
        The comparison.
    """
    comparison = _start(plan, task, folder)
    try:
        comparison.cost = _measure_cost(plan, task)
        _run_trials(comparison, folder, watch, tell)
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    if comparison.status == "running":
        comparison.status = "finished"
    _write(comparison, folder)
    _draw(comparison, folder)
    return comparison


def run_training(
    plan: Plan,
    task: Task,
    folder: ResultsFolder,
    watch: Watch,
    tell: Tell = silent,
    checkpoints: CheckpointFolder | None = None,
) -> Comparison:
    """Train one trial of one rule and save the weights of the plain network beside the results.

    The weights are those of the network alone, without feedback, after the epoch that the task is judged at; they load
    into the same network with `torch.load(path, weights_only=True)`. A trial that diverged saves none. Checkpoints are
    removed once the trial has ended by itself and everything is written.

    Args:
        plan: What to train, with a single rule and a single trial.
        task: The data and the network of the plan, on the device to train on.
        folder: Where `results.json`, `weights.pt` and the images go.
        watch: Told of the trial and its epochs.
        tell: Told how far something long is.
        checkpoints: What the training is saved to and goes on from.

    Returns:
        The comparison of that one rule with nothing else; its cost is not measured.
    """
    comparison = _start(plan, task, folder)
    trial: Trial | None = None
    kept: KeptWeights | None = None
    try:
        _prepare(comparison, 0, watch, None if checkpoints is None else checkpoints.of(CONVOLUTIONS))
        kept = KeptWeights(task.judged_at, task.metric.better)
        of_trial = None if checkpoints is None else checkpoints.of(TRAINING)
        trial = _run_trial(comparison, plan.rules[0], 0, watch, tell, of_trial, kept)
    except DivergedError as error:
        _give_up(comparison, 0, str(error))
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    if comparison.status == "running":
        comparison.status = "finished"
    if checkpoints is not None:
        comparison.environment["resumed"] = checkpoints.resumed()
    _write(comparison, folder)
    if trial is not None and kept is not None:
        _keep_trial(comparison, trial, kept, folder)
    _draw(comparison, folder)
    if checkpoints is not None and comparison.status == "finished":
        checkpoints.remove()
    return comparison


def _keep_trial(comparison: Comparison, trial: Trial, kept: KeptWeights, folder: ResultsFolder) -> None:
    """Write what a trial that did not diverge leaves behind: files, where it has been trained at all, and weights."""
    status = comparison.trials[0].status
    try:
        if _has_something_to_show(comparison.trials[0]):
            _write_result_files(comparison, trial.results(), folder)
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    finally:
        if status != "diverged":
            for handle in trial.handles():
                handle.remove()
            weights = kept.weights(trial.model)
            comparison.weights_epoch = kept.epoch
            _note(comparison.files, folder.write(WEIGHTS_NAME, lambda stream: torch.save(weights, stream)))
            _write_result_files(comparison, comparison.task.with_weights(), folder)
    _write(comparison, folder)


def _start(plan: Plan, task: Task, folder: ResultsFolder) -> Comparison:
    """An empty comparison, in a folder without what an earlier one left behind."""
    folder.remove_result_files()
    return Comparison(plan, task, _trivial(plan, task), describe_environment(task.device))


def _trivial(plan: Plan, task: Task) -> dict[str, Spread]:
    """What can be told without learning, trial by trial where each has a split of its own."""
    scores = [task.trivial(plan.seed, trial) for trial in range(plan.trials if task.is_redrawn else 1)]
    return {what: spread([of_split[what] for of_split in scores]) for what in scores[0]}


def _measure_cost(plan: Plan, task: Task) -> tuple[CostRecord, ...]:
    """Cost of backprop and the plan's rules, on networks of their own, all on one batch."""
    rules = dict.fromkeys([BASELINE, *plan.rules])
    # Without a learning rate all rules are timed at the same weights, however many steps the timing takes.
    trials = {rule: task.trial(_at_rest(plan.spec(rule, 0))) for rule in rules}
    with dropout_stream(stream_seed(plan.seed, 0, "dropout"), task.device):
        return measure_cost({rule: trial.step for rule, trial in trials.items()}, BASELINE, task.device)


def _at_rest(spec: LearnerSpec) -> LearnerSpec:
    """The same learner with steps of no length."""
    feedback_rate = None if spec.feedback_learning_rate is None else 0.0
    return replace(spec, learning_rate=0.0, feedback_learning_rate=feedback_rate)


def _run_trials(comparison: Comparison, folder: ResultsFolder, watch: Watch, tell: Tell) -> None:
    """Train trial after trial, all rules in each, so that stopping early leaves a fair comparison."""
    for number in range(comparison.plan.trials):
        try:
            _prepare(comparison, number, watch)
        except DivergedError as error:
            _give_up(comparison, number, str(error))
            continue
        for rule in comparison.plan.rules:
            _run_rule(comparison, rule, number, folder, watch, tell)
            if comparison.status == "interrupted":
                break
        if number == 0:
            _write_result_files(comparison, comparison.task.results(), folder)
        if comparison.status == "interrupted":
            return


def _run_rule(comparison: Comparison, rule: str, number: int, folder: ResultsFolder, watch: Watch, tell: Tell) -> None:
    """Train one trial of one rule; write the figures, and what the rule's first trial leaves behind."""
    trial = _run_trial(comparison, rule, number, watch, tell)
    _write(comparison, folder)
    if number == 0 and _has_something_to_show(comparison.trials[-1]):
        files = [(f"{rule}-{name}", write) for name, write in trial.results()]
        _write_result_files(comparison, files, folder)


def _has_something_to_show(result: TrialResult) -> bool:
    """Whether a trial has been trained and is sound, cut short or not."""
    return result.status != "diverged" and bool(result.epochs)


def _run_trial(
    comparison: Comparison,
    rule: str,
    number: int,
    watch: Watch,
    tell: Tell,
    checkpoints: Checkpoints | None = None,
    kept: KeptWeights | None = None,
) -> Trial:
    """Train one trial of one rule and keep the result."""
    spec, schedule = comparison.plan.spec(rule, number), comparison.plan.schedule
    trial = comparison.task.trial(spec)
    trial.tell = tell
    result = run_trial(trial, spec, schedule, watch(rule, number, schedule.epochs), checkpoints, kept)
    comparison.trials.append(result)
    if result.status == "interrupted":
        comparison.status = "interrupted"
    return trial


def _prepare(comparison: Comparison, number: int, watch: Watch, checkpoints: Checkpoints | None = None) -> None:
    """Train what all rules of a trial build upon, and keep the result."""
    result = comparison.task.prepare(number, watch, checkpoints)
    if result is None:
        return
    comparison.features.append(result)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "diverged":
        raise DivergedError(result.message)


def _give_up(comparison: Comparison, trial: int, reason: str) -> None:
    """Keep, for each rule, that a trial has no convolutions to build on."""
    message = f"the convolutions to transfer could not be trained: {reason}"
    for rule in comparison.plan.rules:
        rate = comparison.plan.setting(rule).learning_rate
        comparison.trials.append(TrialResult(rule, trial, rate, "diverged", f"{rule}: {message}", ()))


def _write_result_files(comparison: Comparison, files: Sequence[ResultFile], folder: ResultsFolder) -> None:
    """Write what trials leave behind beside their figures."""
    for name, write in files:
        path = folder.write_result_file(name, write)
        _note(comparison.files, path)
        comparison.result_files += [] if path.name in comparison.result_files else [path.name]


def _write(comparison: Comparison, folder: ResultsFolder) -> None:
    """Write what there is, over what this run wrote before."""
    _note(comparison.files, folder.write_results(comparison.to_dict()))


def _draw(comparison: Comparison, folder: ResultsFolder) -> None:
    """Draw the learning curves and the angles of the epochs there are."""
    plan = comparison.plan
    if not any(result.epochs for result in comparison.trials):
        return
    title = _title(comparison)
    curves = draw_learning_curves(plan.rules, comparison.trials, title, comparison.metric)
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
