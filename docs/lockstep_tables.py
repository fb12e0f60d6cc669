"""Markdown of the benchmark of trials in lock-step."""

from __future__ import annotations

from collections.abc import Callable

from tables import Record, number, table


def lockstep(record: Record) -> str:
    """Render step times of trials one after the other and as one stacked model, and the memory of both."""
    rows = [
        [row["case"], f"`{row['rule']}`", str(row["threads"]), *(number(row["ms"][way], 1) for way in row["ms"]),
         number(row["times_as_fast"], 2)]
        for row in record["step_time"]
    ]  # fmt: skip
    ways = list(record["step_time"][0]["ms"])
    head = ["network", "rule", "threads", *(f"{way}, ms" for way in ways), "times as fast"]
    memory = "; ".join(
        f"{row['case']}, `{row['rule']}`: "
        + ", ".join(f"{way} {size / 2**20:.0f} MiB" for way, size in row["bytes"].items())
        for row in record["peak_memory"]
    )
    how = f"medians of {record['rounds']} rounds, interleaved in one process, {record['dtype']}"
    return (
        f"{table(head, rows)}\n\nOne step of each of {record['num_trials']} trials: {how}. Peak memory of a run: "
        f"{memory}. PyTorch {record['torch']} on a CPU."
    )


FROM_RECORDS: dict[str, Callable[[Record], str]] = {"bench-lockstep": lockstep}
