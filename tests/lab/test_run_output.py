"""What a run prints and leaves: headings, columns, names of files, the epoch of the weights, and ends from outside."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lab_output import one_line, results_in
from toy_task import RULES, ToyDomain, ToyTask, ToyTrial

import feedalign as fa
from feedalign_lab.cli import main
from feedalign_lab.domains import domain_of
from feedalign_lab.papers.setting import RuleSetting
from feedalign_lab.task import ResultFile

pytestmark = pytest.mark.usefixtures("rough_pictures")

RUN = ["compare", "--data", "toys", "--rules", "backprop,dfa", "--trials", "2"]
TRAIN = ["train", "--data", "toys", "--rule", "dfa"]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, in one line without the lines of the table."""
    return " ".join(capsys.readouterr().out.replace("┃", " ").replace("│", " ").split())


def of_layers(*names: str) -> tuple[fa.measure.LayerAlignment, ...]:
    return tuple(fa.measure.LayerAlignment(name, "tanh", 1.0, 40.0 + place, 3.0) for place, name in enumerate(names))


def with_layers(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(ToyTrial, "alignment", lambda self: of_layers(*names))


def test_each_chosen_epoch_names_its_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    head = [line for line in capsys.readouterr().out.splitlines() if "┃" in line]
    columns = [
        " ".join(cell.strip() for cell in cells).strip() for cells in zip(*(h.split("┃") for h in head), strict=True)
    ]
    assert [one for one in columns if "chosen" in one] == ["AUC, chosen epoch", "log loss, chosen epoch"]


def test_train_has_no_columns_that_are_always_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_layers(monkeypatch)
    assert main([*TRAIN, "--out", str(tmp_path)]) == 0
    out = told(capsys)
    assert "test AUC" in out
    for missing in ("time", "memory", "angle"):
        assert missing not in out.split("wrote")[0]


@pytest.mark.parametrize(
    ("untuned", "options", "sentence"),
    [
        ({"dfa"}, [], "rates of dfa are not tuned for this: feedalign tune searches them"),
        ({"backprop", "dfa"}, [], "rates of backprop, dfa are not tuned for this"),
        ({"backprop", "dfa"}, ["--lr", "0.5"], ""),
        (set(), [], ""),
    ],
)
def test_rates_that_nobody_tuned_are_told_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: ToyTask,
    monkeypatch: pytest.MonkeyPatch,
    untuned: set[str],
    options: list[str],
    sentence: str,
) -> None:
    def setting(self: ToyDomain, data: str, network: str, rule: str) -> RuleSetting:
        return RuleSetting(RULES[rule], "default", "ours, untuned: as toys" if rule in untuned else "toys")

    monkeypatch.setattr(ToyDomain, "rule_setting", setting)
    assert main([*RUN, *options, "--out", str(tmp_path)]) == 0
    out = told(capsys)
    assert sentence in out
    assert ("not tuned" in out) == bool(sentence)


def test_short_layers_are_named_in_the_heading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    out = told(capsys)
    assert "angle fc1" in out
    assert "angle: degrees between the rule's and backprop's delta" in out
    assert "time and memory: of one step, over backprop's" in out


@pytest.mark.parametrize(
    ("layers", "heading"),
    [
        (("embedding.first_order", "mlp.layers.0", "mlp.layers.3"), "angle 1 angle 2 angle 3"),
        (tuple(f"layers.{number}" for number in range(8)), "angles 1 … 8"),
    ],
)
def test_long_or_many_layers_have_numbers_and_a_legend(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: ToyTask,
    monkeypatch: pytest.MonkeyPatch,
    layers: tuple[str, ...],
    heading: str,
) -> None:
    with_layers(monkeypatch, *layers)
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    out = told(capsys)
    assert heading in out
    assert "layers: " + ", ".join(f"{number}={layer}" for number, layer in enumerate(layers, start=1)) in out


@pytest.mark.parametrize("name", ["results.json", "weights.pt", "learning_curves.png", "../elsewhere.txt", ""])
def test_a_trial_cannot_take_the_name_of_a_file_of_the_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def results(self: ToyTrial) -> Sequence[ResultFile]:
        return [(name, lambda path: path.write_text("taken"))]

    monkeypatch.setattr(ToyTrial, "results", results)
    assert main([*TRAIN, "--out", str(tmp_path / "out")]) == 2
    assert f"cannot be called {name!r}" in one_line(capsys.readouterr().err)
    # What was trained is kept.
    assert results_in(tmp_path / "out")["trials"][0]["status"] == "finished"
    assert not (tmp_path / "elsewhere.txt").exists()


@pytest.mark.parametrize(("judged_at", "weight", "epoch"), [("last", 1.5, 3), ("chosen", 0.5, 1)])
def test_weights_are_those_of_the_epoch_that_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask, judged_at: str, weight: float, epoch: int
) -> None:
    # Highest (w - 2)^2, over w of 0.5, 1, 1.5: after the first epoch.
    task.judged_at = judged_at  # type: ignore[assignment]
    assert main([*TRAIN, "--out", str(tmp_path)]) == 0
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert list(weights) == ["weight"]
    assert float(weights["weight"]) == weight
    assert results_in(tmp_path)["weights_epoch"] == epoch
    which = "last" if judged_at == "last" else "chosen"
    assert f"weights.pt: weights after epoch {epoch}, the {which} one" in told(capsys)


def test_a_comparison_saves_no_weights(tmp_path: Path, task: ToyTask) -> None:
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert results_in(tmp_path)["weights_epoch"] is None


@pytest.mark.parametrize("arguments", [RUN, TRAIN], ids=["compare", "train"])
def test_a_run_that_is_told_to_end_keeps_what_was_done(
    tmp_path: Path, task: ToyTask, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    honest = ToyTrial.train_epoch

    def train_epoch(self: ToyTrial, number: int) -> float:
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, number)

    monkeypatch.setattr(ToyTrial, "train_epoch", train_epoch)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 130
    results = results_in(tmp_path / "out")
    assert results["status"] == "interrupted"
    assert [len(trial["epochs"]) for trial in results["trials"]] == [2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_scores_of_a_search_have_the_digits_of_their_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: ToyTask
) -> None:
    assert main(["tune", "--data", "toys", "--rules", "dfa", "--rates", "0.3", "--out", str(tmp_path)]) == 0
    # (0.9 - 2)^2 after three epochs.
    assert " 1.210 " in capsys.readouterr().out
    assert json.loads((tmp_path / "tuning.json").read_text())["candidates"][0]["score"]["mean"] == pytest.approx(1.21)


@pytest.mark.parametrize(
    ("command", "sentences"),
    [
        ("describe", ["graph:PATH", "criteo:PATH", "lego", "gat", "deepfm", "nerf-tiny"]),
        (
            "compare",
            [
                "for every rule: at the input of every fully connected layer, or where the network has it. (default",
                "costs backprop. (default: 1; for graphs and large radiance fields 50, for recurrent networks 10)",
            ],
        ),
    ],
)
def test_help_names_what_there_is_and_its_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, sentences: list[str]
) -> None:
    assert [
        domain_of(data).run_setting(data, network).angles_every
        for data, network in (
            ("digits", "fc2-20"),
            ("adult", "fm"),
            ("cora", "gcn"),
            ("lego", "nerf-tiny"),
            ("lego", "nerf"),
            ("libras", "gru-8"),
        )
    ] == [1, 1, 50, 1, 50, 10]
    monkeypatch.setenv("COLUMNS", "250")
    assert main([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for sentence in sentences:
        assert sentence in out
