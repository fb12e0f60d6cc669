"""Markdown of what damaged files, random architectures and many steps came to."""

from __future__ import annotations

from collections.abc import Callable

from tables import Record, table

_NOT_RUN = "*Not recorded yet.*"


def fuzzing(record: Record) -> str:
    """Render what readers made of damaged files."""
    readers = record.get("fuzzing")
    if not readers:
        return _NOT_RUN
    rows = [
        [
            name,
            f"{one['inputs']:,}",
            f"{one.get('read', 0):,}",
            f"{one.get('refused', 0):,}",
            f"{one.get('fault', 0):,}",
        ]
        for name, one in readers.items()
    ]
    totals = [sum(one.get(key, 0) for one in readers.values()) for key in ("inputs", "read", "refused", "fault")]
    rows.append(["together", *(f"{total:,}" for total in totals)])
    return table(["files", "inputs", "read or passed over", "refused with a typed error", "anything else"], rows)


def architectures(record: Record) -> str:
    """Render what random architectures had in them, and what held of them."""
    found = record.get("architectures")
    if not found:
        return _NOT_RUN
    kinds = ", ".join(f"{name} {count:,}" for name, count in found["kinds"].items())
    held = [[what, f"{count:,}"] for what, count in found["shown"].items() if not what.startswith("refused")]
    refused = {what.removeprefix("refused: "): count for what, count in found["shown"].items() if "refused" in what}
    told = ", ".join(f"`{name}` {count:,}" for name, count in refused.items())
    return (
        f"{table(['what held', 'times'], held)}\n\n"
        f"{found['architectures']:,} architectures, {found['pairs']:,} pairs of architecture and rule, "
        f"{found['failures']:,} failures. Of the architectures had: {kinds}. Refused: {told}."
    )


def soak(record: Record) -> str:
    """Render what memory many steps held."""
    found = record.get("soak")
    if not found:
        return _NOT_RUN
    early, steps = found["early"], found["steps"]
    rows = [
        [
            name,
            *(f"{one[f'tensors at {number}']:,}" for number in (early, steps)),
            *(f"{one[f'KiB at {number}'] / 1024:.1f}" for number in (early, steps)),
        ]
        for name, one in found["rules"].items()
    ]
    marks = (f"at {early:,}", f"at {steps:,}")
    return table(["", *(f"live tensors {m}" for m in marks), *(f"MiB resident {m}" for m in marks)], rows)


FROM_RECORDS: dict[str, Callable[[Record], str]] = {
    "robustness": fuzzing,
    "robustness#architectures": architectures,
    "robustness#soak": soak,
}
"""What renders each block that comes from a record, by the block's name."""
