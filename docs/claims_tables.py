"""The claims of the five papers: what stands in claims.toml, checked, and as tables.

Each claim has a verdict and what bears it out. Numbers are never typed: a claim names a record, or what `feedalign
papers run` left on file of a figure or of cells, and what is to hold in it, and the page shows the numbers found there.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from claims_evidence import Drawn, Order, Ranking
from tables import table

Verdict = Literal["shown", "not shown", "contradicted", "not testable here", "to run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NUM_CLAIMS = 98
SECTIONS: Mapping[str, range] = {
    "rules": range(1, 32),
    "models": range(32, 43),
    "training": range(43, 50),
    "data": range(50, 57),
    "measurements": range(57, 73),
    "findings": range(73, 99),
}
"""What each part of the page is about: the numbers of its claims."""

_PAGES, _TESTS = "docs/", "tests/"
_BREAK = "<br>"


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        number: Its number, from 1.
        papers: The papers that make it or need it, by the names of `feedalign papers`.
        text: What it says.
        verdict: One of `VERDICTS`.
        evidence: What was looked at: `tests/....py::test_name`, `docs/PAGE.md#heading`, `docs/records/NAME.json`,
            `docs/records/papers/PAPER/FIGURE.json` or `TABLE.jsonl`.
        measured: What records are to say.
        figures: What figures of the papers are to say.
        rankings: What trials of cells of the papers' tables are to say.
        runs: What `feedalign papers run` would make for it: "drtp table1".
        note: What to know besides: what is missing, what was found instead.
    """

    number: int
    papers: tuple[str, ...]
    text: str
    verdict: Verdict
    evidence: tuple[str, ...] = ()
    measured: tuple[Order, ...] = ()
    figures: tuple[Drawn, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    runs: tuple[str, ...] = ()
    note: str = ""


def load(path: Path) -> list[Claim]:
    """Read the claims.

    Args:
        path: The file claims.toml.

    Returns:
        The claims, in its order.

    Raises:
        TypeError: An entry has a field that there is not, or lacks one.
    """
    entries: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    return [_claim(entry) for entry in entries]


def _claim(entry: dict[str, Any]) -> Claim:
    measured = tuple(Order(**{**order, "places": tuple(order["places"])}) for order in entry.pop("measured", ()))
    figures = tuple(Drawn(**one) for one in entry.pop("figures", ()))
    rankings = tuple(Ranking(**{**one, "cells": tuple(one["cells"])}) for one in entry.pop("rankings", ()))
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Claim(**lists, measured=measured, figures=figures, rankings=rankings)


def summary(claims: Sequence[Claim]) -> str:
    """Render how many claims have which verdict.

    Args:
        claims: All claims.

    Returns:
        A table, a row for each part of the page.
    """
    by_number = {claim.number: claim for claim in claims}
    rows = [
        [f"[{section}](#{section})", *_counts([by_number[number] for number in numbers])]
        for section, numbers in SECTIONS.items()
    ]
    return table(["claims about", "all", *VERDICTS], [*rows, ["all", *_counts(claims)]])


def _counts(claims: Sequence[Claim]) -> list[str]:
    counts = Counter(claim.verdict for claim in claims)
    return [str(len(claims)), *(str(counts[verdict] or "–") for verdict in VERDICTS)]


def section(claims: Sequence[Claim], name: str, records: Path) -> str:
    """Render the claims of one part of the page.

    Args:
        claims: All claims.
        name: One of `SECTIONS`.
        records: The folder of the records.

    Returns:
        A table, a row for each claim.
    """
    chosen = [claim for claim in claims if claim.number in SECTIONS[name]]
    rows = [
        (str(claim.number), claim.text, ", ".join(claim.papers), f"**{claim.verdict}**", _where(claim, records))
        for claim in chosen
    ]
    return table(("no.", "claim", "papers", "verdict", "where, and what to know"), rows)


def _where(claim: Claim, records: Path) -> str:
    lines = [claim.note] if claim.note else []
    said: tuple[Order | Drawn | Ranking, ...] = (*claim.measured, *claim.figures, *claim.rankings)
    lines += [one.told(records) for one in said]
    lines += _tests(claim.evidence)
    lines += [_link(item) for item in claim.evidence if not item.startswith(_TESTS)]
    lines += [f"`feedalign papers run {run}`" for run in claim.runs]
    return _BREAK.join(lines)


def _tests(evidence: Sequence[str]) -> list[str]:
    """A line for each file of tests, with what its tests say: their names are sentences."""
    by_file: dict[str, list[str]] = {}
    for item in evidence:
        if item.startswith(_TESTS):
            path, _, name = item.partition("::test_")
            by_file.setdefault(path, []).append(name.replace("_", " "))
    return [f"`{path}`: {'; '.join(names)}" for path, names in by_file.items()]


def _link(item: str) -> str:
    """A page, or a record, of the documentation."""
    page = item.removeprefix(_PAGES)
    return f"`{item}`" if item.endswith((".json", ".jsonl")) else f"[{page}]({page})"


def render(name: str, folder: Path, records: Path) -> str:
    """Render a block of the page.

    Args:
        name: "summary", or one of `SECTIONS`.
        folder: Where claims.toml is.
        records: The folder of the records.

    Returns:
        Markdown.

    Raises:
        ValueError: There is no such block.
    """
    claims = load(folder / "claims.toml")
    if name == "summary":
        return summary(claims)
    if name not in SECTIONS:
        raise ValueError(f"There is no way to render the block claims#{name}: the parts are {', '.join(SECTIONS)}.")
    return section(claims, name, records)
