"""The options of `feedalign bench`; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

SweepName = Literal["none", "width", "depth", "batch", "steps", "all"]

ABOUT = """Time every rule on every architecture, in turns with backprop, beside the limit that its operations set.

A table of ratios to backprop (step, forward and backward apart, peak memory), with the ratio of operations
(fa.measure.cost) and the feedback beside each; or a sweep against width, depth, batch or steps of a sequence. Nothing
is timed in a clone whose tests fail. Ctrl-C keeps what was done.

Examples:
  feedalign bench
  feedalign bench --quick
  feedalign bench --architectures mlp-wide,gru --rules dfa,drtp,fdfa --threads 2
  feedalign bench --sweep width --rules dfa,dkp
  feedalign bench --sweep steps --architectures rnn,gru
  feedalign bench --sweep all --threads 2 --out docs/records/bench-rules.json --overwrite
  feedalign bench --device cuda
"""
_RULES = (
    "Rules, comma-separated, or all; beside those of feedalign rules: drtp-streaming; "
    "fg-a-rademacher and fg-w-rademacher; biotorch-dfa, biotorch-fa, biotorch-usf where that package is installed; on "
    "a GPU backprop and dfa with -compiled and -graphs behind."
)
_ARCHITECTURES = "Of mlp-wide, mlp-deep, cnn, rnn, gru, transformer, recommender, comma-separated, or all."
_SWEEP = (
    "Vary the width, the depth, the batch or the steps of a sequence, and nothing else; all: the table of "
    "architectures, and every sweep."
)


@dataclass(frozen=True)
class BenchOptions:
    """What `feedalign bench` takes."""

    rules: Annotated[str, arg(metavar="NAMES", help=_RULES)] = "all"
    architectures: Annotated[str, arg(metavar="NAMES", help=_ARCHITECTURES)] = "all"
    sweep: Annotated[SweepName, arg(help=_SWEEP)] = "none"
    rounds: Annotated[int, arg(metavar="N")] = 25
    """Steps of each contestant, at most."""
    seconds: Annotated[float, arg(metavar="S")] = 30.0
    """How long one architecture is timed, and a third of it one size of a sweep; but five rounds at least."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """CPU threads."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Where to run, such as cuda."""
    quick: bool = False
    """Small networks and few rounds: whether everything runs, not how fast."""
    untested: bool = False
    """Leave the tests out; the record says so."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The record, JSON. Without it: results/bench-<time>.json."""
    overwrite: bool = False
    """Write over a record that is there."""
    json: bool = False
    """Print the record and nothing else."""
