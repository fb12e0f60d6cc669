"""Tables and figures of recurrent networks, from records made here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

BENCH: dict[str, Any] = {
    "rounds": 60,
    "dtype": "float32",
    "torch": "2.13.0",
    "num_threads": 2,
    "step_time": [
        {
            "cell": cell,
            "shape": "T=28, N=100, H=512",
            "ratio": {"bptt": 1.0, "dfa": ratio, **({"dfa, reset before": 0.876} if cell == "gru" else {})},
            "memory": {"bptt": 2**21, "dfa": 2**20, "dfa, reset before": 3 * 2**20},
        }
        for cell, ratio in (("rnn", 0.512), ("gru", 0.857))
    ],
    "backward_time": [
        {"cell": cell, "shape": "N=10, H=128", "lengths": [25, 50], "ms": {"bptt": [1.0, 2.25], "dfa": [0.5, 0.75]}}
        for cell in ("rnn", "gru", "lstm")
    ],
    "streaming_memory": [
        {
            "cell": "rnn",
            "shape": "N=100, H=512",
            "bytes": {"bptt": {"100": 2**20, "1000": 2**23}, "drtp streaming": {"100": 2**20, "1000": 2**20}},
        }
    ],
}


def run(data: str, network: str, rules: tuple[str, ...] = ("dfa", "backprop"), **more: Any) -> dict[str, Any]:
    return {
        "format": 2,
        "status": "finished",
        "config": {"data": data, "network": network, "trials": 3, "schedule": {"epochs": 40}, "clip": 2.0},
        "environment": {"torch": "2.13.0", "num_threads": 1, "device": "cpu"},
        "settings": {rule: {"learning_rate": 5e-4, "gamma": 0.5 if rule == "dfa" else None} for rule in rules},
        "trivial": {"most frequent class": {"mean": 30.0, "std": 1.0, "count": 3}},
        "summary": [
            {
                "rule": rule,
                "num_trials": 3,
                "num_finished": 3,
                "test_score": {"mean": 24.5, "std": 1.25, "count": 3},
                "test_score_chosen": None,
            }
            for rule in rules
        ],
        "trials": [{"epochs": []}],
        "features": [],
        **more,
    }


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return {name: load(name) for name in ("render_blocks", "join_records", "figures")}
    finally:
        sys.path.remove(str(ROOT / "docs"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rendered(modules: dict[str, ModuleType], name: str, records: Path) -> str:
    page: str = modules["render_blocks"].render(f"<!-- numbers:{name} -->\n<!-- /numbers -->\n", records)
    return page


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "bench-recurrent.json").write_text(json.dumps(BENCH))
    return tmp_path


def test_step_times_have_a_row_for_each_cell_and_contestant(modules: dict[str, ModuleType], records: Path) -> None:
    page = rendered(modules, "bench-recurrent", records)
    assert "| nn.RNN: dfa | 0.51 |" in page
    assert "| nn.GRU: dfa | 0.86 |" in page
    assert "| nn.GRU: dfa, reset before | 0.88 |" in page
    assert "nn.RNN: dfa, reset before" not in page
    assert "bptt |" not in page
    assert "Medians of 60 steps" in page
    assert '"reset before" is `fa.nn.GRU(reset="before")`' in page


def test_parts_of_the_record(modules: dict[str, ModuleType], records: Path) -> None:
    assert "| nn.RNN: bptt | 2.0 |" in rendered(modules, "bench-recurrent#memory", records)
    assert "| nn.RNN: drtp streaming | 1.0 | 1.0 |" in rendered(modules, "bench-recurrent#streaming", records)
    backward = rendered(modules, "bench-recurrent#backward", records)
    assert "(figures/backward-time.svg)" in backward
    assert "| nn.LSTM: dfa | 0.50 | 0.75 |" in backward


def test_without_a_record_there_is_neither_a_table_nor_an_image(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    for name in ("bench-recurrent", "bench-recurrent#backward", "rnn-paper", "mackey-glass"):
        assert rendered(modules, name, tmp_path).count("*Not recorded yet.*") == 1
    assert modules["figures"].stale(tmp_path, tmp_path) == []


def test_the_figure_is_drawn_once_for_each_record(modules: dict[str, ModuleType], records: Path) -> None:
    figures, folder = modules["figures"], records / "figures"
    assert figures.stale(records, folder) == ["backward-time"]
    figures.draw("backward-time", records, folder)
    assert figures.stale(records, folder) == []
    first = (folder / "backward-time.svg").read_bytes()
    assert first.count(b"nn.LSTM") == 1
    figures.draw("backward-time", records, folder)
    assert (folder / "backward-time.svg").read_bytes() == first

    (records / "bench-recurrent.json").write_text(json.dumps(BENCH | {"rounds": 61}))
    assert figures.stale(records, folder) == ["backward-time"]


def test_the_figures_of_the_documentation_are_those_of_the_records(modules: dict[str, ModuleType]) -> None:
    stale = modules["figures"].stale(ROOT / "docs" / "records", ROOT / "docs" / "figures")
    assert not stale, f"{', '.join(stale)}: out of date; `make docs` draws them"


def test_accuracies_stand_beside_those_of_the_paper(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    runs = [run("row-mnist", "gru-512"), run("ecg200", "gru-before-50-x2"), run("ecg200", "rnn-50")]
    (tmp_path / "rnn-paper.json").write_text(json.dumps({"runs": runs}))
    page = rendered(modules, "rnn-paper", tmp_path)
    rows = [line for line in page.splitlines() if line.startswith(("| ecg200", "| row-mnist"))]
    ours = "75.50 ± 1.25 | – | 70.00"
    assert rows == [
        f"| ecg200 | `rnn-50` | dfa | 0.0005 | 40 | 3 | {ours} | 78.2 ± 1.47 |",
        f"| ecg200 | `rnn-50` | backprop | 0.0005 | 40 | 3 | {ours} | 83.30 ± 2.1 |",
        f"| ecg200 | `gru-before-50-x2` | dfa | 0.0005 | 40 | 3 | {ours} | 80.6 ± 2.25 |",
        f"| ecg200 | `gru-before-50-x2` | backprop | 0.0005 | 40 | 3 | {ours} | 82.10 ± 1.14 |",
        f"| row-mnist | `gru-512` | dfa | 0.0005 | 40 | 3 | {ours} | (72.49 ± 1.1) |",
        f"| row-mnist | `gru-512` | backprop | 0.0005 | 40 | 3 | {ours} | (99.23 ± 0.03) |",
    ]
    assert "clipped at norm 2.0, PyTorch 2.13.0, 1 thread of a CPU" in page


def test_forecasts_stand_beside_what_needs_no_learning(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    trivial = {"mean": {"mean": 1.0, "std": None, "count": 1}}
    (tmp_path / "mackey-glass.json").write_text(json.dumps(run("mackey-glass", "gru-50", trivial=trivial)))
    page = rendered(modules, "mackey-glass", tmp_path)
    assert "| `gru-50` | dfa | 0.50 | 40 | 3 | 24.5000 ± 1.2500 | – |" in page
    assert "| `gru-50` | backprop | – |" in page
    assert "| – | no learning: mean | – | – | – | 1.0000 | – |" in page


def test_runs_are_joined_without_their_epochs(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    for name, status in (("a", "finished"), ("b", "finished"), ("c", "interrupted")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(run("ecg200", f"rnn-{len(name)}", status=status)))
    join, records = modules["join_records"].main, tmp_path / "records"
    join(["rnn-paper", str(tmp_path / "a"), str(tmp_path / "b")], records)
    joined = json.loads((records / "rnn-paper.json").read_text())
    assert len(joined["runs"]) == 2
    assert "trials" not in joined["runs"][0]
    assert "| ecg200 | `rnn-1` |" in rendered(modules, "rnn-paper", records)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "results.json").write_text(json.dumps(run("graph:/home/me/mine", "gcn")))
    join(["own", str(tmp_path / "own")], records)
    assert json.loads((records / "own.json").read_text())["runs"][0]["config"]["data"] == "graph:mine"
    with pytest.raises(SystemExit):
        join(["other", str(tmp_path / "c")], records)
    assert not (records / "other.json").exists()


def test_what_compare_writes_can_be_rendered(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from feedalign_lab import data
    from feedalign_lab.cli import main
    from feedalign_lab.data.dataset import Dataset

    def load_little(_name: str, _device: object = "cpu", **_options: object) -> Dataset:
        x, y = torch.randn(20, 6, 2), torch.arange(20) % 3
        return Dataset("libras", x, y, x, y, 3, "classification", "none")

    monkeypatch.setattr(data, "load", load_little)
    arguments = ["compare", "--data", "libras", "--network", "gru-before-8", "--epochs", "1", "--trials", "1"]
    assert main([*arguments, "--rules", "dfa,backprop", "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    modules["join_records"].main(["rnn-paper", str(tmp_path / "run")], tmp_path)
    page = rendered(modules, "rnn-paper", tmp_path)
    assert "| libras | `gru-before-8` | dfa | " in page
    assert "| 67.50 ± 3.68 |" in page
