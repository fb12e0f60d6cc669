"""A grid search over networks, batch sizes and learning rates that never looks at test data: `feedalign tune`.

Every candidate is trained and then tested on the validation part of the data set, or, where it has none, on a fifth
held out of the training part. The candidate with the lowest mean error over the trials wins. Learned feedback is
trained at the same rate as the forward weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from rich.table import Table

from feedalign_lab import data
from feedalign_lab.comparison import Watch
from feedalign_lab.data.dataset import Dataset, validation_split
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.models import build_network
from feedalign_lab.plan import Plan
from feedalign_lab.records import Spread, spread
from feedalign_lab.training import Schedule, run_trial

_TUNING_FORMAT = 1


@dataclass(frozen=True)
class Candidate:
    """One point of the grid, for one rule.

    Attributes:
        rule: Name of the rule.
        network: Name of the network.
        batch_size: Examples per step.
        learning_rate: Step size of Adam.
        error: On the validation part after the last epoch, over the trials; None if a trial of it diverged.
    """

    rule: str
    network: str
    batch_size: int
    learning_rate: float
    error: Spread | None


@dataclass
class GridSearch:
    """A search under way or done; everything in it can be read at any time.

    Attributes:
        plans: A plan for each network and batch size; its own rates are not used.
        rates: The learning rates to try in each of them.
        environment: Versions and machine.
        status: "running", "finished" or "interrupted".
        candidates: What was tried so far.
    """

    plans: Sequence[Plan]
    rates: Sequence[float]
    environment: Environment
    status: Literal["running", "finished", "interrupted"] = "running"
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules of all plans, in the order of the first."""
        return tuple(dict.fromkeys(rule for plan in self.plans for rule in plan.rules))

    def num_epochs(self) -> int:
        """Epochs of all trials of all candidates."""
        return len(self.rates) * sum(plan.num_epochs() for plan in self.plans)

    def best(self, rule: str) -> Candidate | None:
        """The candidate of a rule with the lowest mean error.

        Args:
            rule: Name of the rule.

        Returns:
            The first of the best; None if every candidate diverged, or none was tried.
        """
        found = [(one.error.mean, one) for one in self.candidates if one.rule == rule and one.error is not None]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested containers for a JSON file."""
        plan = self.plans[0]
        return {
            "format": _TUNING_FORMAT,
            "status": self.status,
            "config": {
                "data": plan.data,
                "rules": self.rules,
                "networks": list(dict.fromkeys(plan.network for plan in self.plans)),
                "batch_sizes": list(dict.fromkeys(plan.schedule.batch_size for plan in self.plans)),
                "rates": self.rates,
                "epochs": plan.schedule.epochs,
                "trials": plan.trials,
                "seed": plan.seed,
            },
            "environment": self.environment,
            "best": {rule: self.best(rule) for rule in self.rules},
            "candidates": self.candidates,
        }


def start_search(plans: Sequence[Plan], rates: Sequence[float], device: torch.device) -> GridSearch:
    """A search in which nothing has been tried yet.

    Args:
        plans: A plan for each network and batch size, one at least.
        rates: The learning rates to try in each of them.
        device: Where to train.

    Returns:
        The search.
    """
    for plan in plans:
        for rate in rates:
            replace(plan, learning_rate=rate)  # which refuses what is no rate
    return GridSearch(plans, rates, describe_environment(device))


def run_search(search: GridSearch, device: torch.device, watch: Watch, on_candidate: Callable[[], object]) -> None:
    """Try every candidate. Ctrl-C ends the search early; what was done is kept and marked as interrupted.

    Args:
        search: The search; filled in place.
        device: Where to train.
        watch: Told of every trial and epoch.
        on_candidate: Called after each candidate.
    """
    try:
        for candidate in _tried(search, device, watch):
            search.candidates.append(candidate)
            on_candidate()
        search.status = "finished"
    except KeyboardInterrupt:
        search.status = "interrupted"


def _tried(search: GridSearch, device: torch.device, watch: Watch) -> Iterator[Candidate]:
    """Train candidate after candidate.

    Yields:
        Each once it has been tried.
    """
    datasets = {
        inputs: data.load(search.plans[0].data, device, inputs=inputs) for inputs in {p.inputs for p in search.plans}
    }
    for plan in search.plans:
        # What does not suit is told before hours go into what does.
        build_network(plan.network, datasets[plan.inputs], seed=0)
        plan.schedule.check(datasets[plan.inputs], plan.network)
    for plan in search.plans:
        dataset = datasets[plan.inputs]
        for rule in plan.rules:
            for rate in search.rates:
                error = try_rate(dataset, plan.spec(rule, 0), plan.schedule, rate, plan.trials, watch)
                yield Candidate(rule, plan.network, plan.schedule.batch_size, rate, error)


def try_rate(
    dataset: Dataset, spec: LearnerSpec, schedule: Schedule, rate: float, trials: int, watch: Watch
) -> Spread | None:
    """Train one rule at one rate and test it on the validation part.

    Args:
        dataset: The whole data set; its test part is not used.
        spec: The learner, whose rates and trial are replaced.
        schedule: How long to train.
        rate: The learning rate.
        trials: Runs, each on a split of its own where the data set has them.
        watch: Told of every trial and epoch.

    Returns:
        The error over the trials; None if one of them diverged.

    Raises:
        KeyboardInterrupt: The user ended a trial.
    """
    errors = []
    for trial in range(trials):
        feedback_rate = None if spec.feedback_learning_rate is None else rate
        candidate = replace(spec, learning_rate=rate, feedback_learning_rate=feedback_rate, trial=trial)
        split = validation_split(dataset.of_trial(spec.seed, trial))
        outcome = run_trial(
            make_learner(candidate, split), candidate, schedule, split, watch(spec.rule, trial, schedule.epochs)
        )
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        if outcome.status == "finished":
            errors.append(outcome.epochs[-1].test_error)
    return spread(errors) if len(errors) == trials else None


def tuning_table(search: GridSearch) -> Table:
    """Errors on the validation part: a row per rule, network and batch size, a column per rate.

    Args:
        search: A search, finished or not.

    Returns:
        The table, to be printed by rich.
    """
    plan = search.plans[0]
    epochs = f"{plan.schedule.epochs} epoch{'' if plan.schedule.epochs == 1 else 's'}"
    ending = " (interrupted: figures so far)" if search.status == "interrupted" else ""
    table = Table(
        title=f"{plan.data}, {epochs}: error on the validation part, over the learning rates{ending}",
        caption="; ".join(_best_sentence(search, rule) for rule in search.rules),
    )
    for heading in ("rule", "network"):
        table.add_column(heading, no_wrap=True)
    for heading in ("batch", *(f"{rate:g}" for rate in search.rates)):
        table.add_column(heading, justify="right")
    tried = {(one.rule, one.network, one.batch_size, one.learning_rate): one for one in search.candidates}
    for rule in search.rules:
        for plan in search.plans:
            if rule in plan.rules:
                batch_size = plan.schedule.batch_size
                cells = [_cell(tried.get((rule, plan.network, batch_size, rate))) for rate in search.rates]
                table.add_row(rule, plan.network, str(batch_size), *cells)
    return table


def _best_sentence(search: GridSearch, rule: str) -> str:
    """The best candidate of a rule."""
    best = search.best(rule)
    if best is None:
        return f"{rule}: none finished"
    return f"best for {rule}: {best.network}, batch size {best.batch_size}, rate {best.learning_rate:g}"


def _cell(candidate: Candidate | None) -> str:
    """The mean error of a candidate."""
    if candidate is None:
        return "-"
    return "diverged" if candidate.error is None else f"{candidate.error.mean:.4g}"
