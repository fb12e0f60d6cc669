"""What a comparison has come to, and the files that it writes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from feedalign_lab.cost import CostRecord
from feedalign_lab.environment import Environment
from feedalign_lab.plan import Plan
from feedalign_lab.plots import draw_angles, draw_learning_curves
from feedalign_lab.records import RuleSummary, Spread, TrialResult, summarize
from feedalign_lab.results import ANGLES_NAME, CURVES_NAME, ResultsFolder
from feedalign_lab.seeding import stream_seed
from feedalign_lab.task import Metric, ResultFile, Task

RESULTS_FORMAT = 2


@dataclass
class Comparison:
    """A comparison under way or done; everything in it can be read at any time.

    Attributes:
        command: The command that makes it.
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

    command: Literal["compare", "train"]
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
            "command": self.command,
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


def write_result_files(comparison: Comparison, files: Sequence[ResultFile], folder: ResultsFolder) -> None:
    """Write what trials leave behind beside their figures.

    Args:
        comparison: Of the trials; it notes the files.
        files: Their names, and what writes them.
        folder: Where they go.
    """
    for name, write in files:
        note_result_files(comparison, [folder.write_result_file(name, write)])


def note_result_files(comparison: Comparison, paths: Iterable[Path]) -> None:
    """Remember files that trials left behind.

    Args:
        comparison: Of the trials.
        paths: The files.
    """
    for path in paths:
        note_file(comparison.files, path)
        comparison.result_files += [] if path.name in comparison.result_files else [path.name]


def write_figures(comparison: Comparison, folder: ResultsFolder) -> None:
    """Write what there is, over what this run wrote before.

    Args:
        comparison: All that there is.
        folder: Where it goes.
    """
    note_file(comparison.files, folder.write_results(comparison.to_dict()))


def draw_pictures(comparison: Comparison, folder: ResultsFolder) -> None:
    """Draw the learning curves and the angles of the epochs there are.

    Args:
        comparison: All that there is.
        folder: Where the images go.
    """
    plan = comparison.plan
    if not any(result.epochs for result in comparison.trials):
        return
    title = _title(comparison)
    curves = draw_learning_curves(plan.rules, comparison.trials, title, comparison.metric)
    angles = draw_angles(plan.rules, comparison.trials, title)
    for name, image in ((CURVES_NAME, curves), (ANGLES_NAME, angles)):
        if image is not None:
            note_file(comparison.files, folder.write_bytes(name, image))


def _title(comparison: Comparison) -> str:
    """Heading of the images."""
    plan = comparison.plan
    trials = f"{plan.trials} trial{'s' if plan.trials > 1 else ''}"
    ending = ", interrupted" if comparison.status == "interrupted" else ""
    return f"{plan.data}, {plan.network}{transfer_remark(plan)}, {trials}{ending}"


def transfer_remark(plan: Plan) -> str:
    """What a title says of transfer learning: nothing where there is none.

    Args:
        plan: What was compared.
    """
    return "" if plan.transfer_epochs is None else " with transferred convolutions"


def note_file(files: list[Path], path: Path) -> None:
    """Remember a file that was written.

    Args:
        files: Those that are remembered.
        path: The file.
    """
    if path not in files:
        files.append(path)
