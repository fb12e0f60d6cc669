"""What a benchmark shows on screen."""

from rich.table import Table

from feedalign_lab.bench.timing import BenchResult, BenchRow, Ratio

_MIB, _MILLION = 2**20, 1e6
_NOISY = 1.5
_HEAD = ("step", "limit", "quartiles", "forward", "backward", "memory", "feedback, MMACs", "feedback, MiB")


def case_table(result: BenchResult) -> Table:
    """Return the table of one case.

    Args:
        result: What was measured.
    """
    base = result.rows[0]
    peak = base.peak_bytes / _MIB
    title = f"{result.case.title}: backprop {base.step_ms:.2f} ms, {peak:.1f} MiB; {result.rounds} rounds"
    table = Table(title=title, title_justify="left")
    table.add_column("over backprop's")
    for name in _HEAD:
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(row.name, *_cells(row))
    return table


def _cells(row: BenchRow) -> tuple[str, ...]:
    uncounted = "?" if row.not_counted else ""
    return (
        f"{row.step.median:.2f}",
        "–" if row.limit is None else f"{row.limit:.2f}{uncounted}",
        _spread(row.step),
        f"{row.forward.median:.2f}",
        f"{row.backward.median:.2f}",
        f"{row.memory:.2f}",
        "–" if row.feedback_macs is None else f"{row.feedback_macs / _MILLION:.3g}",
        "–" if row.feedback_bytes is None else f"{row.feedback_bytes / _MIB:.3g}",
    )


def _spread(ratio: Ratio) -> str:
    noisy = " noisy" if ratio.high > _NOISY * ratio.low else ""
    return f"{ratio.low:.2f} .. {ratio.high:.2f}{noisy}"


def legend_lines(*, is_quick: bool, is_tested: bool) -> list[str]:
    """Return what the tables mean, and what they do not.

    Args:
        is_quick: Whether everything was as small as it goes.
        is_tested: Whether the tests were run before.
    """
    lines = [
        "All columns but feedback's are parts of backprop's: below 1 is faster, or smaller. limit: the step by the "
        "count of operations alone.",
        f"quartiles: of the step over the rounds; noisy: more than {_NOISY:g} apart, measure again on a quiet machine.",
    ]
    if is_quick:
        lines.append("With --quick everything is too small to time: these ratios mean nothing, they show that it runs.")
    if not is_tested:
        lines.append("Nothing was tested before.")
    return lines


def left_out_lines(result: BenchResult) -> list[str]:
    """Return a line for each contestant that is not in a case, with the reason.

    Args:
        result: What was measured.
    """
    return [f"  without {name}: {_shortened(reason)}" for name, reason in result.left_out.items()]


def _shortened(reason: str, most: int = 160) -> str:
    first = reason.splitlines()[0] if reason else ""
    return first if len(first) <= most else f"{first[:most].rsplit(' ', 1)[0]} ..."
