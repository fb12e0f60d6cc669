"""Training under one limit of hardware after the other, each at several strengths."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from feedalign_lab.domains import domain_of
from feedalign_lab.environment import describe_environment
from feedalign_lab.errors import CorruptFileError, OutputFolderError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.lockstep import lack_of_lockstep, run_lockstep
from feedalign_lab.plan import Plan
from feedalign_lab.records import TrialResult
from feedalign_lab.results import ResultsFolder, to_json
from feedalign_lab.task import Task, silent
from feedalign_lab.training import Schedule, run_trial

RECORD_FORMAT = 1
CONTROLS = ("backprop", "shallow")
_SECONDS_PER_MINUTE = 60


@dataclass(frozen=True)
class Series:
    """One line of a panel: a rule, and one limit at several strengths.

    Attributes:
        panel: The limit that varies, a name of `parse_limits`.
        rule: Name of the rule.
        values: Its strengths, from the weakest.
        extra: Limits that stay, as text; empty for none.
        label: What the line is called.
        network: Name of the network; empty for that of the plan.
    """

    panel: str
    rule: str
    values: tuple[float, ...]
    extra: str = ""
    label: str = ""
    network: str = ""

    def limits(self, value: float) -> str:
        """The limits of a point, as text."""
        return ",".join(part for part in (f"{self.panel}={value:g}", self.extra) if part)


class Point(NamedTuple):
    """What is trained from all seeds.

    Attributes:
        network: Name of the network.
        rule: Name of the rule.
        limits: As text; empty for none.
    """

    network: str
    rule: str
    limits: str


TANH = "fc2-256"
"""Beside the rectified network: one whose units saturate, with another loss and other rates."""
# What matters most comes first: a run that is ended early has the ends of every panel.
SERIES = (
    Series("error-bits", "dfa", (8, 6, 4, 3, 2, 1)),
    Series("error-ternary", "dfa", (0.003, 0.01, 0.03, 0.1, 0.3)),
    Series("feedback-bits", "dfa", (8, 4, 3, 2, 1)),
    Series("noise", "dfa", (0.1, 0.3, 1, 3, 10)),
    Series("feedback-density", "dfa", (0.5, 0.2, 0.1, 0.03, 0.01)),
    Series("delay", "dfa", (1, 4, 16, 64)),
    Series("error-bits", "dfa", (8, 4, 3, 2, 1), label="dfa, tanh units", network=TANH),
    Series("error-ternary", "dfa", (0.003, 0.03, 0.1, 0.3), label="dfa, tanh units", network=TANH),
    Series("error-bits", "dkp", (8, 4, 2, 1)),
    Series("noise", "dkp", (0.3, 1, 3, 10)),
    Series("error-bits", "dfa", (4, 2, 1), "error-scale=row", "dfa, range of each sample"),
    Series("error-bits", "dfa", (4, 2, 1), "error-rounding=stochastic", "dfa, rounded at random"),
    Series("feedback-bits", "dkp", (8, 3, 2, 1)),
    Series("error-ternary", "dkp", (0.003, 0.03, 0.3)),
    Series("delay", "dkp", (1, 16, 64)),
)


@dataclass(frozen=True)
class SweepPlan:
    """What is trained.

    Attributes:
        data: Name of the data set.
        network: Name of the network of lines that name none.
        epochs: Passes over the training data.
        trials: Seeds of each point.
        series: The lines.
    """

    data: str = "fashion-mnist"
    network: str = "mlp2-256"
    epochs: int = 5
    trials: int = 3
    series: tuple[Series, ...] = SERIES

    def rules(self) -> tuple[str, ...]:
        """Every rule that is limited."""
        return tuple(dict.fromkeys(line.rule for line in self.series))

    def networks(self) -> tuple[str, ...]:
        """Every network, the plan's own first."""
        return tuple(dict.fromkeys([self.network, *(line.network or self.network for line in self.series)]))

    def points(self) -> list[Point]:
        """What is trained, without limits and then with them."""
        pairs = dict.fromkeys((line.network or self.network, line.rule) for line in self.series)
        controls = [Point(self.network, rule, "") for rule in CONTROLS]
        limited = (
            Point(line.network or self.network, line.rule, line.limits(value))
            for line in self.series
            for value in line.values
        )
        return list(dict.fromkeys([*controls, *(Point(*pair, "") for pair in pairs), *limited]))

    def config(self) -> dict[str, Any]:
        """What must be the same for points of two runs to stand in one record."""
        named = {"data": self.data, "network": self.network, "epochs": self.epochs, "trials": self.trials}
        plain: dict[str, Any] = json.loads(to_json({**named, "networks": {n: self._of(n) for n in self.networks()}}))
        return plain

    def _of(self, network: str) -> dict[str, Any]:
        domain = domain_of(self.data)
        run = domain.run_setting(self.data, network)
        settings = {rule: asdict(domain.rule_setting(self.data, network, rule)) for rule in (*CONTROLS, *self.rules())}
        return {"batch_size": run.batch_size, "lr_decay": run.lr_decay, "inputs": run.inputs, "settings": settings}


@dataclass
class Record:
    """What was trained so far.

    Attributes:
        config: Of `SweepPlan.config`.
        environment: Where.
        points: Each a mapping for JSON.
    """

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    points: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def opened(cls, path: Path, plan: SweepPlan) -> "Record":
        """The record of a file, to go on with; an empty one where there is no file.

        Args:
            path: The file.
            plan: What is to be trained.

        Returns:
            The record.

        Raises:
            OutputFolderError: The file holds points of another plan.
            CorruptFileError: The file is no such record.
        """
        config = plan.config()
        if not path.exists():
            return cls(config, describe_environment(torch.device("cpu")))
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            record = cls(held["config"], held["environment"], list(held["points"]))
            known = [(*_key(point), point["accuracy"]) for point in record.points]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptFileError(
                f"{path} is no record of limits ({type(error).__name__}: {error}): name another file with --out."
            ) from error
        if record.config != config:
            differing = [name for name in config if record.config.get(name) != config[name]]
            raise OutputFolderError(
                f"{path} holds {len(known)} points that were trained otherwise ({', '.join(differing)} differ), and "
                "was left as it is: name another file with --out."
            )
        return record

    def missing(self, plan: SweepPlan) -> list[Point]:
        """The points of a plan that are not there yet."""
        done = {_key(point) for point in self.points}
        return [point for point in plan.points() if point not in done]

    def write(self, path: Path) -> None:
        """Write the file in one piece."""
        content = {"format": RECORD_FORMAT, **asdict(self)}
        ResultsFolder(path.parent).write_bytes(path.name, to_json(content).encode())


def _key(point: Mapping[str, Any]) -> Point:
    return Point(point["network"], point["rule"], point["limits"])


Say = Callable[[str], object]


def run_sweep(plan: SweepPlan, path: Path, say: Say, minutes: float | None = None) -> Record:
    """Train what a record lacks, and write it after every point.

    Ctrl-C, or the end of the time, keeps the points that are done; the next run goes on with the others.

    Args:
        plan: What to train.
        path: The file of the record.
        say: Told of every point.
        minutes: After which no point is begun any more; None: all are trained.

    Returns:
        The record.

    Raises:
        OutputFolderError: The file holds points of another plan.
        CorruptFileError: The file is no such record.
    """
    record = Record.opened(path, plan)
    missing, start = record.missing(plan), time.monotonic()
    tasks: dict[str, Task] = {}
    for number, point in enumerate(missing):
        seconds = time.monotonic() - start
        if minutes is not None and seconds > minutes * _SECONDS_PER_MINUTE:
            say(f"{len(missing) - number} points are left, and the {minutes:g} minutes are over: run again to go on")
            break
        if point.network not in tasks:
            tasks[point.network] = load(plan, point.network)
        results = train(tasks[point.network], plan, point)
        if any(result.status == "interrupted" for result in results):
            say(f"interrupted; {len(record.points)} points are kept in {path}")
            break
        record.points.append(point_of(point, results))
        record.write(path)
        per_point = (time.monotonic() - start) / (number + 1)
        left = per_point * (len(missing) - number - 1) / _SECONDS_PER_MINUTE
        found = ", ".join("diverged" if a is None else f"{a:.2f}" for a in record.points[-1]["accuracy"])
        what = f"{point.network} {point.rule} {point.limits or 'without limits'}"
        say(f"{number + 1} of {len(missing)}: {what}: {found} %; {left:.0f} minutes left")
    return record


def load(plan: SweepPlan, network: str) -> Task:
    """The data of a plan and a network.

    Args:
        plan: What is trained.
        network: Name of the network.
    """
    domain = domain_of(plan.data)
    return domain.load(_plan_of(plan, Point(network, "dfa", "")), torch.device("cpu"), silent)


def _plan_of(plan: SweepPlan, point: Point) -> Plan:
    """The lab's own plan of one point."""
    run = domain_of(plan.data).run_setting(plan.data, point.network)
    schedule = Schedule(plan.epochs, run.batch_size, lr_decay=run.lr_decay, angles_every=plan.epochs)
    made = Plan(plan.data, point.network, (point.rule,), plan.trials, schedule, run.inputs, clip=run.clip)
    return replace(made, limits=point.limits) if point.limits else made


def train(task: Task, plan: SweepPlan, point: Point) -> Sequence[TrialResult]:
    """Train all trials of one point: in lock-step, or one after the other where that cannot be.

    Args:
        task: Of `load`.
        plan: What is trained.
        point: With which limits.

    Returns:
        The results.
    """
    lab = _plan_of(plan, point)
    specs = [lab.spec(point.rule, trial) for trial in range(plan.trials)]
    if lack_of_lockstep(task, specs[0]) is None:
        return run_lockstep(task, specs, lab.schedule)
    return list(_one_by_one(task, specs, lab.schedule))


def _one_by_one(task: Task, specs: Sequence[LearnerSpec], schedule: Schedule) -> Iterator[TrialResult]:
    for spec in specs:
        result = run_trial(task.trial(spec), spec, schedule)
        yield result
        if result.status == "interrupted":
            return


def point_of(point: Point, results: Sequence[TrialResult]) -> dict[str, Any]:
    """What is kept of a point.

    Args:
        point: The point.
        results: Of its trials.

    Returns:
        Accuracy on the test part after the last epoch in percent, None for a trial that diverged; and the angle of each
        layer's delta to backprop's then, where it has one.
    """
    last = [None if result.status == "diverged" else result.epochs[-1] for result in results]
    accuracy = [None if epoch is None else round(100 - epoch.test_score, 2) for epoch in last]
    angles = [
        None if epoch is None else {a.layer: round(a.delta, 1) for a in epoch.alignment if math.isfinite(a.delta)}
        for epoch in last
    ]
    seconds = sum(epoch.seconds for result in results for epoch in result.epochs)
    return {**point._asdict(), "accuracy": accuracy, "angles": angles, "seconds": round(seconds, 1)}
