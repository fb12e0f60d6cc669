"""Reading what a command wrote."""

import json
from pathlib import Path
from typing import Any

TINY = ("--epochs", "1", "--network", "fc2-8")


def results_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text
