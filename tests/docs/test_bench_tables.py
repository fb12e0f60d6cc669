"""Tables and the figure of the benchmark of rules, from a record made here."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def row(name: str, step: float, limit: float | None) -> dict[str, Any]:
    ratio = {"median": step, "low": step - 0.01, "high": step + 0.01}
    counts, size = (None, None) if limit is None else (10**6, 2**20)
    return {
        "name": name, "step_ms": 10 * step, "step": ratio, "forward": ratio, "backward": ratio, "peak_bytes": 2**20,
        "memory": 1.0, "limit": limit, "macs": counts, "feedback_macs": counts, "feedback_bytes": size,
        "kept_bytes": 0, "not_counted": [],
    }  # fmt: skip


def case(sweep: str | None, width: int, *rows: dict[str, Any]) -> dict[str, Any]:
    size = {"width": width, "depth": 4, "batch": 128, "steps": 1}
    return {
        "architecture": "mlp-wide",
        "size": size,
        "what": f"width {width}",
        "sweep": sweep,
        "rounds": 9,
        "is_cut": False,
        "rows": [row("backprop", 1.0, 1.0), *rows],
        "left_out": {"fg-w": "it cannot.", "biotorch-fa": "BioTorch is not"},
    }


RECORD: dict[str, Any] = {
    "format": 1,
    "status": "finished",
    "tests": "passed",
    "environment": {"torch": "2.13.0", "num_threads": 2, "device": "cpu", "device_name": "x", "load_average": 0.1},
    "optimizer": "SGD",
    "dtype": "float32",
    "rounds": 9,
    "biotorch": "BioTorch is not installed.",
    "cases": [
        case(None, 2048, row("dfa", 0.72, 0.69), row("fa", 1.02, 1.0), row("fdfa", 1.2, 1.03)),
        case("width", 64, row("dfa", 1.9, 0.7)),
        case("width", 512, row("dfa", 0.8, 0.69), row("biotorch-dfa", 1.1, None)),
    ],
}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "bench-rules.json").write_text(json.dumps(RECORD))
    return tmp_path


def rendered(render_blocks: ModuleType, name: str, records: Path) -> str:
    page: str = render_blocks.render(f"<!-- numbers:{name} -->\n<!-- /numbers -->\n", records)
    return page


def test_times_stand_beside_limits(render_blocks: ModuleType, records: Path) -> None:
    page = rendered(render_blocks, "bench-rules", records)
    assert "| dfa | 0.72 (0.69) |" in page
    assert "backprop |" not in page
    assert "2 threads of a CPU" in page
    assert "tests of the tree" not in page
    untested = {**RECORD, "tests": "left out", "status": "interrupted"}
    (records / "bench-rules.json").write_text(json.dumps(untested))
    page = rendered(render_blocks, "bench-rules", records)
    assert "The tests of the tree: left out." in page
    assert "cases are missing" in page


def test_parts_of_the_record(render_blocks: ModuleType, records: Path) -> None:
    assert "| `mlp-wide` | width 2048 | 10.0 | 1.0 | 9 |" in rendered(render_blocks, "bench-rules#sizes", records)
    assert "| fdfa | 1, 1 |" in rendered(render_blocks, "bench-rules#feedback", records)
    for part in ("forward", "backward", "memory"):
        assert "| dfa |" in rendered(render_blocks, f"bench-rules#{part}", records)
    sweeps = rendered(render_blocks, "bench-rules#sweeps", records)
    assert "| dfa | 1.90 (0.70) | 0.80 (0.69) |" in sweeps
    assert "| biotorch-dfa | – | 1.10 (–) |" in sweeps
    left_out = rendered(render_blocks, "bench-rules#left-out", records)
    assert "* fg-w on `mlp-wide`: it cannot." in left_out
    assert left_out.count("BioTorch is not") == 1


def test_misses_are_rules_that_need_no_more_and_are_slower_in_wide_layers(
    render_blocks: ModuleType, records: Path
) -> None:
    page = rendered(render_blocks, "bench-rules#misses", records)
    assert "| `mlp-wide` | width 2048 | – | fa | 1.020 | 1.010 .. 1.030 | 1.000 |" in page
    assert "dfa |" not in page


def test_the_figure_is_the_same_for_the_same_record(render_blocks: ModuleType, records: Path) -> None:
    figures = render_blocks.figures
    folder = records / "figures"
    assert "bench-rules" in figures.stale(records, folder)
    figures.draw("bench-rules", records, folder)
    assert "bench-rules" not in figures.stale(records, folder)
    first = (folder / "bench-rules.svg").read_bytes()
    assert b"limit of operations" in first
    figures.draw("bench-rules", records, folder)
    assert (folder / "bench-rules.svg").read_bytes() == first


def test_costs_are_counted_where_they_are_shown(render_blocks: ModuleType, tmp_path: Path) -> None:
    page = render_blocks.render("<!-- table:costs -->\n<!-- /table -->\n", tmp_path)
    lines = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in page.splitlines() if "|" in line
    }
    assert len(lines) == 2 + 16
    forward = 32 * (784 * 512 + 2 * 512 * 512 + 512 * 10) / 1e6
    assert lines["backprop"][:2] == ["1.00", f"{forward:.2f}"]
    # Forward, weights and signals, over forward, weights and inputs.
    assert lines["dfa"][0] == f"{(2 * forward + 32 * 10 * 3 * 512 / 1e6) / (3 * forward - 32 * 784 * 512 / 1e6):.2f}"
    assert lines["drtp, streaming"][3] == "0.00"
