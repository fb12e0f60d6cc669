"""What each command does."""

import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from feedalign.errors import FeedalignError
from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.checkpoints.keeper import CheckpointFolder
from feedalign_lab.choices import left_out, parse_rule_names, refuse_unsuited
from feedalign_lab.cli_check import check_model
from feedalign_lab.cli_machine import cpu_threads, device_named
from feedalign_lab.cli_output import print_table
from feedalign_lab.cli_plans import case_of, plan_of, plans_of_grid
from feedalign_lab.cli_resume import Asked, checkpoints_of, open_folder, status_of_ended, way_on
from feedalign_lab.comparison import run_comparison, run_training
from feedalign_lab.comparison_files import Comparison
from feedalign_lab.domains import domain_of
from feedalign_lab.errors import SettingError
from feedalign_lab.language.options import LanguageOptions
from feedalign_lab.options import (
    CheckOptions,
    CompareOptions,
    DescribeOptions,
    MonitorOptions,
    Options,
    RulesOptions,
    RunOptions,
    TrainOptions,
    TuneOptions,
)
from feedalign_lab.papers.options import PapersOptions
from feedalign_lab.plan import Plan
from feedalign_lab.progress import TrainingProgress
from feedalign_lab.report import comparison_table, left_out_sentence, rule_facts, rules_table, weights_remark
from feedalign_lab.results import TUNING_NAME, WEIGHTS_NAME, ResultsFolder, to_json
from feedalign_lab.task import Task, silent
from feedalign_lab.termination import ended_as_by_hand
from feedalign_lab.training import Schedule
from feedalign_lab.tuning import Grid, GridSearch, run_search, start_search
from feedalign_lab.tuning_report import tuning_table

_EXIT_OK, _EXIT_DIVERGED, _EXIT_USER_ERROR, _EXIT_INTERRUPTED = 0, 1, 2, 130


def run(options: Options) -> int:
    """Run one command; what the user got wrong is said in one line on stderr.

    Args:
        options: What the command line was parsed to.

    Returns:
        The exit status.
    """
    try:
        with ended_as_by_hand():
            return _run(options)
    except FeedalignError as error:
        print(f"feedalign: {error}", file=sys.stderr)
        return _EXIT_USER_ERROR


def _run(options: Options) -> int:
    match options:
        case CompareOptions():
            return _compare(options)
        case TrainOptions():
            return _train(options)
        case TuneOptions():
            return _tune(options)
        case DescribeOptions():
            return _describe(options)
        case CheckOptions():
            return check_model(options)
        case RulesOptions():
            return _rules(options)
        case LanguageOptions():
            return _language(options)
        case BenchOptions() | MonitorOptions() | PapersOptions():
            return _run_elsewhere(options)


def _run_elsewhere(options: BenchOptions | MonitorOptions | PapersOptions) -> int:
    """Commands of which each imports much that no other needs."""
    match options:
        case BenchOptions():
            from feedalign_lab.cli_bench import bench

            return bench(options)
        case MonitorOptions():
            from feedalign_lab.cli_monitor import show_monitor

            return show_monitor(options)
        case PapersOptions():
            from feedalign_lab.cli_papers import run_papers

            return run_papers(options)


def _compare(options: CompareOptions) -> int:
    """Train every rule and show them side by side."""
    case = case_of(options)
    plan = plan_of(options, parse_rule_names(options.rules, case), options.trials)
    plan = replace(plan, left_out=left_out(options.rules, case))
    device = device_named(options.device)
    asked = Asked("compare", asdict(plan))
    if (status := status_of_ended(options, asked)) is not None:
        return status
    with (
        open_folder(options, _folder_path(options, plan), asked) as folder,
        cpu_threads(options.threads),
        TrainingProgress(plan.num_epochs(), is_shown=not options.json) as progress,
    ):
        task = _load(plan, device, progress)
        decides = _decides("compare", plan, task, device)
        checkpoints = checkpoints_of(options, folder, decides, progress.say)
        comparison = run_comparison(plan, task, folder, progress.watch, progress.tell, checkpoints)
    return _report(comparison, as_json=options.json, ending=way_on(folder.path))


def _train(options: TrainOptions) -> int:
    """Train one rule and save the weights."""
    plan = plan_of(options, parse_rule_names(options.rule, case_of(options)), trials=1)
    if len(plan.rules) != 1:
        raise SettingError("train takes a single rule: use compare for several.")
    device = device_named(options.device)
    asked = Asked("train", asdict(plan))
    if (status := status_of_ended(options, asked)) is not None:
        return status
    with (
        open_folder(options, _folder_path(options, plan), asked) as folder,
        cpu_threads(options.threads),
        TrainingProgress(plan.num_epochs(), is_shown=not options.json) as progress,
    ):
        task = _load(plan, device, progress)
        decides = _decides("train", plan, task, device)
        checkpoints = checkpoints_of(options, folder, decides, progress.say)
        comparison = run_training(plan, task, folder, progress.watch, progress.tell, checkpoints)
    return _report(comparison, as_json=options.json, ending=way_on(folder.path))


def _decides(command: str, plan: Plan, task: Task, device: torch.device) -> dict[str, Any]:
    """Everything that decides what a run comes to: two commands may have the same plan."""
    return {**asdict(plan), "command": command, "device": str(device), "data_facts": dict(task.data_facts())}


def _load(plan: Plan, device: torch.device, progress: TrainingProgress) -> Task:
    """Load what a plan names, and say how it was read."""
    task = domain_of(plan.data).load(plan, device, progress.tell)
    _introduce(task, progress)
    return task


def _introduce(task: Task, progress: TrainingProgress) -> None:
    """Say how data were read."""
    for sentence in task.reading():
        progress.say(sentence)


def _tune(options: TuneOptions) -> int:
    """Search the grid and say what won."""
    device = device_named(options.device)
    grid = Grid(options.rates, options.weight_decays, options.dropouts)
    search = start_search(plans_of_grid(options), grid, device)
    asked = Asked("tune", search.config(), TUNING_NAME)
    if (status := status_of_ended(options, asked)) is not None:
        return status
    path = options.out or Path("results") / f"tune-{_in_a_path(options.data)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with (
        open_folder(options, path, asked) as folder,
        cpu_threads(options.threads),
        TrainingProgress(search.num_epochs(), is_shown=not options.json) as progress,
    ):
        written = _search(search, options, device, folder, progress)
    if options.json:
        print(to_json(search.to_dict()), end="")
    else:
        print_table(tuning_table(search))
        print(f"wrote {written}")
    if search.status == "interrupted":
        print(f"feedalign: interrupted; what was done is kept.{way_on(folder.path)}", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_OK


def _search(
    search: GridSearch, options: TuneOptions, device: torch.device, folder: ResultsFolder, progress: TrainingProgress
) -> Path:
    """Search, or go on with it, and write what came of it after every candidate."""
    saved: list[CheckpointFolder] = []

    def begin(task: Task) -> CheckpointFolder:
        _introduce(task, progress)
        grids = {"plans": search.plans, "grid": search.grid}
        decides = {**grids, "device": str(device), "data_facts": dict(task.data_facts()), "command": "tune"}
        saved.append(checkpoints_of(options, folder, decides, progress.say))
        return saved[0]

    def write() -> Path:
        return folder.write_bytes(TUNING_NAME, to_json(search.to_dict()).encode())

    run_search(search, device, progress.watch, write, progress.tell, begin)
    for checkpoints in saved:
        search.environment["resumed"] = checkpoints.resumed()
    written = write()
    if search.status == "finished":
        for checkpoints in saved:
            checkpoints.remove()
    return written


def _describe(options: DescribeOptions) -> int:
    """Show how a rule sits on a network."""
    domain = domain_of(options.data)
    network = options.network or domain.default_network(options.data)
    refuse_unsuited(options.rule, domain.case(options.data, network))
    defaults = domain.run_setting(options.data, network)
    plan = Plan(options.data, network, (options.rule,), 1, Schedule(1, defaults.batch_size), defaults.inputs)
    trial = domain.load(plan, torch.device("cpu"), silent).trial(plan.spec(options.rule, 0))
    # One step, so that the table can say which points fired.
    trial.step()
    descriptions = [handle.describe() for handle in trial.handles()]
    if options.json:
        facts = [description.to_dict() for description in descriptions]
        print(to_json(facts if len(facts) > 1 else facts[0]))
    else:
        print(*descriptions, sep="\n\n")
    return _EXIT_OK


def _rules(options: RulesOptions) -> int:
    """List the rules."""
    if options.json:
        print(to_json(rule_facts()))
    else:
        print_table(rules_table())
    return _EXIT_OK


def _language(options: LanguageOptions) -> int:
    """Train Transformers on text."""
    from feedalign_lab.cli_language import train_language

    device = device_named(options.device)
    with cpu_threads(options.threads):
        return train_language(options, device)


def _folder_path(options: RunOptions, plan: Plan) -> Path:
    """Where the results go."""
    if options.out is not None:
        return options.out
    return Path("results") / f"{_in_a_path(plan.data)}-{plan.network}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _in_a_path(data: str) -> str:
    """The data as part of a folder's name: of a path only its end."""
    prefix, colon, path = data.partition(":")
    return f"{prefix}-{Path(path).stem}" if colon else data


def _report(comparison: Comparison, *, as_json: bool, ending: str = "") -> int:
    """Print the outcome: figures on stdout, what went wrong on stderr."""
    if as_json:
        print(to_json(comparison.to_dict()), end="")
        if missing := left_out_sentence(comparison.plan.left_out):
            print(f"feedalign: {missing}", file=sys.stderr)
    else:
        print_table(comparison_table(comparison))
        for path in comparison.files:
            print(f"wrote {path}{weights_remark(comparison) if path.name == WEIGHTS_NAME else ''}")
    diverged = [result for result in comparison.trials if result.status == "diverged"]
    for result in diverged:
        print(f"feedalign: trial {result.trial + 1}: {result.message}", file=sys.stderr)
    if comparison.status == "interrupted":
        print(f"feedalign: interrupted; what was done is kept.{ending}", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_DIVERGED if diverged else _EXIT_OK
