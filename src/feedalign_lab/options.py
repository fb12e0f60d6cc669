"""The options of each command; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from tyro.conf import Positional, arg

from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.clicks import names as clicks
from feedalign_lab.graphs import names as graphs
from feedalign_lab.language.options import RESUME, LanguageOptions
from feedalign_lab.papers.options import PapersOptions
from feedalign_lab.scenes import names as scenes

Name: TypeAlias = Annotated[str, arg(metavar="NAME")]
_OF_DATA = "(default: depends on the data)"
_OF_NETWORK = "(default: depends on network and data)"
_OF_RULE = "(default: each rule's own)"
_OF_ANGLES = "(default: 1; for graphs and large radiance fields 50, for recurrent networks 10)"
_ALL_POINTS = "(default: all non-linearities)"
RATES = (1.5e-5, 5e-5, 1.5e-4, 5e-4, 1.5e-3, 5e-3, 1.5e-2, 5e-2)
"""Learning rates to try: the values of Frenkel et al. (2021), and more."""

_DOMAINS = (graphs, clicks, scenes)
# Longer than a line, which a docstring would break where the source does.
_DATA = (
    "Data. Images: digits (needs no download), mnist, fashion-mnist, cifar10, cifar100. Series: row-mnist and "
    "row-fashion-mnist (a step is a row of the image), libras, ecg200, strawberry (every trial splits them anew, 60 % "
    "training, 20 % validation, 20 % test); mackey-glass (simulated, to be forecast at every step). Simulated too: "
    "synthetic-regression, synthetic-classification. " + " ".join(one.DATA_HELP for one in _DOMAINS)
)
_NETWORK = (
    "Network. With tanh units and sigmoid outputs: fc<layers>-<width> such as fc1-500, conv, conv-random (kernels "
    "frozen at random). With ReLU units and linear outputs: mlp<layers>-<width> such as mlp2-800, cnn, both with -bn "
    "for batch normalization, alexnet (images are scaled to 224 x 224), alexnet-small (images of about 32 x 32). "
    "Recurrent, for series, with linear outputs: rnn-<width> (tanh), gru-<width> (torch.nn.GRU, which resets the state "
    "after the matrix), gru-before-<width> (resets it before, as in the paper on DFA for recurrent networks), "
    "lstm-<width>; -x<layers> behind it for more than one layer, such as gru-128-x2. "
    + " ".join(one.NETWORK_HELP for one in _DOMAINS)
)
_DROPOUT = (
    "Probability of dropping, for every rule: at the input of every fully connected layer, or where the network has it."
)
_LIMITS = (
    "Limits of hardware for rules that project the error, such as error-bits=4,noise=0.1,delay=2: error-bits, "
    "error-ternary (threshold, as a part of the largest), error-rounding (nearest, stochastic), error-scale (tensor, "
    "row), feedback-bits, feedback-ternary, feedback-density, noise (over the signal's rms), delay (steps)."
)
_QUANTITIES = (
    "What to show, comma-separated, or all. By layer: angle, norm, ratio, norm_backprop, the same of the teaching "
    "signal with signal_ before, angle_ewma, density, above_zero, dead, units. Of the step: error_norm, replay_error, "
    "feedback_distance, feedback_relative, feedback_angle."
)
_TRANSFER = (
    "Transfer learning: in each trial backprop first trains the whole network, then its convolutions are frozen (batch "
    "normalization too, with the statistics it has) and every rule trains a fresh classifier behind them."
)


@dataclass(frozen=True)
class RunOptions:
    """What every training command takes."""

    data: Annotated[str, arg(metavar="NAME", help=_DATA)] = "digits"
    network: Annotated[str | None, arg(metavar="NAME", help=_NETWORK, help_behavior_hint=_OF_DATA)] = None
    epochs: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_DATA)] = None
    """Passes over the training data."""
    batch_size: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_NETWORK)] = None
    """Examples per step."""
    lr: Annotated[float | None, arg(metavar="RATE", help_behavior_hint=_OF_RULE)] = None
    """Learning rate of Adam at the start, for every rule."""
    feedback_lr: Annotated[float | None, arg(metavar="RATE", help_behavior_hint=_OF_RULE)] = None
    """Learning rate of feedback that is learned (dkp, fdfa), the same in all epochs."""
    lr_decay: Annotated[float | None, arg(metavar="FACTOR", help_behavior_hint=_OF_NETWORK)] = None
    """What the learning rate is multiplied with after each epoch; 1 leaves it constant."""
    clip: Annotated[float | None, arg(metavar="NORM", help_behavior_hint=_OF_NETWORK)] = None
    """Largest norm of the gradient of all weights together, at each step; inf leaves it as it is."""
    gamma: Annotated[float | None, arg(metavar="G", help_behavior_hint=_OF_RULE)] = None
    """In forecasts, for rules that broadcast errors: what a step's error counts one step before, 0 (nothing) to 1."""
    limits: Annotated[str | None, arg(metavar="NAME=VALUE,...", help=_LIMITS)] = None
    weight_decay: Annotated[float | None, arg(metavar="W", help_behavior_hint=_OF_RULE)] = None
    """Adam's weight decay, which is added to the gradient, for every rule."""
    dropout: Annotated[float | None, arg(metavar="P", help=_DROPOUT, help_behavior_hint=_OF_RULE)] = None
    flip: bool = False
    """Mirror training images at random."""
    inputs: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=_OF_NETWORK)] = None
    """Scaling of the inputs: own (as is usual for the data set) or symmetric (pixels to [-1, 1])."""
    transfer: Annotated[bool, arg(help=_TRANSFER)] = False
    transfer_epochs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: as --epochs)")] = None
    """With --transfer: passes over the training data for the convolutions."""
    angles_every: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_ANGLES)] = None
    """Epochs from one measurement of the angles to the next; the last epoch always has one. Each costs backprop."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of weights, feedback, data order and splits; the same seed gives the same numbers."""
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
    resume: Annotated[Path | None, arg(metavar="DIR", help=RESUME, help_behavior_hint="")] = None
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
class TuneOptions:
    """Options of `feedalign tune`."""

    data: Annotated[str, arg(metavar="NAME", help=_DATA)] = "digits"
    networks: Annotated[str | None, arg(metavar="NAMES", help_behavior_hint=_OF_DATA)] = None
    """Networks with commas between them, such as gru-50,gru-512; as for compare."""
    rules: Annotated[str, arg(metavar="NAMES")] = "all"
    """Rules with commas between them, or all; `feedalign rules` lists them."""
    rates: Annotated[tuple[float, ...], arg(metavar="RATE ...")] = RATES
    """Learning rates of Adam to try; learned feedback (dkp, fdfa) has the same."""
    weight_decays: Annotated[tuple[float, ...], arg(metavar="W ...", help_behavior_hint=_OF_RULE)] = ()
    """Weight decays of Adam to try."""
    dropouts: Annotated[tuple[float, ...], arg(metavar="P ...", help_behavior_hint=_OF_RULE)] = ()
    """Probabilities of dropping to try."""
    batch_sizes: Annotated[tuple[int, ...], arg(metavar="N ...", help_behavior_hint=_OF_NETWORK)] = ()
    """Examples per step to try."""
    epochs: Annotated[int | None, arg(metavar="N", help_behavior_hint=_OF_DATA)] = None
    """Passes over the training data."""
    clip: Annotated[float | None, arg(metavar="NORM", help_behavior_hint=_OF_NETWORK)] = None
    """Largest norm of the gradient of all weights together, at each step; inf leaves it as it is."""
    trials: Annotated[int, arg(metavar="N")] = 3
    """Runs per candidate."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of weights, feedback, data order and splits."""
    device: Name = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: PyTorch's choice)")] = None
    """CPU threads."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: results/tune-<data>-<time>)")] = None
    """Folder for tuning.json, which is written after every candidate."""
    overwrite: bool = False
    """Replace results that the folder holds already."""
    resume: Annotated[Path | None, arg(metavar="DIR", help=RESUME, help_behavior_hint="")] = None
    json: bool = False
    """Print the results as JSON and nothing else."""


@dataclass(frozen=True)
class DescribeOptions:
    """Options of `feedalign describe`."""

    data: Annotated[str, arg(metavar="NAME", help=f"{_DATA} They give the shapes.")] = "digits"
    network: Annotated[str | None, arg(metavar="NAME", help=_NETWORK, help_behavior_hint=_OF_DATA)] = None
    rule: Name = "dfa"
    """The rule; `feedalign rules` lists them."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class CheckOptions:
    """Options of `feedalign check`."""

    target: Positional[Annotated[str, arg(metavar="MODULE:FACTORY")]]
    """A function without arguments, or a class, that makes the model; it may return (model, example_inputs)."""
    rule: Name = "dfa"
    """The rule; `feedalign rules` lists them."""
    positions: Annotated[str | None, arg(metavar="HOW", help_behavior_hint="(default: told by the shapes)")] = None
    """For rules that project the error: positions (pixels, tokens) have one matrix (shared) or are features (full)."""
    points: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint=_ALL_POINTS)] = ()
    """Modules, by name or glob, at whose outputs teaching signals enter; blanks or commas between them."""
    output: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: what the model returns)")] = None
    """Module at whose output the error is taken."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class MonitorOptions:
    """Options of `feedalign monitor`."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """The monitor.jsonl that a Monitor wrote, or its folder."""
    quantities: Annotated[str, arg(metavar="NAMES", help=_QUANTITIES)] = "angle,signal_angle,ratio,norm,density,dead"
    out: Annotated[Path | None, arg(metavar="PNG", help_behavior_hint="(default: beside the file)")] = None
    """The picture."""
    overwrite: bool = False
    """Write over a picture that is there."""


@dataclass(frozen=True)
class RulesOptions:
    """Options of `feedalign rules`."""

    json: bool = False
    """Print JSON."""


Options: TypeAlias = (
    CompareOptions
    | TrainOptions
    | TuneOptions
    | LanguageOptions
    | PapersOptions
    | BenchOptions
    | DescribeOptions
    | CheckOptions
    | MonitorOptions
    | RulesOptions
)
