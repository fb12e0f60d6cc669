"""New rows scored with what a training left behind, and what a run tells of the log it read."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_logs import criteo_file, csv_file, people

from feedalign_lab.cli import main
from feedalign_lab.clicks import log as log_module
from feedalign_lab.clicks.log import Source, encode
from feedalign_lab.clicks.planted import PlantedLog
from feedalign_lab.clicks.row_encoder import RowEncoder
from feedalign_lab.clicks.schema import CRITEO
from feedalign_lab.clicks.scoring import load_scorer
from feedalign_lab.clicks.sources import load_log
from feedalign_lab.clicks.splitting import split
from feedalign_lab.clicks.task import ClickTask, load
from feedalign_lab.errors import CorruptFileError, MissingDataError
from feedalign_lab.task import silent
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("rough_pictures")

CPU = torch.device("cpu")
NAMES = [field.name for field in CRITEO.fields]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(log_module, "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def rows_of(path: Path, **options: object) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, **options))  # type: ignore[call-overload]


# Encoders.


@pytest.mark.parametrize("is_large", [False, True])
def test_rows_are_encoded_as_those_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    if is_large:
        monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = criteo_file(tmp_path, 1500)
    log = load_log(f"criteo:{path}")
    log.save_encoder(tmp_path / "encoder.json")
    encoder = RowEncoder.load(tmp_path / "encoder.json")
    rows = rows_of(path, fieldnames=["label", *NAMES], delimiter="\t")
    test = split(0, len(rows), "whole") == 2
    expected = log.parts["test"].read(0, log.parts["test"].num_rows)[0]
    assert np.array_equal(encoder.encode(rows)[test], expected)
    assert encoder.sizes == log.sizes


@pytest.mark.parametrize(
    "schema",
    ["", 'encoding = "hash"\nnum_buckets = 13', 'missing = ["Bonn"]\nmin_count = 2\n[fields]\nage = "quantiles"'],
)
def test_every_kind_of_encoder_is_kept(tmp_path: Path, schema: str) -> None:
    path = csv_file(tmp_path / "l.csv", people(200))
    if schema:
        (tmp_path / "l.toml").write_text(schema)
    log = load_log(f"clicks:{path}")
    log.save_encoder(tmp_path / "encoder.json")
    encoder = RowEncoder.load(tmp_path / "encoder.json")
    found = encoder.encode(rows_of(path))
    expected = np.concatenate([part.read(0, part.num_rows)[0] for part in log.parts.values()])
    assert sorted(found.tolist()) == sorted(expected.tolist())
    # What was never seen has a category of its field, too, and a number may be given as one.
    odd = encoder.encode([{"age": 33, "city": "Atlantis"}, {"age": None, "city": ""}])
    assert (odd >= np.cumsum([0, *log.sizes[:-1]])).all()
    assert (odd < np.cumsum(log.sizes)).all()


def test_rows_that_cannot_be_encoded(tmp_path: Path) -> None:
    encoder = load_log(f"clicks:{csv_file(tmp_path / 'l.csv', people(200))}").encoder()
    with pytest.raises(CorruptFileError, match=r"Row 2 has no city; the fields are age, city"):
        encoder.encode([{"age": "3", "city": "Ulm"}, {"age": "3"}])
    with pytest.raises(CorruptFileError, match=r"Row 1: age is 'old', where a number is expected"):
        encoder.encode([{"age": "old", "city": "Ulm"}])
    assert encoder.encode([]).shape == (0, 2)


# Scoring.


@pytest.fixture
def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    log, out = csv_file(tmp_path / "log.csv", people(300)), tmp_path / "out"
    arguments = ["--data", f"clicks:{log}", "--network", "afn-small", "--epochs", "2", "--batch-size", "32"]
    assert main(["train", *arguments, "--rule", "dfa", "--dropout", "0.2", "--out", str(out)]) == 0
    assert "encoder.json" in capsys.readouterr().out
    return out


def test_probabilities_are_those_of_the_trained_network(trained: Path, tmp_path: Path) -> None:
    scorer = load_scorer(trained)
    rows = rows_of(tmp_path / "log.csv")
    found = scorer.probabilities(rows)
    model = scorer.model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(scorer.encoder.encode(rows)).long()).sigmoid().squeeze(1)
    torch.testing.assert_close(torch.from_numpy(found).float(), expected)
    # The AUC on the test part is that of the results.
    from sklearn.metrics import roc_auc_score

    test = split(0, len(rows), "whole") == 2
    labels = np.array([int(row["label"]) for row in rows])
    results = json.loads((trained / "results.json").read_text())
    auc = results["summary"][0]["test_score_chosen"]["mean"]
    assert roc_auc_score(labels[test], found[test]) == pytest.approx(auc, abs=1e-6)
    assert scorer.probabilities([]).shape == (0,)


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def spoil(folder: Path) -> None:
    (folder / "encoder.json").write_text('{"format": 1')


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (lose("encoder.json"), MissingDataError, "has no encoder.json; `feedalign train` leaves"),
        (lose("weights.pt"), MissingDataError, "has no weights.pt"),
        (lose("results.json"), MissingDataError, "has no results.json"),
        (spoil, CorruptFileError, "encoder.json is not what `feedalign train` writes"),
    ],
)
def test_folders_without_a_trained_network(
    trained: Path, damage: Callable[[Path], None], error: type[Exception], sentence: str
) -> None:
    damage(trained)
    with pytest.raises(error, match=sentence):
        load_scorer(trained)


# What is told.


def test_what_is_told_of_a_log_whose_kinds_were_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = csv_file(tmp_path / "shop.csv", people(400))
    arguments = ["--data", f"clicks:{log}", "--network", "fm", "--epochs", "1", "--rule", "backprop"]
    assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    parts = json.loads((tmp_path / "out" / "results.json").read_text())["data"]["parts"]
    sizes = [f"{parts[name]['rows']} to {verb}" for name, verb in (("train", "train"), ("test", "test"))]
    assert f"400 rows, 25.0 % of them clicks: {sizes[0]}" in told
    assert sizes[1] in told
    assert "counts by their logarithm (log): age" in told
    assert "categorical: city" in told
    assert f"guessed from the first rows, at most 10,000; {tmp_path / 'shop.toml'} would say otherwise" in told


def test_a_search_tells_it_too_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = csv_file(tmp_path / "shop.csv", people(300))
    arguments = ["--data", f"clicks:{log}", "--networks", "fm,deepfm-small", "--rules", "backprop", "--epochs", "1"]
    assert main(["tune", *arguments, "--rates", "1e-3", "--trials", "1", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.count("300 rows") == 1


def test_what_is_told_under_a_schema(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "shop.csv", people(400))
    (tmp_path / "shop.toml").write_text('[fields]\nage = "quantiles"')
    lines = load(f"clicks:{path}", "fm", schedule=Schedule(1, 64), device=CPU).reading()
    assert "Fields: categorical: city; numbers by their rank (quantiles): age." in "\n".join(lines)
    assert "guessed" not in "\n".join(lines)


def test_remarks_of_small_logs_and_of_criteos(tmp_path: Path) -> None:
    task = load(f"criteo:{criteo_file(tmp_path, 400)}", "deepfm-small", schedule=Schedule(1, 64), device=CPU)
    told = "\n".join(task.remarks())
    test = task.log.parts["test"]
    assert f"{test.num_rows} test rows, {test.num_clicks} of them clicks" in told
    others = test.num_rows - test.num_clicks
    error = np.sqrt((test.num_rows + 1) / (12 * test.num_clicks * others))
    assert f"about {error:.2f}" in told
    assert f"46 million rows; this log has {task.log.parts['train'].num_rows}" in told
    assert "feedalign tune" in told


def test_the_best_possible_auc_is_a_remark() -> None:
    log = replace(encode("planted", [Source(PlantedLog(1500), "whole")], CRITEO, silent), bayes_auc=0.87654)
    told = "\n".join(ClickTask(log, "fm", Schedule(1, 64), CPU).remarks())
    assert "0.8765 is the best possible AUC" in told
    assert "on average over draws of the clicks of the test rows" in told
    large = replace(log, name="adult", bayes_auc=None)
    assert "best possible" not in "\n".join(ClickTask(large, "fm", Schedule(1, 64), CPU).remarks())
