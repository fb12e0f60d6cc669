"""Scenes on the command line, from end to end on small ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_scene import write_blender, write_llff

from feedalign_lab import comparison
from feedalign_lab.cli import main
from feedalign_lab.cost import CostRecord
from feedalign_lab.scenes import film, networks
from feedalign_lab.scenes.fields import FieldShape
from feedalign_lab.scenes.task import load
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("rough_pictures")

_SMALL = FieldShape(width=12, num_layers=3, skips=(2,), point_frequencies=2, direction_frequencies=1)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that train in a moment; timing has tests of its own."""

    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    monkeypatch.setattr(comparison, "measure_cost", measure)
    monkeypatch.setattr(film, "NUM_FRAMES", 3)
    for name, network in list(networks._NETWORKS.items()):
        tiny = replace(_SMALL, sees_directions=network.fine.sees_directions)
        coarse = None if network.coarse is None else tiny
        even, drawn = (4, 4) if coarse else (6, 0)
        small = replace(network, fine=tiny, coarse=coarse, num_even=even, num_drawn=drawn, num_iterations=3)
        monkeypatch.setitem(networks._NETWORKS, name, small)


def test_compare_a_scene_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, out = write_blender(tmp_path / "scene", {"train": 3, "val": 1, "test": 2}, size=(24, 24)), tmp_path / "out"
    arguments = ["--data", f"nerf:{scene}", "--network", "nerf-tiny", "--epochs", "2", "--batch-size", "16"]
    assert main(["compare", *arguments, "--rules", "backprop,dfa,shallow", "--trials", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [row["rule"] for row in results["summary"]] == ["backprop", "dfa", "shallow"]
    assert results["metric"] == {"name": "PSNR", "unit": "dB", "better": "higher", "digits": 2}
    assert results["data"]["views"] == {"train": 3, "validation": 1, "test": 2}
    assert results["data"]["width"] == 12
    assert results["summary"][0]["test_score"]["count"] == 1
    assert "SSIM" in results["summary"][1]["other_scores"]
    assert set(results["trivial"]) == {"mean colour", "mean picture"}
    assert "PSNR" in printed
    written = {path.name for path in out.iterdir()}
    assert {"views.png", "dfa-view.png", "dfa-turn.gif", "shallow-view.png", "learning_curves.png"} <= written


def test_a_comparison_that_was_cut_shows_the_views_of_all_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = write_blender(tmp_path / "scene", {"train": 3, "val": 1, "test": 2}, size=(24, 24))
    arguments = ["--data", f"nerf:{scene}", "--network", "nerf-tiny", "--epochs", "1", "--batch-size", "16"]
    command = ["compare", *arguments, "--rules", "dfa,shallow", "--trials", "1"]
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    assert main([*command, "--out", str(whole)]) == 0
    honest = comparison.run_trial

    def interrupt_in_the_second(trial: Any, spec: Any, *others: Any) -> Any:
        if spec.rule == "shallow":
            raise KeyboardInterrupt
        return honest(trial, spec, *others)

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "run_trial", interrupt_in_the_second)
        assert main([*command, "--out", str(twice)]) == 130
    assert not (twice / "views.png").exists()
    assert main([*command, "--resume", str(twice)]) == 0
    assert {path.name for path in twice.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.glob("*.png"):
        assert (twice / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("network", ["nerf", "nerf-dual", "nerf-xl"])
def test_train_the_larger_networks(tmp_path: Path, network: str) -> None:
    scene, out = write_llff(tmp_path / "scene", 9), tmp_path / "out"
    arguments = ["--data", f"llff:{scene}", "--network", network, "--rule", "dfa", "--epochs", "1"]
    assert main(["train", *arguments, "--batch-size", "16", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["network"]["noise_on_densities"] == 1.0
    layers = {entry["layer"] for entry in results["trials"][0]["epochs"][-1]["alignment"]}
    assert {"coarse.view", "fine.view"} <= layers
    assert {path.name for path in out.iterdir()} >= {"weights.pt", "view.png", "turn.gif"}
    weights = torch.load(out / "weights.pt", weights_only=True)
    assert not any("feedalign" in name for name in weights)
    task = load(f"llff:{scene}", network, schedule=Schedule(1, 16))
    model = networks.network_of(network)
    assert task.network_facts()["num_parameters"] == sum(value.numel() for value in weights.values())
    assert model.num_drawn == 4


def test_describe_tells_of_both_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = write_llff(tmp_path / "scene", 9)
    assert main(["describe", "--data", f"llff:{scene}", "--network", "nerf", "--rule", "dfa"]) == 0
    assert capsys.readouterr().out.count("feature_point") == 2


@pytest.mark.parametrize("command", ["train", "compare", "tune"])
def test_a_scene_that_is_broken_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    scene, out = write_blender(tmp_path / "scene", {"train": 3, "test": 2}, size=(24, 24)), tmp_path / "out"
    (scene / "test" / "r_1.png").write_bytes((scene / "test" / "r_1.png").read_bytes()[:40])
    network = "--networks" if command == "tune" else "--network"
    assert main([command, "--data", f"nerf:{scene}", network, "nerf-tiny", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "r_1.png cannot be read as a picture" in err
    assert err.count("\n") == 1
    assert not out.exists() or not list(out.iterdir())


def test_what_means_nothing_for_scenes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "lego", "--network", "nerf-tiny", "--rule", "dfa", "--dropout", "0.1"]) == 2
    assert "scenes" in capsys.readouterr().err


def test_tune_on_the_validation_views(tmp_path: Path) -> None:
    scene, out = write_blender(tmp_path / "scene", {"train": 3, "test": 2}, size=(24, 24)), tmp_path / "out"
    arguments = ["--data", f"nerf:{scene}", "--networks", "nerf-tiny", "--rules", "dfa", "--rates", "0.001", "0.01"]
    assert main(["tune", *arguments, "--epochs", "1", "--trials", "1", "--out", str(out)]) == 0
    tuning = (out / "tuning.json").read_text()
    assert "nerf-tiny" in tuning
