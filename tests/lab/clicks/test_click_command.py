"""Click logs on the command line, from end to end on a small one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_logs import csv_file, people

from feedalign_lab import comparison
from feedalign_lab.cli import main
from feedalign_lab.cost import CostRecord

pytestmark = pytest.mark.usefixtures("rough_pictures")


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing has tests of its own."""

    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    monkeypatch.setattr(comparison, "measure_cost", measure)


def arguments(log: Path, network: str = "deepfm-small") -> list[str]:
    return ["--data", f"clicks:{log}", "--network", network, "--epochs", "2", "--batch-size", "32"]


def test_compare_a_log_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = csv_file(tmp_path / "log.csv", people(400)), tmp_path / "out"
    rules = ["--rules", "backprop,dfa,shallow", "--trials", "2", "--out", str(out)]
    assert main(["compare", *arguments(log), *rules]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["rule"] for row in results["summary"]] == ["backprop", "dfa", "shallow"]
    assert results["metric"]["name"] == "AUC"
    assert results["judged_at"] == "chosen"
    assert results["data"]["parts"]["train"]["rows"] > 300
    assert [field["kind"] for field in results["data"]["fields"]] == ["log", "categorical"]
    for row in results["summary"]:
        assert row["test_score_chosen"]["count"] == 2
        assert "log loss" in row["other_scores_chosen"]
    cosines = json.loads((out / "dfa-cosines.json").read_text())
    assert set(cosines) == {"mlp.2", "mlp.6", "mlp.10"}
    assert all(-1 <= one["mean"] <= 1 for one in cosines.values())
    assert not (out / "shallow-cosines.json").exists()
    assert "AUC" in capsys.readouterr().out


def test_train_leaves_weights(tmp_path: Path) -> None:
    log, out = csv_file(tmp_path / "log.csv", people(300)), tmp_path / "out"
    assert main(["train", *arguments(log, "afn-small"), "--rule", "dfa", "--out", str(out)]) == 0
    assert {"results.json", "weights.pt"} <= {path.name for path in out.iterdir()}


def test_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = csv_file(tmp_path / "log.csv", people(300))
    assert main(["describe", "--data", f"clicks:{log}", "--network", "deepcross-small", "--rule", "dfa"]) == 0
    printed = capsys.readouterr().out
    assert "cross.layers.0.point" in printed
    assert "stack" in printed


def test_damage_is_one_line_and_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = csv_file(tmp_path / "log.csv", [*people(50), "1,2"]), tmp_path / "out"
    assert main(["compare", *arguments(log), "--rules", "dfa", "--trials", "1", "--out", str(out)]) == 2
    assert "line 52: 2 columns" in capsys.readouterr().err
    assert not out.exists() or not list(out.iterdir())


def test_what_a_factorization_machine_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = csv_file(tmp_path / "log.csv", people(50))
    out = ["--trials", "1", "--out", str(tmp_path / "out")]
    assert main(["compare", *arguments(log, "fm"), "--rules", "dfa", *out]) == 2
    assert "dfa needs hidden layers" in capsys.readouterr().err
