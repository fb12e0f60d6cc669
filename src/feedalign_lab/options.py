"""The options of each command; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from tyro.conf import arg

Name: TypeAlias = Annotated[str, arg(metavar="NAME")]


@dataclass(frozen=True)
class RunOptions:
    """What every training command takes."""

    data: Name = "digits"
    """Data set: digits (needs no download), mnist, fashion-mnist, cifar10, cifar100, synthetic-regression,
    synthetic-classification."""
    network: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: depends on the data)")] = None
    """Network: fc<layers>-<width> such as fc1-500, conv, or conv-random (kernels frozen at random)."""
    epochs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: depends on the data)")] = None
    """Passes over the training data."""
    batch_size: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: depends on the data)")] = None
    """Examples per step."""
    lr: Annotated[float | None, arg(metavar="RATE", help_behavior_hint="(default: each rule's own)")] = None
    """Learning rate of Adam, for every rule."""
    dropout: Annotated[float, arg(metavar="P")] = 0.0
    """Probability of dropping at the input of every fully connected layer."""
    flip: bool = False
    """Mirror training images at random."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of weights, feedback and data order; the same seed gives the same numbers."""
    device: Name = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: PyTorch's choice)")] = None
    """CPU threads; a single one is often fastest for small networks or on a busy machine."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: results/<data>-<network>-<time>)")] = (
        None
    )
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that the folder holds already."""
    json: bool = False
    """Print the results as JSON and nothing else."""


@dataclass(frozen=True)
class CompareOptions(RunOptions):
    """Options of `feedalign compare`."""

    rules: Annotated[str, arg(metavar="NAMES")] = "all"
    """Rules with commas between them, or all; `feedalign rules` lists them."""
    trials: Annotated[int, arg(metavar="N")] = 3
    """Runs per rule; they differ in weights, feedback and order of the data."""


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Options of `feedalign train`."""

    rule: Name = "dfa"
    """The rule; `feedalign rules` lists them."""


@dataclass(frozen=True)
class DescribeOptions:
    """Options of `feedalign describe`."""

    data: Name = "digits"
    """Data set; it gives the shapes."""
    network: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: depends on the data)")] = None
    """Network, as for compare."""
    rule: Name = "dfa"
    """The rule; `feedalign rules` lists them."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class RulesOptions:
    """Options of `feedalign rules`."""

    json: bool = False
    """Print JSON."""


Options: TypeAlias = CompareOptions | TrainOptions | DescribeOptions | RulesOptions
