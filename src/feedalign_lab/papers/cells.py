"""What a paper printed, cell by cell, and how each cell is trained: frozen before the first run.

A cell is one number of one table. Its plan is made of the paper's own settings, which the lab has anyway, and of what
the protocol adds to them: how many epochs and trials, and at which epoch the paper reads the number off.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from feedalign_lab.data.dataset import Inputs
from feedalign_lab.data.location import cache_root, named_roots
from feedalign_lab.domains import domain_of
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.plan import Plan
from feedalign_lab.records import Better
from feedalign_lab.training import Schedule

Reading = Literal["last", "last ten", "chosen", "best"]
"""The epoch that a number is read off: the last; the mean of the last ten; that with the best validation score; that
with the best test score, which no fair report does, but some papers do."""

METRICS = ("error", "train error", "accuracy", "AUC", "AP", "log loss", "perplexity", "PSNR", "cosine", "angle")
LOWER_IS_BETTER = ("error", "train error", "log loss", "perplexity", "angle")

FOLDER = "{data}"
"""Stands, in the path of data that are read from files, for the folder that the data sets are in."""


# Of a learner: what is told apart from it, and what no cell sets, which came after the first records were made.
_NOT_IN_CONFIGURATION = frozenset({"rule", "network", "seed", "trial", "limits"})


@dataclass(frozen=True)
class Published:
    """A number as it was printed.

    Attributes:
        mean: The number, in the unit of its table.
        std: Standard deviation over the trials; None where none was printed.
        trials: How many trials it is the mean of; None where that was not said.
    """

    mean: float
    std: float | None = None
    trials: int | None = None


@dataclass(frozen=True)
class Protocol:
    """How long, how often and to what end a cell is trained; None leaves a value to the lab's settings.

    Attributes:
        epochs: Passes over the training data.
        trials: Runs from seeds of their own: the paper's number, or ours where it gives none or a single one.
        reading: The epoch that counts.
        source: Where epochs, trials and reading come from, in words.
        batch_size: Examples per step.
        learning_rate: Step size of Adam.
        feedback_learning_rate: The same for learned feedback.
        weight_decay: Adam's.
        dropout: Probability of dropping.
        flip: Mirror training images at random.
        lr_decay: What the rate is multiplied with after each epoch.
        inputs: How the inputs are scaled.
        transfer_epochs: Epochs of backprop before the convolutions are frozen.
    """

    epochs: int
    trials: int
    reading: Reading
    source: str
    batch_size: int | None = None
    learning_rate: float | None = None
    feedback_learning_rate: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    flip: bool = False
    lr_decay: float | None = None
    inputs: Inputs | None = None
    transfer_epochs: int | None = None


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        name: Within its table, such as "fc1-500/dfa/dropout-0.1": row, rule, and what else tells it from others.
        data: What a user would type after `--data`; a path begins with `FOLDER`.
        network: What a user would type after `--network`.
        rule: Name of the rule.
        metric: What the number is, out of `METRICS`.
        published: The number.
        protocol: How it is trained.
        tolerance: How far from the printed number ours may lie to count as reproduced, in the unit of the table;
            fixed before the first run.
        measured: The name of the metric among those of the task, where it is none of its main one; empty for that.
        needs: Files that do not come with the lab and cannot be fetched by it, in words; empty for none.
        elsewhere: What trains the cell where `feedalign papers run` cannot: a command, or why nothing does; empty
            where it can.
    """

    name: str
    data: str
    network: str
    rule: str
    metric: str
    published: Published
    protocol: Protocol
    tolerance: float
    measured: str = ""
    needs: str = ""
    elsewhere: str = ""

    def __post_init__(self) -> None:
        """Refuse a metric of which nobody knows which way is up."""
        if self.metric not in METRICS:
            raise UnknownNameError("metric of a table", self.metric, METRICS)

    def plan(self, *, epochs: int | None = None, trials: int | None = None, angles_every: int | None = None) -> Plan:
        """The plan of the cell.

        Args:
            epochs: Passes over the training data; None takes the protocol's.
            trials: Runs; None takes the protocol's.
            angles_every: Epochs between two measurements of the angles; None measures them at the end alone.

        Returns:
            The plan, of one rule.

        Raises:
            SettingError: Nothing here trains this cell, or a number is out of range.
        """
        if self.elsewhere:
            raise SettingError(f"{self.name} is not trained by this command: {self.elsewhere}.")
        protocol, data = self.protocol, self.located_data()
        setting = domain_of(data).run_setting(data, self.network)
        num_epochs = protocol.epochs if epochs is None else epochs
        schedule = Schedule(
            epochs=num_epochs,
            batch_size=setting.batch_size if protocol.batch_size is None else protocol.batch_size,
            flip=protocol.flip,
            lr_decay=setting.lr_decay if protocol.lr_decay is None else protocol.lr_decay,
            angles_every=angles_every or max(1, num_epochs),
        )
        return Plan(
            data=data,
            network=self.network,
            rules=(self.rule,),
            trials=protocol.trials if trials is None else trials,
            schedule=schedule,
            inputs=protocol.inputs or setting.inputs,
            schedule_source=protocol.source,
            learning_rate=protocol.learning_rate,
            feedback_learning_rate=protocol.feedback_learning_rate,
            weight_decay=protocol.weight_decay,
            dropout=protocol.dropout,
            clip=setting.clip,
            transfer_epochs=protocol.transfer_epochs,
        )

    def located_data(self) -> str:
        """The data's name, or its prefix and the path on this machine."""
        if FOLDER not in self.data:
            return self.data
        folder = (named_roots() or [cache_root()])[0]
        return self.data.replace(FOLDER, str(folder))

    @property
    def better(self) -> Better:
        """Which way is up."""
        return better_of(self.metric)

    def configuration(self, epochs: int | None = None) -> dict[str, Any]:
        """Everything that decides what a trial of the cell comes to, but for its number; the same on every machine.

        Args:
            epochs: Passes over the training data; None takes the protocol's.

        Returns:
            Plain values, for a record.
        """
        plan = self.plan(epochs=epochs, trials=1)
        schedule, spec = plan.schedule, plan.spec(self.rule, 0)
        learner = {key: value for key, value in vars(spec).items() if key not in _NOT_IN_CONFIGURATION}
        return {
            "data": self.data,
            "network": self.network,
            "rule": self.rule,
            "epochs": schedule.epochs,
            "batch_size": schedule.batch_size,
            "flip": schedule.flip,
            "lr_decay": schedule.lr_decay,
            "inputs": plan.inputs,
            "transfer_epochs": plan.transfer_epochs,
            "seed": plan.seed,
            **learner,
        }


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        name: What a user types: "table1".
        title: What it shows, in a line.
        unit: Of its numbers: "%", "dB"; empty for none.
        cells: Its numbers, in the order of the paper.
        notes: What differs from the paper, and what was found in its public code, sentence by sentence.
    """

    name: str
    title: str
    unit: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two cells of one name."""
        names = [cell.name for cell in self.cells]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SettingError(f"{self.name} has more than one cell called {', '.join(twice)}: give each its own name.")

    def choose(self, patterns: Sequence[str]) -> tuple[Cell, ...]:
        """The cells that patterns stand for.

        Args:
            patterns: As in a shell: "fc1-500/*"; none stands for all.

        Returns:
            The cells, in the order of the table.

        Raises:
            UnknownNameError: A pattern fits no cell.
        """
        names = [cell.name for cell in self.cells]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise UnknownNameError(f"cell of {self.name}", pattern, names)
        if not patterns:
            return self.cells
        return tuple(cell for cell in self.cells if any(fnmatch.fnmatch(cell.name, pattern) for pattern in patterns))


@dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        name: What a user types: "drtp".
        authors: As in a citation.
        year: Of the paper.
        title: Of the paper.
        tables: Its tables.
    """

    name: str
    authors: str
    year: int
    title: str
    tables: tuple[Table, ...] = field(default=())

    def table(self, name: str) -> Table:
        """The table of a name.

        Args:
            name: What a user typed.

        Returns:
            The table.

        Raises:
            UnknownNameError: There is none.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise UnknownNameError(f"table of {self.name}", name, [table.name for table in self.tables])


def better_of(metric: str) -> Better:
    """Which way a metric is better."""
    return "lower" if metric in LOWER_IS_BETTER else "higher"
