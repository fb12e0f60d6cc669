"""The options of `feedalign papers`; imports nothing heavy, so that help is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

RECORDS = Path("results") / "papers"

ABOUT = """The tables and figures of five papers, regenerated: printed numbers beside ours, with a verdict on each.

Papers: drtp, dirdfa, fdfa, dfa-scales, rnn-dfa. Every finished trial is put on file at once, so that a run can be
stopped at any time and goes on where it stopped.

Examples:
  feedalign papers list
  feedalign papers show drtp table1
  feedalign papers run drtp table1 --cells 'fc1-500/*' --trials 3 --epochs 20
  feedalign papers table drtp table1
  feedalign papers report --out report.html
"""
LIST = """List the papers with their tables and figures, and how much of each is on file.

Examples:
  feedalign papers list
"""
SHOW = """Show the cells of a table and how each is trained, without training anything.

Examples:
  feedalign papers show drtp table1
  feedalign papers show fdfa b6 --cells 'mnist/*'
"""
RUN = """Train the cells of a table, or what a figure shows, as far as they are not on file yet.

Without --epochs and --trials the protocol's numbers are taken: the paper's, or ours where it names none (`show` tells).
What is trained with fewer is on file beside it, and is labelled so wherever it is shown. Several processes can run the
same table at once, on one machine or on many that share the folder of the records: none trains what another one has
begun. A trial is on file once it is done; of trials that are trained at once (--stacked), all are under way together.
What was under way when the process ended goes on from its last checkpoint, bit for bit.

A figure is drawn anew each time, from trials that are on file as far as they are; beside the records it replaces the
one that was made with no more. In a folder of --out nothing is replaced without --overwrite.

Examples:
  feedalign papers run dfa-scales table3 --cells 'cora/*'
  feedalign papers run drtp table1 --cells 'fc1-500/*' --trials 3 --epochs 20
  feedalign papers run drtp table1 --jobs 4
  feedalign papers run drtp table2 --launcher slurm --jobs 32 --partition gpu --gpus 1 --device cuda
  feedalign papers run fdfa fig6
"""
TABLE = """Print a table: the printed number, ours, how far apart, and the verdict.

A number is reproduced where ours lies within the slack, the larger of a tolerance that was fixed before the first run
and two standard errors. With fewer epochs or trials than the paper had it is called incomplete, never reproduced.

Examples:
  feedalign papers table drtp table1
  feedalign papers table dfa-scales table3 --format markdown
"""
REPORT = """Write all tables and figures to one HTML page that opens from disk.

A page that is there already is left as it is, and the command ends with status 2, unless --overwrite is given.

Examples:
  feedalign papers report --overwrite
  feedalign papers report --records results/papers --out report.html
"""

Name = Annotated[str, arg(metavar="NAME")]
_RECORDS_HELP = "Folder of the records."
_PAPER_HELP = "Paper: drtp, dirdfa, fdfa, dfa-scales or rnn-dfa."
_CELLS_HELP = "Cells, by patterns as in a shell, such as 'fc1-500/*'; all where there is none."


@dataclass(frozen=True)
class ListOptions:
    """Options of `feedalign papers list`."""

    records: Annotated[Path, arg(metavar="DIR", help=_RECORDS_HELP)] = RECORDS
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ShowOptions:
    """Options of `feedalign papers show`."""

    paper: Positional[Annotated[str, arg(metavar="PAPER", help=_PAPER_HELP)]]
    table: Positional[Annotated[str, arg(metavar="TABLE", help="Table, as `feedalign papers list` names it.")]]
    cells: Annotated[tuple[str, ...], arg(metavar="PATTERN ...", help=_CELLS_HELP)] = ()


@dataclass(frozen=True)
class RunOptions:
    """Options of `feedalign papers run`."""

    paper: Positional[Annotated[str, arg(metavar="PAPER", help=_PAPER_HELP)]]
    what: Positional[
        Annotated[str, arg(metavar="TABLE|FIGURE", help="Table or figure, as `feedalign papers list` names it.")]
    ]
    cells: Annotated[tuple[str, ...], arg(metavar="PATTERN ...", help=_CELLS_HELP)] = ()
    trials: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the protocol's)")] = None
    """Runs of each cell."""
    epochs: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the protocol's)")] = None
    """Passes over the training data."""
    records: Annotated[Path, arg(metavar="DIR", help=_RECORDS_HELP)] = RECORDS
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: beside the records)")] = None
    """Of a figure: folder for the picture and its data."""
    overwrite: bool = False
    """Of a figure: replace that in the folder of --out, unless it was made with more epochs or trials."""
    stacked: Annotated[int, arg(metavar="N")] = 10
    """Trials of a cell that are trained at once as one stacked model, where the network allows it; 1: one by one."""
    launcher: Annotated[str, arg(metavar="NAME")] = "local"
    """What starts the workers: local (processes of this machine), ray or slurm (their extras have to be installed)."""
    jobs: Annotated[int, arg(metavar="N")] = 1
    """Workers that share the cells out among themselves."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the CPUs shared out)")] = None
    """CPU threads of each worker."""
    hours: Annotated[float, arg(metavar="H")] = 24.0
    """With slurm: limit on the wall time of each job."""
    partition: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: SLURM's)")] = ""
    """With slurm: the partition."""
    gpus: Annotated[int, arg(metavar="N")] = 0
    """With ray and slurm: GPUs of each worker."""
    device: Name = "cpu"
    """Where to train: cpu, cuda, cuda:1."""


@dataclass(frozen=True)
class TableOptions:
    """Options of `feedalign papers table`."""

    paper: Positional[Annotated[str, arg(metavar="PAPER", help=_PAPER_HELP)]]
    table: Positional[Annotated[str, arg(metavar="TABLE", help="Table, as `feedalign papers list` names it.")]]
    cells: Annotated[tuple[str, ...], arg(metavar="PATTERN ...", help=_CELLS_HELP)] = ()
    records: Annotated[Path, arg(metavar="DIR", help=_RECORDS_HELP)] = RECORDS
    format: Annotated[str, arg(metavar="NAME")] = "text"
    """How: text, csv, markdown or json."""


@dataclass(frozen=True)
class ReportOptions:
    """Options of `feedalign papers report`."""

    records: Annotated[Path, arg(metavar="DIR", help=_RECORDS_HELP)] = RECORDS
    out: Annotated[Path, arg(metavar="FILE")] = Path("results") / "papers.html"
    """The page."""
    overwrite: bool = False
    """Replace the page if it is there already."""


@dataclass(frozen=True)
class PapersOptions:
    """Options of `feedalign papers`."""

    job: Annotated[
        Annotated[ListOptions, subcommand("list", description=LIST)]
        | Annotated[ShowOptions, subcommand("show", description=SHOW)]
        | Annotated[RunOptions, subcommand("run", description=RUN)]
        | Annotated[TableOptions, subcommand("table", description=TABLE)]
        | Annotated[ReportOptions, subcommand("report", description=REPORT)],
        arg(name=""),
    ]
