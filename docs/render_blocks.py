"""Fill the marked blocks of README.md and the documentation from the code and from docs/records/*.json.

    python docs/render_blocks.py            fill them in, and draw the figures
    python docs/render_blocks.py --check    only say which ones are out of date, and fail if any is

A block is what stands between `<!-- numbers:NAME -->` and `<!-- /numbers -->`: there the record NAME.json is rendered,
or, with `NAME#PART`, a part of it; `papers` stands for the folder of that name. Or it stands between
`<!-- table:rules -->` and `<!-- /table -->`: there a line is made for each rule; with `costs`, one of what its step
costs; with `claims#PART`, one for each claim of a part of claims.toml. A block whose record does not exist says so.
Figures are drawn from records into docs/figures.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import bench_tables
import claims_tables
import field_tables
import figures
import language_tables
import limits_tables
import lockstep_tables
import papers_tables
import recurrent_tables
import robustness_tables
import tables

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs" / "records"
FIGURES = ROOT / "docs" / "figures"
FROM_RECORDS = (
    tables.FROM_RECORDS
    | recurrent_tables.FROM_RECORDS
    | language_tables.FROM_RECORDS
    | field_tables.FROM_RECORDS
    | lockstep_tables.FROM_RECORDS
    | limits_tables.FROM_RECORDS
    | bench_tables.FROM_RECORDS
    | robustness_tables.FROM_RECORDS
)

_BLOCK = re.compile(r"(<!-- (numbers|table):(\S+) -->\n)(.*?)(<!-- /\2 -->)", re.DOTALL)
_NOT_RECORDED = "*Not recorded yet.*"
_OPENING = re.compile(r"<!-- (?:numbers|table):\S+ -->")


def main() -> int:
    """Fill in or check every block and figure.

    Returns:
        Exit status: 0; 1 with `--check` if one is out of date.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a block or figure is out of date")
    only_check = parser.parse_args().check
    stale_figures = figures.stale(RECORDS, FIGURES)
    for figure in stale_figures:
        if only_check:
            print(f"docs/figures/{figure}.svg is out of date; `make docs` draws it", file=sys.stderr)
        else:
            figures.draw(figure, RECORDS, FIGURES)
            print(f"drew docs/figures/{figure}.svg")
    stale = [path for path in pages() if render(text := path.read_text(encoding="utf-8"), RECORDS) != text]
    for path in stale:
        if only_check:
            print(f"{path.relative_to(ROOT)}: blocks are out of date; `make docs` fills them in", file=sys.stderr)
        else:
            path.write_text(render(path.read_text(encoding="utf-8"), RECORDS), encoding="utf-8")
            print(f"filled in {path.relative_to(ROOT)}")
    return 1 if (stale or stale_figures) and only_check else 0


def pages() -> list[Path]:
    """Every page that may have blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def render(text: str, records: Path) -> str:
    """Return a page with its blocks filled in.

    Args:
        text: The page.
        records: The folder of the records.

    Returns:
        The page.

    Raises:
        ValueError: A block is not closed, or there is no way to render what it names.
    """
    if len(_OPENING.findall(text)) != len(_BLOCK.findall(text)):
        raise ValueError("A block is not closed: every <!-- numbers:NAME --> needs a <!-- /numbers -->.")

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_content(match[2], match[3], records)}\n\n{match[5]}"

    return _BLOCK.sub(fill, text)


def _content(kind: str, name: str, records: Path) -> str:
    if kind == "table" and name == "rules":
        return tables.rules_in_short()
    if kind == "table" and name == "costs":
        return bench_tables.costs()
    if kind == "table" and name.startswith("claims#"):
        return claims_tables.render(name.partition("#")[2], ROOT / "docs", records)
    if kind == "numbers" and name.partition("#")[0] == "papers":
        return papers_tables.render(name.partition("#")[2], records / "papers")
    if kind == "table" or name not in FROM_RECORDS:
        raise ValueError(f"There is no way to render the block {kind}:{name}; docs/tables.py makes them.")
    path = records / f"{name.partition('#')[0]}.json"
    if not path.exists():
        return _NOT_RECORDED
    return FROM_RECORDS[name](json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
