"""What `import feedalign` takes beyond `import torch`, in fresh processes, interleaved.

`python -m benchmarks.import_time [--rounds 15] [--out FILE]`. The bar: 0.1 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

BAR = 0.1
_CODE = """
import time
began = time.perf_counter()
import torch
between = time.perf_counter()
import feedalign
print(between - began, time.perf_counter() - between)
"""


# Compiled modules are kept, as they are for anybody.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=_ENVIRONMENT)


def seconds() -> tuple[float, float]:
    """What a fresh process takes for torch, and then for feedalign."""
    torch, feedalign = map(float, _python("-c", _CODE).stdout.split())
    return torch, feedalign


def slowest_modules(count: int = 8) -> list[tuple[str, float]]:
    """The modules that take most of it themselves, in milliseconds, torch's own left aside."""
    code = "import torch; import sys; print('from here', file=sys.stderr); import feedalign"
    told = _python("-X", "importtime", "-c", code).stderr.partition("from here")[2]
    rows = [line.removeprefix("import time:").split("|") for line in told.splitlines()]
    own = [(row[2].strip(), int(row[0]) / 1e3) for row in rows if len(row) == 3 and row[0].strip().isdigit()]
    return sorted(own, key=lambda one: -one[1])[:count]


def main() -> None:
    """Measure, print and write the figures down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_time", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seconds()  # what is not in the cache of files is read here
    found = [seconds() for _ in range(given.rounds)]
    facts = {
        "torch": round(statistics.median(torch for torch, _ in found), 4),
        "feedalign beyond it": round(statistics.median(own for _, own in found), 4),
        "feedalign beyond it, least": round(min(own for _, own in found), 4),
        "modules, milliseconds": dict(slowest_modules()),
    }
    print(json.dumps(facts, indent=1))
    print(f"the bar is {BAR:g} seconds")
    if given.out is not None:
        given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
