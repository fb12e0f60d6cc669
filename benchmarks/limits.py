"""`python -m benchmarks.limits`: accuracy on Fashion-MNIST against each limit of hardware, as a record and a figure.

Data come from the folder in FEEDALIGN_DATA, or are fetched. Ctrl-C keeps the points that are done, and the next run
goes on with the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from feedalign.errors import FeedalignError
from feedalign_lab.limits_plot import draw_limits
from feedalign_lab.limits_sweep import SweepPlan, run_sweep
from feedalign_lab.results import ResultsFolder

_DOCS = Path(__file__).parent.parent / "docs"


def main() -> int:
    """Train, write, draw.

    Returns:
        0, or 2 if the record cannot be gone on with.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=_DOCS / "records" / "limits.json", help="the record")
    parser.add_argument("--figure", type=Path, default=_DOCS / "figures" / "limits.png", help="the figure")
    parser.add_argument("--minutes", type=float, default=None, help="begin no point after so many minutes")
    parser.add_argument("--only-draw", action="store_true", help="train nothing")
    given = parser.parse_args()
    plan = SweepPlan()
    try:
        minutes = -1.0 if given.only_draw else given.minutes
        record = run_sweep(plan, given.out, lambda sentence: print(sentence, flush=True), minutes)
        given.figure.parent.mkdir(parents=True, exist_ok=True)
        ResultsFolder(given.figure.parent).write_bytes(given.figure.name, draw_limits(record.points, plan))
    except FeedalignError as error:
        print(f"limits: {error}", file=sys.stderr)
        return 2
    print(f"wrote {given.out} and {given.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
