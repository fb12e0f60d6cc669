"""The main job: the same network and data under several rules, trial by trial."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from feedalign_lab.checkpoints.keeper import CONVOLUTIONS, TRAINING, CheckpointFolder, Checkpoints
from feedalign_lab.comparison_files import (
    Comparison,
    draw_pictures,
    note_file,
    note_result_files,
    write_figures,
    write_result_files,
)
from feedalign_lab.cost import CostRecord, measure_cost
from feedalign_lab.done_trials import DoneTrial, checkpoints_named, done_trial
from feedalign_lab.environment import describe_environment
from feedalign_lab.errors import DivergedError
from feedalign_lab.kept_weights import KeptWeights
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.plan import BASELINE, Plan
from feedalign_lab.records import Spread, TrialResult, Watch, spread
from feedalign_lab.results import ANGLES_NAME, CURVES_NAME, WEIGHTS_NAME, ResultsFolder
from feedalign_lab.running import dropout_stream
from feedalign_lab.seeding import stream_seed
from feedalign_lab.task import ResultFile, Task, Tell, Trial, silent
from feedalign_lab.training import run_trial


def run_comparison(
    plan: Plan,
    task: Task,
    folder: ResultsFolder,
    watch: Watch,
    tell: Tell = silent,
    checkpoints: CheckpointFolder | None = None,
) -> Comparison:
    """Measure the cost of the rules, train every trial of each, and write results as they come.

    Ctrl-C ends the comparison early; what was done is kept, written and marked as interrupted. A second one ends the
    writing of pictures, too. With checkpoints, a comparison that was cut goes on: trials that are done are taken as
    they are, the one that was under way goes on, and the cost is measured again.

    Args:
        plan: What to compare.
        task: The data and the network of the plan, on the device to train on.
        folder: Where `results.json` and the images go.
        watch: Told of every trial and epoch.
        tell: Told how far something long is.
        checkpoints: What each trial is saved to and goes on from; removed once all have ended.

    Returns:
        The comparison.
    """
    comparison = _start("compare", plan, task, folder, checkpoints)
    try:
        comparison.cost = _measure_cost(plan, task)
        _run_trials(comparison, folder, watch, tell, checkpoints)
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    if comparison.status == "running":
        comparison.status = "finished"
    if checkpoints is not None:
        comparison.environment["resumed"] = checkpoints.resumed()
    _remove_older(folder)
    write_figures(comparison, folder)
    draw_pictures(comparison, folder)
    _forget(comparison, checkpoints)
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
    comparison = _start("train", plan, task, folder, None)
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
    _remove_older(folder)
    write_figures(comparison, folder)
    if trial is not None and kept is not None:
        _keep_trial(comparison, trial, kept, folder)
    draw_pictures(comparison, folder)
    _forget(comparison, checkpoints)
    return comparison


def _keep_trial(comparison: Comparison, trial: Trial, kept: KeptWeights, folder: ResultsFolder) -> None:
    """Write what a trial that did not diverge leaves behind: files, where it has been trained at all, and weights."""
    status = comparison.trials[0].status
    try:
        if _has_something_to_show(comparison.trials[0]):
            write_result_files(comparison, trial.results(), folder)
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    finally:
        if status != "diverged":
            for handle in trial.handles():
                handle.remove()
            weights = kept.weights(trial.model)
            comparison.weights_epoch = kept.epoch
            note_file(comparison.files, folder.write(WEIGHTS_NAME, lambda stream: torch.save(weights, stream)))
            write_result_files(comparison, comparison.task.with_weights(), folder)
    write_figures(comparison, folder)


def _start(
    command: Literal["compare", "train"],
    plan: Plan,
    task: Task,
    folder: ResultsFolder,
    checkpoints: CheckpointFolder | None,
) -> Comparison:
    """An empty comparison, in a folder without what an earlier one left behind, unless it goes on with that."""
    if checkpoints is None or not checkpoints.is_begun():
        folder.remove_result_files()
    return Comparison(command, plan, task, _trivial(plan, task), describe_environment(task.device))


def _remove_older(folder: ResultsFolder) -> None:
    """Remove what an earlier run, or this one before it was cut, has left and this one may not write."""
    folder.remove(WEIGHTS_NAME, CURVES_NAME, ANGLES_NAME)


def _forget(comparison: Comparison, checkpoints: CheckpointFolder | None) -> None:
    """Remove the checkpoints, once all has ended by itself and is written."""
    if checkpoints is not None and comparison.status == "finished":
        checkpoints.remove()


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


def _run_trials(
    comparison: Comparison, folder: ResultsFolder, watch: Watch, tell: Tell, checkpoints: CheckpointFolder | None
) -> None:
    """Train trial after trial, all rules in each, so that stopping early leaves a fair comparison."""
    for number in range(comparison.plan.trials):
        of_rule = {rule: checkpoints_named(checkpoints, rule, number) for rule in comparison.plan.rules}
        done = {rule: found for rule in of_rule if (found := done_trial(of_rule[rule])) is not None}
        of_features = checkpoints_named(checkpoints, CONVOLUTIONS, number)
        try:
            _prepare_rest(comparison, number, done, watch, of_features)
        except DivergedError as error:
            _give_up(comparison, number, str(error))
            continue
        for rule in comparison.plan.rules:
            if rule in done:
                _take(comparison, done[rule], folder, watch)
            else:
                _run_rule(comparison, rule, number, folder, watch, tell, of_rule[rule])
            if comparison.status == "interrupted":
                break
        if number == 0:
            write_result_files(comparison, comparison.task.results(), folder)
        if comparison.status == "interrupted":
            return
        if of_features is not None:
            of_features.remove()


def _run_rule(
    comparison: Comparison,
    rule: str,
    number: int,
    folder: ResultsFolder,
    watch: Watch,
    tell: Tell,
    checkpoints: Checkpoints | None,
) -> None:
    """Train one trial of one rule; write the figures, and what the rule's first trial leaves behind."""
    trial = _run_trial(comparison, rule, number, watch, tell, checkpoints)
    write_figures(comparison, folder)
    files: list[ResultFile] = []
    note = None
    if number == 0 and _has_something_to_show(comparison.trials[-1]):
        files = [(f"{rule}-{name}", write) for name, write in trial.results()]
        note = comparison.task.notes().get(rule)
        write_result_files(comparison, files, folder)
    features = comparison.features[-1] if comparison.features else None
    DoneTrial(comparison.trials[-1], features, tuple(name for name, _ in files), note).keep(checkpoints)


def _take(comparison: Comparison, done: DoneTrial, folder: ResultsFolder, watch: Watch) -> None:
    """Have what a trial came to that was done before, with what it left behind."""
    result = done.result
    watch(result.rule, result.trial, comparison.plan.schedule.epochs)
    comparison.trials.append(result)
    if done.note is not None:
        comparison.task.notes()[result.rule] = done.note
    note_result_files(comparison, [folder.path / name for name in done.files if (folder.path / name).exists()])


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


def _prepare_rest(
    comparison: Comparison, number: int, done: Mapping[str, DoneTrial], watch: Watch, checkpoints: Checkpoints | None
) -> None:
    """Train what all rules of a trial build upon, unless all of them are done."""
    if set(done) != set(comparison.plan.rules):
        _prepare(comparison, number, watch, checkpoints)
    elif (features := done[comparison.plan.rules[0]].features) is not None:
        watch(CONVOLUTIONS, number, comparison.plan.transfer_schedule().epochs)
        comparison.features.append(features)


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
