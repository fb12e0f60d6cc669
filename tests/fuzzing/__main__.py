"""Damaged inputs for every reader, counted: `PYTHONPATH=src:tests python -m fuzzing --count 200000 --folder FOLDER`.

What was done before in the same folder counts; the inputs are the same every time. Faults lie in `FOLDER/faults`.
`--record docs/records/robustness.json` puts the counts on file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from fuzzing.readers import READERS
from fuzzing.runs import Campaign


def main() -> int:
    """Run what is asked for; 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    parser.add_argument("--count", type=int, default=200_000, help="inputs of all readers together")
    parser.add_argument("--folder", type=Path, required=True, help="where counts and faults are kept")
    parser.add_argument("--only", help="one reader, by name")
    parser.add_argument("--record", type=Path, help="a JSON file to put the counts into, under the key fuzzing")
    given = parser.parse_args()
    campaign = Campaign(given.folder)
    readers = [reader for reader in READERS if given.only in {None, reader.name}]
    total = sum(reader.weight for reader in readers)
    for reader in readers:
        began, before = time.monotonic(), campaign.tallies[reader.name].done if reader.name in campaign.tallies else 0
        tally = campaign.run(reader, math.ceil(given.count * reader.weight / total))
        seconds = time.monotonic() - began
        rate = (tally.done - before) / max(seconds, 1e-9)
        print(f"{reader.name:18} {dict(tally.outcomes)} {dict(tally.errors)} {rate:.0f}/s", flush=True)
        for number, what in list(tally.faults.items())[:5]:
            print(f"    FAULT {number}: {what}", flush=True)
    if given.record is not None:
        _record(given.record, campaign)
    return int(any(tally.faults for tally in campaign.tallies.values()))


def _record(path: Path, campaign: Campaign) -> None:
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept["fuzzing"] = {
        name: {"inputs": tally.done, **tally.outcomes, "errors": dict(sorted(tally.errors.items()))}
        for name, tally in campaign.tallies.items()
    }
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
