"""Choosing learning rates on training data alone: `python -m feedalign_lab.tuning --help`.

A fifth of the training data is held out, every rate is tried on the rest, and the rate with the lowest mean
error on the held-out part wins. Test data is not touched. Learned feedback is trained at the same rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from rich.console import Console
from rich.table import Table
from tyro import cli
from tyro.conf import arg

from feedalign_lab import data
from feedalign_lab.choices import Case, parse_rule_names
from feedalign_lab.data.dataset import Dataset, validation_split
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.plan import Plan
from feedalign_lab.records import Spread, spread
from feedalign_lab.settings import data_setting, run_setting
from feedalign_lab.training import Schedule, run_trial

PAPER_GRID = (1.5e-5, 5e-5, 1.5e-4, 5e-4, 1.5e-3, 5e-3, 1.5e-2, 5e-2)


@dataclass(frozen=True)
class RateResult:
    """How one rate did on the held-out part; `error` is None if a trial of it diverged."""

    rate: float
    error: Spread | None


@dataclass(frozen=True)
class TuningOptions:
    """Try learning rates on a part held out of the training data."""

    data: str = "digits"
    """Data set."""
    network: str | None = None
    """Network (the data set's own by default)."""
    rules: str = "all"
    """Rules with commas between them, or all."""
    rates: Annotated[tuple[float, ...], arg(metavar="RATE ...")] = PAPER_GRID
    """Learning rates to try; by default the values that the paper's own search used, and more."""
    epochs: int | None = None
    """Passes over the data (the data set's own number by default)."""
    trials: int = 3
    """Runs per rate."""


def try_rates(
    dataset: Dataset, spec: LearnerSpec, schedule: Schedule, rates: Sequence[float], trials: int
) -> list[RateResult]:
    """Train one rule at several rates on part of the training data and test it on the rest of it.

    Args:
        dataset: The whole data set; its test part is not used.
        spec: The learner, whose rates and trial are replaced.
        schedule: How long to train.
        rates: The learning rates.
        trials: Runs per rate.

    Returns:
        One result per rate.
    """
    split = validation_split(dataset)
    results = []
    for rate in rates:
        errors = []
        for trial in range(trials):
            feedback_rate = None if spec.feedback_learning_rate is None else rate
            candidate = replace(spec, learning_rate=rate, feedback_learning_rate=feedback_rate, trial=trial)
            outcome = run_trial(make_learner(candidate, split), candidate, schedule, split)
            if outcome.status == "interrupted":
                raise KeyboardInterrupt
            if outcome.status == "finished":
                errors.append(outcome.epochs[-1].test_error)
        results.append(RateResult(rate, spread(errors) if len(errors) == trials else None))
    return results


def best_rate(results: Sequence[RateResult]) -> float:
    """The rate of the lowest mean error.

    Args:
        results: What was tried, one at least without divergence.

    Returns:
        The rate.
    """
    return min((result.error.mean, result.rate) for result in results if result.error is not None)[1]


def main() -> None:
    """Print a table of errors on held-out data, a row per rule and a column per rate."""
    options = cli(TuningOptions, prog="python -m feedalign_lab.tuning")
    network = options.network or data_setting(options.data).network
    rules = parse_rule_names(options.rules, Case.named(options.data, network))
    defaults = run_setting(options.data, network)
    schedule = Schedule(options.epochs or defaults.epochs, defaults.batch_size, lr_decay=defaults.lr_decay)
    plan = Plan(options.data, network, rules, options.trials, schedule, defaults.inputs)
    dataset = data.load(options.data, inputs=defaults.inputs)
    table = Table(title=f"{options.data}, {network}, {schedule.epochs} epochs: error on held-out training data")
    table.add_column("rule")
    for rate in options.rates:
        table.add_column(f"{rate:g}", justify="right")
    table.add_column("best", justify="right")
    for rule in rules:
        results = try_rates(dataset, plan.spec(rule, 0), schedule, options.rates, options.trials)
        cells = [f"{result.error.mean:.2f}" if result.error else "diverged" for result in results]
        table.add_row(rule, *cells, f"{best_rate(results):g}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
