"""Graphs on the command line, from end to end on small ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_graphs import EDGES, NODES, write_folder, write_ring

from feedalign_lab import comparison
from feedalign_lab.cli import main
from feedalign_lab.cost import CostRecord

pytestmark = pytest.mark.usefixtures("rough_pictures")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken, not timed: timing has tests of its own."""

    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    monkeypatch.setattr(comparison, "measure_cost", measure)


def test_compare_classes_on_a_graph_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, out = write_ring(tmp_path / "graph"), tmp_path / "out"
    arguments = ["--data", f"graph:{graph}", "--network", "gcn", "--rules", "backprop,dfa,shallow", "--trials", "2"]
    assert main(["compare", *arguments, "--epochs", "2", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert [row["rule"] for row in results["summary"]] == ["backprop", "dfa", "shallow"]
    assert results["metric"] == {"name": "accuracy", "unit": "%", "better": "higher", "digits": 2}
    assert results["judged_at"] == "chosen"
    assert results["data"]["num_nodes"] == 30
    assert results["summary"][1]["test_score_chosen"]["count"] == 2
    assert set(results["trivial"]) == {"largest class"}
    written = {path.name for path in out.iterdir()}
    assert {"hidden.png", "dfa-hidden.png", "dfa-alignment.json", "learning_curves.png", "angles.png"} <= written
    assert "test accuracy (%)" in capsys.readouterr().out


def test_a_graph_without_edges_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = write_folder(tmp_path / "graph", edges="source,target\n")
    run = ["train", "--data", f"graph:{graph}", "--network", "gcn", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main(run) == 0
    assert "has no edges" in " ".join(capsys.readouterr().out.split())
    (remark,) = json.loads((tmp_path / "out" / "results.json").read_text())["remarks"]
    assert "no node learns anything of others" in remark


def test_without_validation_nodes_the_last_epoch_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = write_folder(tmp_path / "graph", nodes=NODES.replace(",validation,", ",,"))
    run = ["--data", f"graph:{graph}", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main(["train", *run, "--network", "gcn"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["judged_at"] == "last"
    assert "no validation nodes" in results["remarks"][0]
    assert "no validation nodes: the last epoch counts" in " ".join(capsys.readouterr().out.split())
    assert main(["tune", *run, "--rules", "dfa", "--rates", "0.1", "--overwrite"]) == 2
    assert "no validation part" in capsys.readouterr().err


def test_a_whole_graph_has_nothing_to_remark(tmp_path: Path) -> None:
    graph = write_ring(tmp_path / "graph")
    run = ["train", "--data", f"graph:{graph}", "--network", "gcn", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert main(run) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["remarks"] == []


def test_train_the_autoencoder(tmp_path: Path) -> None:
    graph, out = write_ring(tmp_path / "graph"), tmp_path / "out"
    arguments = ["--data", f"graph:{graph}", "--network", "gae", "--rule", "dfa", "--epochs", "3", "--dropout", "0.1"]
    assert main(["train", *arguments, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["metric"]["name"] == "AUC"
    assert set(results["trials"][0]["epochs"][-1]["other_scores"]) == {"AP"}
    assert {path.name for path in out.iterdir()} >= {"weights.pt", "alignment.json"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--network", "gcn", "--flip"], "flip"),
        (["--network", "gcn", "--batch-size", "4"], "batch-size"),
        (["--network", "gcn", "--rules", "drtp"], "needs hidden units that saturate"),
        (["--network", "mlp2-800"], "mlp2-800"),
    ],
)
def test_what_graphs_have_no_use_for_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    out = tmp_path / "out"
    graph = write_ring(tmp_path / "graph")
    assert main(["compare", "--data", f"graph:{graph}", *arguments, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_a_broken_graph_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, out = write_folder(tmp_path / "graph", NODES, EDGES + "a,z\n"), tmp_path / "out"
    assert main(["compare", "--data", f"graph:{graph}", "--network", "gcn", "--out", str(out)]) == 2
    assert "edges.csv, line 5: nodes.csv has no node 'z'" in capsys.readouterr().err
    assert not out.exists()
