"""The command `feedalign bench`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.bench.peers import PEERS, lack_of_biotorch
from feedalign_lab.bench.plan import BenchPlan, plan_of
from feedalign_lab.bench.report import case_table, left_out_lines, legend_lines
from feedalign_lab.bench.running import Bench, run_bench
from feedalign_lab.bench.timing import BenchResult
from feedalign_lab.bench.tree import FAILED, LEFT_OUT, NONE, PASSED, clone, run_tests
from feedalign_lab.cli_machine import cpu_threads, device_named
from feedalign_lab.cli_output import print_table
from feedalign_lab.environment import describe_environment
from feedalign_lab.errors import OutputFolderError
from feedalign_lab.results import ResultsFolder, to_json

_EXIT_OK, _EXIT_USER_ERROR, _EXIT_INTERRUPTED = 0, 2, 130


def bench(options: BenchOptions) -> int:
    """Run the tests, then time what the options name.

    Args:
        options: Of the command.

    Returns:
        The exit status: 0 done, 2 the tests fail, 130 interrupted.

    Raises:
        FeedalignError: An option is wrong, or the record cannot be written.
    """
    device = device_named(options.device)
    plan = plan_of(options, on_gpu=device.type == "cuda")
    path = options.out or Path("results") / f"bench-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    if path.exists() and not options.overwrite:
        raise OutputFolderError(f"{path} is there already: name another with --out, or give --overwrite.")
    _make_folder(path.parent)
    with cpu_threads(options.threads):
        environment = describe_environment(device)
        tests = LEFT_OUT if options.untested else run_tests(clone())
        if tests == FAILED:
            print("feedalign: the tests of this tree fail, so nothing is timed.", file=sys.stderr)
            return _EXIT_USER_ERROR
        _introduce(plan, tests, is_quiet=options.json)
        run = Bench(plan, tests, environment)
        _run(run, device, path, is_quiet=options.json)
    return _close(run, path, options, is_tested=tests == PASSED)


def _run(run: Bench, device: torch.device, path: Path, *, is_quiet: bool) -> None:
    """Time everything; the record is written anew after each case."""
    with _Shown(len(run.plan.cases), is_quiet=is_quiet) as shown:

        def save(bench: Bench) -> None:
            ResultsFolder(path.parent).write_bytes(path.name, to_json(bench.to_dict()).encode())
            shown.cases(bench.results)

        run_bench(run, device, shown.tell, save)


def _close(run: Bench, path: Path, options: BenchOptions, *, is_tested: bool) -> int:
    """Say what the tables mean, where the record is, and how it ended."""
    if options.json:
        print(to_json(run.to_dict()), end="")
    elif run.results:
        print(*legend_lines(is_quick=options.quick, is_tested=is_tested), sep="\n")
        print(f"wrote {path}")
    if run.status == "interrupted":
        kept = "what was done is kept" if run.results else "no case was done, and nothing was written"
        print(f"feedalign: interrupted; {kept}.", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_OK


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFolderError(f"{folder} cannot be made ({error.strerror}): name another file with --out.") from error


def _introduce(plan: BenchPlan, tests: str, *, is_quiet: bool) -> None:
    """Say what is not as one would take it to be."""
    told = []
    if tests == NONE:
        told.append("Nothing was tested: this package is installed without its tests, and the record says so.")
    if tests == LEFT_OUT:
        told.append("Nothing was tested (--untested), and the record says so.")
    lack = lack_of_biotorch()
    if lack and any(name in PEERS for case in plan.cases for name in case.contestants):
        told.append(lack)
    if not is_quiet:
        for sentence in told:
            print(sentence, file=sys.stderr)


class _Shown:
    """A bar over all cases on stderr, where that is a terminal, and a table of each on stdout."""

    def __init__(self, num_cases: int, *, is_quiet: bool) -> None:
        self.is_quiet, self.num_shown = is_quiet, 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total:.0f} cases"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=is_quiet or not sys.stderr.isatty(),
            transient=True,
        )
        self.task = self.bar.add_task("getting ready", total=num_cases)

    def __enter__(self) -> "_Shown":
        self.bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.stop()

    def tell(self, what: str, share: float) -> None:
        """Show what is done, and the case's share that is."""
        self.bar.update(self.task, description=what, completed=self.num_shown + min(share, 1.0))

    def cases(self, results: list[BenchResult]) -> None:
        """Print the tables of cases that were not printed yet."""
        for result in results[self.num_shown :]:
            if not self.is_quiet:
                print_table(case_table(result))
                for line in _worth_telling(result):
                    print(line)
                print(flush=True)
        self.num_shown = len(results)


def _worth_telling(result: BenchResult) -> list[str]:
    """Why contestants are left out; that of a package that is not here was told once."""
    lines = left_out_lines(result)
    return [line for line in lines if not (lack_of_biotorch() and "without biotorch" in line)]
