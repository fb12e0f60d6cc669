"""What each command does."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar, cast, get_args

import torch

from feedalign.errors import FeedalignError
from feedalign_lab import data
from feedalign_lab.choices import Case, left_out, parse_rule_names, refuse_unsuited
from feedalign_lab.cli_check import check_model
from feedalign_lab.cli_output import print_table
from feedalign_lab.comparison import Comparison, run_comparison, run_training
from feedalign_lab.data.dataset import Inputs
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.language.options import LanguageOptions
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.options import (
    CheckOptions,
    CompareOptions,
    DescribeOptions,
    Options,
    RulesOptions,
    RunOptions,
    TrainOptions,
    TuneOptions,
)
from feedalign_lab.papers.setting import RunSetting
from feedalign_lab.plan import Plan
from feedalign_lab.progress import TrainingProgress
from feedalign_lab.report import comparison_table, left_out_sentence, rule_facts, rules_table
from feedalign_lab.results import TUNING_NAME, ResultsFolder, to_json
from feedalign_lab.settings import data_setting, rule_setting, run_setting
from feedalign_lab.training import Schedule
from feedalign_lab.tuning import run_search, start_search, tuning_table

_EXIT_OK, _EXIT_DIVERGED, _EXIT_USER_ERROR, _EXIT_INTERRUPTED = 0, 1, 2, 130

Value = TypeVar("Value")


def run(options: Options) -> int:
    """Run one command; what the user got wrong is said in one line on stderr.

    Args:
        options: What the command line was parsed to.

    Returns:
        The exit status.
    """
    try:
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
    except FeedalignError as error:
        print(f"feedalign: {error}", file=sys.stderr)
        return _EXIT_USER_ERROR


def _compare(options: CompareOptions) -> int:
    """Train every rule and show them side by side."""
    case = _case(options)
    plan = _plan(options, parse_rule_names(options.rules, case), options.trials)
    plan = replace(plan, left_out=left_out(options.rules, case))
    device = _device(options.device)
    folder = ResultsFolder.open(_folder_path(options, plan), overwrite=options.overwrite)
    with _threads(options.threads):
        dataset = data.load(plan.data, device, inputs=plan.inputs)
        with TrainingProgress(plan.num_epochs(), is_shown=not options.json) as progress:
            comparison = run_comparison(plan, dataset, folder, progress.watch)
    return _report(comparison, as_json=options.json)


def _train(options: TrainOptions) -> int:
    """Train one rule and save the weights."""
    plan = _plan(options, parse_rule_names(options.rule, _case(options)), trials=1)
    if len(plan.rules) != 1:
        raise SettingError("train takes a single rule: use compare for several.")
    device = _device(options.device)
    folder = ResultsFolder.open(_folder_path(options, plan), overwrite=options.overwrite)
    with _threads(options.threads):
        dataset = data.load(plan.data, device, inputs=plan.inputs)
        with TrainingProgress(plan.num_epochs(), is_shown=not options.json) as progress:
            comparison = run_training(plan, dataset, folder, progress.watch)
    return _report(comparison, as_json=options.json)


def _tune(options: TuneOptions) -> int:
    """Search the grid and say what won."""
    device = _device(options.device)
    search = start_search(_grid(options), options.rates, device)
    path = options.out or Path("results") / f"tune-{options.data}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder = ResultsFolder.open(path, overwrite=options.overwrite)

    def write() -> Path:
        return folder.write_bytes(TUNING_NAME, to_json(search.to_dict()).encode())

    with (
        _threads(options.threads),
        TrainingProgress(search.num_epochs(), is_shown=not options.json) as progress,
    ):
        run_search(search, device, progress.watch, write)
    written = write()
    if options.json:
        print(to_json(search.to_dict()), end="")
    else:
        print_table(tuning_table(search))
        print(f"wrote {written}")
    if search.status == "interrupted":
        print("feedalign: interrupted; what was done is kept.", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_OK


def _grid(options: TuneOptions) -> list[Plan]:
    """A plan for each network and batch size."""
    asked = options.networks or data_setting(options.data).network
    networks = dict.fromkeys(part.strip() for part in asked.split(",") if part.strip())
    if not networks or not options.rates:
        raise SettingError("There is nothing to try: name a network with --networks and a rate with --rates.")
    plans = []
    for network in networks:
        rules = parse_rule_names(options.rules, Case.named(options.data, network))
        defaults = run_setting(options.data, network)
        for batch_size in options.batch_sizes or (defaults.batch_size,):
            schedule = Schedule(_given(options.epochs, defaults.epochs), batch_size, lr_decay=defaults.lr_decay)
            plan = Plan(options.data, network, rules, options.trials, schedule, defaults.inputs)
            plans.append(replace(plan, clip=_clip(options, defaults), seed=options.seed))
    return plans


def _describe(options: DescribeOptions) -> int:
    """Show how a rule sits on a network."""
    network = _network(options)
    refuse_unsuited(options.rule, Case.named(options.data, network))
    setting = rule_setting(options.data, network, options.rule)
    spec = LearnerSpec(options.rule, network, setting.learning_rate, setting.weight_init, gamma=setting.gamma)
    dataset = data.load(options.data)
    learner = make_learner(spec, dataset)
    # One step, so that the table can say which points fired.
    learner.step(dataset.x_train[:2], dataset.encode(dataset.y_train[:2]))
    description = learner.handle.describe()
    print(to_json(description.to_dict()) if options.json else description)
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

    device = _device(options.device)
    with _threads(options.threads):
        return train_language(options, device)


def _network(options: RunOptions | DescribeOptions) -> str:
    """The network that was asked for, or the data set's own."""
    return options.network or data_setting(options.data).network


def _case(options: RunOptions) -> Case:
    """What is to be learned by what."""
    if options.transfer_epochs is not None and not options.transfer:
        raise SettingError("--transfer-epochs says how long to train what is transferred: add --transfer.")
    return Case.named(options.data, _network(options), is_transfer=options.transfer)


def _plan(options: RunOptions, rules: tuple[str, ...], trials: int) -> Plan:
    """The plan of a run, with the defaults of network and data set where nothing was said."""
    network = _network(options)
    defaults = run_setting(options.data, network)
    schedule = Schedule(
        epochs=_given(options.epochs, defaults.epochs),
        batch_size=_given(options.batch_size, defaults.batch_size),
        flip=options.flip,
        lr_decay=_given(options.lr_decay, defaults.lr_decay),
        angles_every=_given(options.angles_every, defaults.angles_every),
    )
    return Plan(
        data=options.data,
        network=network,
        rules=rules,
        trials=trials,
        schedule=schedule,
        inputs=_inputs(options, defaults),
        schedule_source=_schedule_source(options, defaults),
        learning_rate=options.lr,
        feedback_learning_rate=options.feedback_lr,
        dropout=options.dropout,
        clip=_clip(options, defaults),
        gamma=options.gamma,
        seed=options.seed,
        transfer_epochs=_given(options.transfer_epochs, schedule.epochs) if options.transfer else None,
    )


def _given(value: Value | None, default: Value) -> Value:
    """What was said, or the default."""
    return default if value is None else value


def _inputs(options: RunOptions, defaults: RunSetting) -> Inputs:
    """The scaling of the inputs."""
    for inputs in get_args(Inputs):
        if options.inputs == inputs:
            return cast("Inputs", inputs)
    if options.inputs is not None:
        raise UnknownNameError("scaling of the inputs", options.inputs, get_args(Inputs))
    return defaults.inputs


def _clip(options: RunOptions | TuneOptions, defaults: RunSetting) -> float | None:
    """The norm to clip at; infinity stands for no clipping."""
    clip = _given(options.clip, defaults.clip)
    return None if clip == math.inf else clip


def _schedule_source(options: RunOptions, defaults: RunSetting) -> str:
    """Where batch size, decay, scaling and clipping come from."""
    asked = {
        "batch size": options.batch_size,
        "decay": options.lr_decay,
        "inputs": options.inputs,
        "clipping": options.clip,
    }
    given = [what for what, value in asked.items() if value is not None]
    if len(given) == len(asked):
        return "given for this run"
    return defaults.source + (f"; given for this run: {', '.join(given)}" if given else "")


def _folder_path(options: RunOptions, plan: Plan) -> Path:
    """Where the results go."""
    if options.out is not None:
        return options.out
    return Path("results") / f"{plan.data}-{plan.network}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _device(name: str) -> torch.device:
    """The device of a name, if this machine has it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"The device {name!r} cannot be used here: choose cpu, or cuda with a GPU.") from error
    return device


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Use so many CPU threads for a while."""
    if number is not None and number < 1:
        raise SettingError(f"The number of threads must be at least 1, not {number}.")
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _report(comparison: Comparison, *, as_json: bool) -> int:
    """Print the outcome: figures on stdout, what went wrong on stderr."""
    if as_json:
        print(to_json(comparison.to_dict()), end="")
        if missing := left_out_sentence(comparison.plan.left_out):
            print(f"feedalign: {missing}", file=sys.stderr)
    else:
        print_table(comparison_table(comparison))
        for path in comparison.files:
            print(f"wrote {path}")
    diverged = [result for result in comparison.trials if result.status == "diverged"]
    for result in diverged:
        print(f"feedalign: trial {result.trial + 1}: {result.message}", file=sys.stderr)
    if comparison.status == "interrupted":
        print("feedalign: interrupted; what was done is kept.", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_DIVERGED if diverged else _EXIT_OK
