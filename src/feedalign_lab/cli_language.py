"""The command `feedalign language`: what it prints, and its exit status."""

import sys

import torch

from feedalign_lab.cli_output import print_table
from feedalign_lab.cli_resume import Asked, status_of_ended, way_on
from feedalign_lab.language.command import plan_of, run
from feedalign_lab.language.comparison import LanguageComparison, config_of
from feedalign_lab.language.options import LanguageOptions
from feedalign_lab.language.report import language_table
from feedalign_lab.results import to_json

_EXIT_OK, _EXIT_DIVERGED, _EXIT_INTERRUPTED = 0, 1, 130


def train_language(options: LanguageOptions, device: torch.device) -> int:
    """Train every rule and show what came of it: figures on stdout, what went wrong on stderr.

    Args:
        options: What the command line was parsed to.
        device: Where to train.

    Returns:
        The exit status.
    """
    plan = plan_of(options)
    if (status := status_of_ended(options, Asked("language", config_of(plan)))) is not None:
        return status
    comparison = run(options, plan, device)
    if options.json:
        print(to_json(comparison.to_dict()), end="")
    else:
        _show(comparison)
    diverged = [run_of_rule for run_of_rule in comparison.runs if run_of_rule.status == "diverged"]
    for run_of_rule in diverged:
        print(f"feedalign: {run_of_rule.message}", file=sys.stderr)
    if comparison.status == "interrupted":
        ending = way_on(comparison.files[0].parent)
        print(f"feedalign: interrupted; what was done is kept.{ending}", file=sys.stderr)
        return _EXIT_INTERRUPTED
    return _EXIT_DIVERGED if diverged else _EXIT_OK


def _show(comparison: LanguageComparison) -> None:
    """The table, what each model wrote, and the files."""
    print_table(language_table(comparison))
    for name, run_of_rule in comparison.best().items():
        if run_of_rule.sample:
            print(f"\n{name}: {comparison.prompt}|{run_of_rule.sample}")
    print()
    for path in comparison.files:
        print(f"wrote {path}")
