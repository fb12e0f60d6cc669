"""Random architectures by the thousand: `PYTHONPATH=src:tests python -m integration.many_architectures --count 2500`.

Each is tried under a few rules in turn. `--record docs/records/robustness.json` puts the counts on file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from integration.random_models import Architecture, architectures
from integration.random_properties import RULES, outcome_of

RULES_EACH = 4


class Counts:
    """What random architectures showed so far."""

    def __init__(self) -> None:
        self.seen: set[Architecture] = set()
        self.kinds: Counter[str] = Counter()
        self.shown: Counter[str] = Counter()
        self.by_rule: dict[str, Counter[str]] = {rule.name: Counter() for rule in RULES}
        self.failures: list[str] = []

    def note(self, architecture: Architecture) -> None:
        """Try one that was not there before."""
        if architecture in self.seen:
            return
        self.seen.add(architecture)
        self.kinds.update(architecture.kinds)
        for rule in Random(len(self.seen)).sample(RULES, RULES_EACH):
            try:
                shown = outcome_of(architecture, rule)
            except Exception:
                self.failures.append(f"{architecture}\n{rule}\n{traceback.format_exc()}")
                self.by_rule[rule.name]["failed"] += 1
                continue
            self.shown.update(shown)
            self.by_rule[rule.name]["refused" if shown[-1].startswith("refused") else "worked"] += 1

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "architectures": len(self.seen),
            "pairs": sum(count.total() for count in self.by_rule.values()),
            "failures": len(self.failures),
            "kinds": dict(self.kinds.most_common()),
            "shown": dict(self.shown.most_common()),
            "rules": {name: dict(count) for name, count in self.by_rule.items()},
        }


def try_many(count: int) -> Counts:
    """Try so many random architectures, nearly, since some come twice."""
    counts = Counts()

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(architecture=architectures())
    def one(architecture: Architecture) -> None:
        counts.note(architecture)

    one()
    return counts


def main() -> int:
    """Run what is asked for; 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m integration.many_architectures", description=__doc__)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--record", type=Path)
    given_ = parser.parse_args()
    began = time.monotonic()
    counts = try_many(given_.count)
    print(*counts.failures[:5], sep="\n\n")
    print(json.dumps(counts.record(), indent=1), f"{time.monotonic() - began:.0f} s")
    if given_.record is not None:
        kept = json.loads(given_.record.read_text(encoding="utf-8")) if given_.record.exists() else {}
        kept["architectures"] = counts.record()
        given_.record.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return int(bool(counts.failures))


if __name__ == "__main__":
    sys.exit(main())
