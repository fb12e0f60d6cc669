"""Join the results of several runs of `feedalign compare` or `feedalign language` into one record that a page shows.

    python docs/join_records.py NAME DIR [DIR ...]

writes docs/records/NAME.json from the `results.json` of each folder. Epoch by epoch results stay out: those of long
runs on small data would fill megabytes, and pages show summaries.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"
_LEFT_OUT = ("trials", "features", "runs")


def main(arguments: list[str] | None = None, records: Path = RECORDS) -> None:
    """Join the runs.

    Args:
        arguments: The command line without the command; None for that of the process.
        records: The folder to write to.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="name of the record")
    parser.add_argument("folders", type=Path, nargs="+", help="folders that hold a results.json each")
    given = parser.parse_args(arguments)
    runs = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in given.folders]
    if unfinished := [str(d) for d, run in zip(given.folders, runs, strict=True) if run["status"] != "finished"]:
        parser.error(f"not finished: {', '.join(unfinished)}; nothing is written")
    records.mkdir(parents=True, exist_ok=True)
    path = records / f"{given.name}.json"
    path.write_text(json.dumps({"runs": [_summary_of(run) for run in runs]}, indent=1) + "\n", encoding="utf-8")


def _summary_of(run: dict[str, Any]) -> dict[str, Any]:
    """A run without what it tells of single epochs, and of the folders of the machine."""
    kept = {key: value for key, value in run.items() if key not in _LEFT_OUT}
    prefix, colon, path = str(kept.get("config", {}).get("data", "")).partition(":")
    if colon:
        kept["config"] = {**kept["config"], "data": f"{prefix}:{Path(path).name}"}
    if "text" in kept:
        kept["text"] = {key: value for key, value in kept["text"].items() if key != "source"}
    return kept


if __name__ == "__main__":
    main()
