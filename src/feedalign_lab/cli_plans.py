"""From what a user typed to plans: defaults where nothing was said, refusals of what means nothing."""

import math
from dataclasses import replace
from typing import TypeVar, cast, get_args

from feedalign_lab.choices import Learnable, UnderLimits, parse_rule_names
from feedalign_lab.data.dataset import Inputs
from feedalign_lab.domains import CHOOSABLE, Domain, domain_of, refuse_foreign_network
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.limits import parse_limits
from feedalign_lab.options import RunOptions, TuneOptions
from feedalign_lab.papers.setting import RunSetting
from feedalign_lab.plan import Plan
from feedalign_lab.training import Schedule

Value = TypeVar("Value")


def case_of(options: RunOptions) -> Learnable:
    """What is to be learned by what.

    Args:
        options: What the user typed.

    Returns:
        The case.

    Raises:
        SettingError: An option means nothing for such data, the network is for other data, or a limit has no meaning.
        UnknownNameError: There are no such data, no such network, or no such limit.
    """
    domain = domain_of(options.data)
    for name in CHOOSABLE:
        value = getattr(options, name)
        if value is not None and value is not False and name not in domain.options:
            raise _means_nothing(name, domain)
    if options.transfer_epochs is not None and not options.transfer:
        raise SettingError("--transfer-epochs says how long to train what is transferred: add --transfer.")
    network = _network(options, domain)
    refuse_foreign_network(domain, options.data, network)
    case = domain.case(options.data, network, is_transfer=options.transfer)
    return case if options.limits is None else UnderLimits(case, parse_limits(options.limits))


def plan_of(options: RunOptions, rules: tuple[str, ...], trials: int) -> Plan:
    """The plan of a run, with the defaults of network and data where nothing was said.

    Args:
        options: What the user typed.
        rules: Names of the rules.
        trials: Runs per rule.

    Returns:
        The plan.

    Raises:
        SettingError: A value is out of range.
        UnknownNameError: A name stands for nothing.
    """
    domain = domain_of(options.data)
    network = _network(options, domain)
    defaults = domain.run_setting(options.data, network)
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
        weight_decay=options.weight_decay,
        dropout=options.dropout,
        clip=_clip(options, defaults),
        gamma=options.gamma,
        limits=options.limits,
        seed=options.seed,
        transfer_epochs=_given(options.transfer_epochs, schedule.epochs) if options.transfer else None,
    )


def plans_of_grid(options: TuneOptions) -> list[Plan]:
    """The plans of a search.

    Args:
        options: What the user typed.

    Returns:
        A plan for each network and batch size.

    Raises:
        SettingError: There is nothing to try, an option means nothing for such data, or a value is out of range.
        UnknownNameError: A name stands for nothing.
    """
    domain = domain_of(options.data)
    given = {
        "batch_size": ("batch_sizes", options.batch_sizes),
        "weight_decay": ("weight_decays", options.weight_decays),
        "dropout": ("dropouts", options.dropouts),
        "clip": ("clip", options.clip),
    }
    for meaning, (name, value) in given.items():
        if value is not None and value != () and meaning not in domain.options:
            raise _means_nothing(name, domain)
    asked = options.networks or domain.default_network(options.data)
    networks = dict.fromkeys(part.strip() for part in asked.split(",") if part.strip())
    if not networks or not options.rates:
        raise SettingError("There is nothing to try: name a network with --networks and a rate with --rates.")
    plans = []
    for network in networks:
        refuse_foreign_network(domain, options.data, network)
        rules = parse_rule_names(options.rules, domain.case(options.data, network))
        defaults = domain.run_setting(options.data, network)
        epochs = _given(options.epochs, defaults.epochs)
        for batch_size in options.batch_sizes or (defaults.batch_size,):
            # Angles, which no choice is made by, are measured once at the end.
            schedule = Schedule(epochs, batch_size, lr_decay=defaults.lr_decay, angles_every=max(1, epochs))
            plan = Plan(options.data, network, rules, options.trials, schedule, defaults.inputs)
            plans.append(replace(plan, clip=_clip(options, defaults), seed=options.seed))
    return plans


def _network(options: RunOptions, domain: Domain) -> str:
    """The network that was asked for, or the data's own."""
    return options.network or domain.default_network(options.data)


def _means_nothing(name: str, domain: Domain) -> SettingError:
    """The refusal of an option that a domain has no use for."""
    return SettingError(f"--{name.replace('_', '-')} means nothing for {domain.what}: leave it out.")


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
