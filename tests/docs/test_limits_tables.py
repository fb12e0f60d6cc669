"""The table of limits, from a record made here."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = {
    "config": {"data": "fashion-mnist", "network": "mlp2-8", "epochs": 5, "trials": 2},
    "environment": {"torch": "2.13.0"},
    "points": [
        {"network": "mlp2-8", "rule": "backprop", "limits": "", "accuracy": [80.0, 82.0]},
        {"network": "mlp2-8", "rule": "dfa", "limits": "noise=0.5", "accuracy": [70.0, None]},
        {"network": "mlp2-8", "rule": "dfa", "limits": "noise=3", "accuracy": [None, None]},
        {"network": "fc2-8", "rule": "dfa", "limits": "error-bits=4,error-scale=row", "accuracy": [71.0, 72.0]},
    ],
}


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("limits_tables", ROOT / "docs" / "limits_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("tables", None)
    return module.limits


def test_every_limit_and_rule_has_a_line_with_what_diverged(render: object) -> None:
    lines = render(RECORD).splitlines()
    assert lines[2].split(" | ")[0] == "| noise over the signal's rms"
    assert lines[2].endswith("| `dfa` | 0.5: 70.0 (1 diverged) · 3: diverged |")
    assert "bits of the error, range of each sample | `dfa` on fc2-8 | 4: 71.5 ± 0.7 |" in lines[3]
    assert "`backprop` 81.0 ± 1.4." in lines[-1]
    assert "5 epochs" in lines[-1]
