"""Loss after an epoch against the variance of the gradients that were trained with: one trial is one point.

Source: Bacho & Chu 2024, Fig. 7.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.measure.alignment import weight_gradients
from feedalign.rules import Rule
from feedalign_lab import data, settings
from feedalign_lab.choices import make_rule
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.environment import describe_environment
from feedalign_lab.learner import Learner, LearnerSpec
from feedalign_lab.models import build_network
from feedalign_lab.optimizer import adam, parameter_groups
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.figures.figure import CheckMaker, Made, Run, Size
from feedalign_lab.papers.store import Curve, TrialRecord, configuration_hash
from feedalign_lab.records import EpochRecord
from feedalign_lab.running import evaluating
from feedalign_lab.seeding import generator, stream_seed
from feedalign_lab.tensors import TensorTrial
from feedalign_lab.training import Schedule, run_trial

NOISY = "noisy-backprop"
BY_NORM = "variance over the mean squared norm of the estimates"
BY_TRUE = "variance over the squared norm of backprop's gradient"
_LOSS, _OVER_NORM, _OVER_TRUE = "loss after the epoch", "variance over norm", "variance over true norm"
_Y_LABEL = "training loss after the epoch"
_NUM_TRAINING_EXAMPLES = 10_000
_NUM_MOMENTS = 4
_NUM_GROUPS, _NUM_DRAWS = 8, 4


@dataclass(frozen=True)
class Point:
    """What is trained with: a rule, or backprop with noise.

    Attributes:
        rule: Name of the rule.
        std: Of the noise on every entry of the gradient; None for the rule as it is.
    """

    rule: str
    std: float | None = None

    @property
    def name(self) -> str:
        """Of the cell in the records."""
        return self.rule if self.std is None else f"{self.rule}/std-{self.std:g}"

    def make(self) -> Rule:
        """The rule."""
        return make_rule(self.rule, "classification") if self.std is None else fa.NoisyBackprop(std=self.std)


@dataclass(frozen=True)
class VarianceAndLoss:
    """Noise levels of backprop, and rules.

    Attributes:
        stds: Noise on every entry of backprop's gradient.
        rules: Names of the rules.
        data: Name of the data, images of classes.
        network: Name of the network, of ReLU units.
    """

    stds: tuple[float, ...] = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    rules: tuple[str, ...] = ("fg-w", "fg-a", "fdfa")
    data: str = "mnist"
    network: str = "mlp1-1000"

    def make(self, run: Run) -> Made:
        """Train what is missing, and draw; see `Recipe`."""
        points = [*(Point(NOISY, std) for std in self.stds), *(Point(rule) for rule in self.rules)]
        found = {point: _trials(run, _configuration(self, point, run.size.epochs), point) for point in points}
        remarks = [
            f"{diverged} trials of {point.name} diverged and are left out."
            for point, records in found.items()
            if (diverged := sum(record.status == "diverged" for record in records))
        ]
        finished = {point: [r for r in records if r.status == "finished"] for point, records in found.items()}
        panels = (
            Panel(BY_NORM, "normalised variance", _Y_LABEL, _series(finished, _OVER_NORM), "linear", "log"),
            Panel(BY_TRUE, "relative variance", _Y_LABEL, _series(finished, _OVER_TRUE), "log", "log"),
        )
        done = min(len(records) for records in finished.values())
        return Made(panels, Size(run.size.epochs, done), tuple(remarks))


def lies_on_line(claim: str, rule: str, slack: float) -> CheckMaker:
    """A rule's loss is that of backprop with noise of the same variance.

    Args:
        claim: The paper's.
        rule: Name of the rule.
        slack: As a share of the loss, fixed before the first run.

    Returns:
        The check: the line is drawn between points on logarithmic axes. Left of it, where there is no noise to take
        away, the loss of backprop itself counts; right of it nothing can be told.
    """

    def check(drawing: Drawing) -> Check:
        panel = drawing.panel(BY_TRUE)
        line, point = panel.find(NOISY), panel.find(rule)
        if line is None or point is None:
            return Check(claim, "not everything it speaks of is on file", None)
        x, loss = point.x[0], point.mean[0]
        expected = _between(line, x)
        if expected is None:
            return Check(claim, f"{rule} has variance {x:.3g}, more than any noise that was tried", None)
        words = (
            f"{rule} has loss {loss:.3f} at variance {x:.3g}, where noisy backprop has {expected:.3f}; "
            f"{slack:.0%} counts as agreement"
        )
        return Check(claim, words, abs(loss / expected - 1) <= slack, loss / expected)

    return check


def _between(line: Series, x: float) -> float | None:
    """The line at x, its first value left of it; None right of it."""
    places = sorted(zip(line.x, line.mean, strict=True))
    if x <= places[0][0]:
        return places[0][1]
    for (left, low), (right, high) in pairwise(places):
        if left <= x <= right:
            share = math.log(x / left) / math.log(right / left)
            return float(low ** (1 - share) * high**share)
    return None


def _series(found: dict[Point, list[TrialRecord]], column: str) -> tuple[Series, ...]:
    """A line of backprop with noise, and a point for each rule."""
    series = []
    for rule in dict.fromkeys(point.rule for point in found):
        rows = sorted(_row(records, column) for point, records in found.items() if point.rule == rule and records)
        series.append(
            Series(
                name=rule,
                x=tuple(x for x, _, _, _ in rows),
                mean=tuple(mean for _, mean, _, _ in rows),
                std=tuple(std for _, _, std, _ in rows),
                n=min((number for _, _, _, number in rows), default=0),
                rule=rule,
                style="line" if rule == NOISY else "points",
            )
        )
    return tuple(series)


def _row(records: Sequence[TrialRecord], column: str) -> tuple[float, float, float, int]:
    """Variance, mean and deviation of the loss, and over how many trials."""
    variances = [record.curve.others[column][-1] for record in records]
    losses = [record.curve.others[_LOSS][-1] for record in records]
    std = statistics.stdev(losses) if len(losses) > 1 else math.nan
    return statistics.fmean(variances), statistics.fmean(losses), std, len(records)


def _trials(run: Run, configuration: dict[str, Any], point: Point) -> list[TrialRecord]:
    """Those on file, and those that are missing, trained now."""
    key = configuration_hash(configuration)

    def on_file() -> dict[int, TrialRecord]:
        records = run.store.read(run.paper, run.figure).records
        own = {record.trial: record for record in records if record.key == key}
        return {number: record for number, record in own.items() if number < run.size.trials}

    missing = [number for number in range(run.size.trials) if number not in on_file()]
    dataset = data.load(configuration["data"], run.device, inputs="symmetric") if missing else None
    for number in missing:
        with run.store.claim(run.paper, run.figure, key, (number,)) as claimed:
            if dataset is not None and number in claimed and number not in on_file():
                run.store.append(_trained(run, point, number, dataset, configuration))
    return [record for _, record in sorted(on_file().items())]


def _configuration(what: VarianceAndLoss, point: Point, epochs: int) -> dict[str, Any]:
    """Everything that decides a trial, but for its number."""
    run = settings.run_setting(what.data, what.network)
    rule = settings.rule_setting(what.data, what.network, point.rule)
    return {
        "data": what.data,
        "network": what.network,
        "rule": point.rule,
        "std": point.std,
        "epochs": epochs,
        "batch_size": run.batch_size,
        "lr_decay": run.lr_decay,
        "inputs": run.inputs,
        "learning_rate": rule.learning_rate,
        "feedback_learning_rate": rule.feedback_learning_rate,
        "seed": 0,
        "moments": _NUM_MOMENTS,
        "groups": _NUM_GROUPS,
        "draws": _NUM_DRAWS,
    }


def _trained(run: Run, point: Point, number: int, dataset: Dataset, configuration: dict[str, Any]) -> TrialRecord:
    """Train one trial, and measure the variance of its gradients on the way."""
    spec = LearnerSpec(
        rule=point.rule,
        network=configuration["network"],
        learning_rate=configuration["learning_rate"],
        feedback_learning_rate=configuration["feedback_learning_rate"],
        trial=number,
    )
    schedule = Schedule(configuration["epochs"], configuration["batch_size"], lr_decay=configuration["lr_decay"])
    model = build_network(spec.network, dataset, seed=stream_seed(0, number, "weights"))
    draws = generator(0, number, "feedback")
    handle = fa.attach(model, point.make(), example_inputs=dataset.x_train[:2], generator=draws)
    optimizer = adam(spec, parameter_groups(spec, handle))
    trial = TensorTrial(Learner(model, handle, optimizer, F.cross_entropy), spec, schedule, dataset)
    variances = _Variances(model, handle, _groups(dataset, configuration["batch_size"], number))
    watched = run.watch(point.name, number, schedule.epochs)
    losses: list[float] = []
    trial.tell = _at_moments(variances.measure, _NUM_MOMENTS)

    def on_epoch(record: EpochRecord) -> None:
        losses.append(_loss(model, dataset))
        watched(record)

    result = run_trial(trial, spec, schedule, on_epoch)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    epochs = result.epochs
    per_epoch = [variances.found[i * _NUM_MOMENTS : (i + 1) * _NUM_MOMENTS] for i in range(len(epochs))]
    return TrialRecord(
        paper=run.paper,
        table=run.figure,
        cell=point.name,
        configuration=configuration,
        trial=number,
        status="diverged" if result.status == "diverged" else "finished",
        message=result.message,
        metric="error",
        curve=Curve(
            train_loss=tuple(epoch.train_loss for epoch in epochs),
            test=tuple(epoch.test_score for epoch in epochs),
            seconds=tuple(epoch.seconds for epoch in epochs),
            others={
                _LOSS: tuple(losses),
                _OVER_NORM: tuple(statistics.fmean(pair[0] for pair in pairs) for pairs in per_epoch),
                _OVER_TRUE: tuple(statistics.geometric_mean(pair[1] for pair in pairs) for pairs in per_epoch),
            },
        ),
        environment=describe_environment(torch.device(run.device)),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class _Variances:
    """Measures the variance of a model's gradients at moments of a training, summed over all weights."""

    def __init__(self, model: nn.Module, handle: fa.Handle, examples: tuple[Tensor, Tensor]) -> None:
        self._model, self._handle, self._examples = model, handle, examples
        self._group_size = len(examples[0]) // _NUM_GROUPS
        self.found: list[tuple[float, float]] = []

    def measure(self) -> None:
        """Note the variance over two norms: that of the estimates, and that of backprop's gradient."""
        layers = fa.measure.variance(
            self._model,
            F.cross_entropy,
            self._examples,
            num_draws=_NUM_DRAWS,
            group_size=self._group_size,
            seed=len(self.found),
        ).layers
        exact = weight_gradients(self._model, self._handle, F.cross_entropy, self._examples)
        total = sum(row.total for row in layers)
        over_norm = total / sum(row.squared_norm for row in layers)
        over_true = total / sum(float(gradient.square().sum()) for gradient in exact.values())
        self.found.append((over_norm, over_true))


def _at_moments(measure: Callable[[], None], number: int) -> Callable[[str, float], None]:
    """Called with the share of an epoch that is done, measure so many times in it."""
    done = 0

    def tell(what: str, share: float) -> None:
        nonlocal done
        del what
        if share * number >= done + 1 - 1e-9:
            done += 1
            measure()
        if share >= 1:
            done = 0

    return tell


def _groups(dataset: Dataset, batch_size: int, number: int) -> tuple[Tensor, Tensor]:
    """Examples for as many batches as are measured, drawn from the trial's own number."""
    shuffled = torch.randperm(len(dataset.x_train), generator=generator(0, number, "alignment"))
    chosen = shuffled[: batch_size * _NUM_GROUPS].to(dataset.x_train.device)
    return dataset.x_train[chosen], dataset.y_train[chosen]


@torch.no_grad()
def _loss(model: nn.Module, dataset: Dataset) -> float:
    """The mean loss of the first training examples."""
    x, y = dataset.x_train[:_NUM_TRAINING_EXAMPLES], dataset.y_train[:_NUM_TRAINING_EXAMPLES]
    with evaluating(model):
        return float(F.cross_entropy(model(x), y))
