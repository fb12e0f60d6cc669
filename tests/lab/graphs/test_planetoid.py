from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from small_graphs import write_planetoid

from feedalign_lab.errors import CorruptFileError, MissingDataError, UnsafePickleError
from feedalign_lab.graphs.planetoid import load_planetoid
from feedalign_lab.graphs.task import load
from feedalign_lab.learner import LearnerSpec


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of a small PubMed are to lie."""
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    monkeypatch.setattr("feedalign_lab.data.location.cache_root", lambda: tmp_path / "cache")
    return tmp_path / "planetoid" / "PubMed" / "raw"


def test_a_small_pubmed_is_read_as_it_was_written(raw: Path) -> None:
    wrote = write_planetoid(raw, "pubmed")
    graph = load_planetoid("pubmed")
    np.testing.assert_array_equal(graph.features.numpy(), wrote["words"])
    np.testing.assert_array_equal(graph.labels.numpy(), wrote["labels"])
    # A chain, and one edge that was there four times; a loop is left out.
    assert graph.num_edges == graph.num_nodes - 1 + 1
    assert graph.split is not None
    assert graph.split.train.tolist() == list(range(20))
    assert graph.split.validation.tolist() == list(range(20, 520))
    assert graph.split.test.tolist() == wrote["test"]


@pytest.mark.parametrize("network", ["gcn", "dna", "gae"])
def test_a_small_pubmed_trains(raw: Path, network: str) -> None:
    write_planetoid(raw, "pubmed")
    trial = load("pubmed", network).trial(LearnerSpec("dfa", network, 0.01))
    first = trial.train_epoch(1)
    assert trial.train_epoch(2) != first
    assert 0 <= trial.scores().test <= 100


def test_test_nodes_of_citeseer_that_are_in_no_file_have_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    wrote = write_planetoid(tmp_path / "planetoid" / "CiteSeer" / "raw", "citeseer", missing=(4, 9))
    graph = load_planetoid("citeseer")
    assert graph.num_nodes == wrote["num_nodes"]
    assert not bool(graph.features[[544, 549]].any())
    assert graph.split is not None
    assert not {544, 549} & set(graph.split.test.tolist())


def test_nothing_is_written_beside_the_files(raw: Path) -> None:
    write_planetoid(raw, "pubmed")
    before = sorted(raw.parent.rglob("*"))
    raw.chmod(0o555)
    raw.parent.chmod(0o555)
    try:
        load_planetoid("pubmed")
    finally:
        raw.parent.chmod(0o755)
        raw.chmod(0o755)
    assert sorted(raw.parent.rglob("*")) == before


def test_the_missing_file_is_named(raw: Path) -> None:
    write_planetoid(raw, "pubmed")
    (raw / "ind.pubmed.allx").unlink()
    with pytest.raises(MissingDataError, match=r"No ind\.pubmed\.allx in .*FEEDALIGN_DATA"):
        load_planetoid("pubmed")


@pytest.mark.parametrize("part", ["allx", "graph", "ty"])
def test_a_truncated_file_is_named(raw: Path, part: str) -> None:
    write_planetoid(raw, "pubmed")
    file = raw / f"ind.pubmed.{part}"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match=rf"ind\.pubmed\.{part} is not a whole pickle"):
        load_planetoid("pubmed")


def test_files_that_do_not_fit_together_make_one_sentence(raw: Path) -> None:
    write_planetoid(raw, "pubmed")
    (raw / "ind.pubmed.test.index").write_text("99999\n", encoding="ascii")
    with pytest.raises(CorruptFileError, match=r"The files of PubMed do not make a graph: .+ Fetch them anew\."):
        load_planetoid("pubmed")


class _Runs:
    """A pickle that would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused_unread(raw: Path, tmp_path: Path, protocol: int) -> None:
    write_planetoid(raw, "pubmed")
    made = tmp_path / "made"
    (raw / "ind.pubmed.graph").write_bytes(pickle.dumps(_Runs(made), protocol=protocol))
    with pytest.raises(UnsafePickleError, match=r"ind\.pubmed\.graph .*refused"):
        load_planetoid("pubmed")
    assert not made.exists()


def test_a_sparse_matrix_that_points_outside_itself_is_refused_and_not_followed(raw: Path) -> None:
    write_planetoid(raw, "pubmed")
    file = raw / "ind.pubmed.allx"
    with file.open("rb") as stream:
        matrix = pickle.load(stream)
    matrix.indices[:] = 10**6
    file.write_bytes(pickle.dumps(matrix, protocol=2))
    with pytest.raises(CorruptFileError, match=r"ind\.pubmed\.allx does not hold what it should"):
        load_planetoid("pubmed")
