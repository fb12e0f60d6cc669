"""The catalogue against the papers' own numbers and settings, as they were copied out of the papers."""

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from feedalign_lab.papers.catalogue import all_papers, paper_named
from feedalign_lab.papers.cells import Published

Row = Mapping[str, str]

CELLS = {
    (paper.name, table.name, cell.name): cell
    for paper in all_papers()
    for table in paper.tables
    for cell in table.cells
}

NO_RESULTS = {
    ("rnn-dfa", "Table 1 (statistics)"): "sizes of the data",
    ("rnn-dfa", "Sec. 5 text"): "sentences on the table",
    ("rnn-dfa", "Sec. 5 text / Fig. 2"): "sentences on the figure",
    ("drtp", "Supp. Fig. 3 caption; Sec. 2.4.1"): "roughly 90 degrees, of a figure",
    ("drtp", "Fig. 2 C, D caption"): "a bound, of a figure",
    ("drtp", "Fig. 3 C, D caption"): "a bound, of a figure",
    ("drtp", "Sec. 2.1.1 text"): "a sentence on the figure",
    ("drtp", "Sec. 2.1.2 text"): "a sentence on the figure",
    ("drtp", "Sec. 1, Sec. 3 text"): "another paper's hardware",
    ("drtp", "Sec. 3 text"): "estimates of cost",
    ("drtp", "Sec. 2.3 text"): "a theorem",
    ("dirdfa", "Sec. V text"): "estimates of cost",
    ("dfa-scales", "App. B text"): "sentences, and a perplexity of no table",
    ("dfa-scales", "App. E text"): "sentences on table A.5",
    ("dfa-scales", "App. F text"): "cost",
    ("dfa-scales", "Sec. 1.2 text"): "counts",
    ("dfa-scales", "Sec. 3 text"): "sizes of the data",
    ("dfa-scales", "Sec. 3.1.2 text"): "sizes of the data",
    ("dfa-scales", "Sec. 3.3 text"): "sizes of the data, and a bound",
    ("dfa-scales", "Table 2 / Sec. 3.1.2 text"): "what counts as a difference",
    ("fdfa", "Fig. 5 caption"): "a law, of a figure",
    ("fdfa", "Fig. 6 caption; Sec. 4.3"): "laws, of a figure",
    ("fdfa", "Sec. 4.1 text"): "sentences on table 3",
    ("fdfa", "Sec. 4.4 text; Fig. 8"): "a sentence on the figure",
    ("fdfa", "Table 4"): "laws",
    ("fdfa", "Table B.5"): "sizes of the networks",
}
"""Rows of the copy that are no results of training, by paper and place, with the reason."""
NO_NUMBERS = ("–", "/", "~0 at end")  # What the copy has where the paper prints no number.
NO_ERRORS = ("alignment_angle_advantage_deg",)
"""Rows of the captions that are none of their errors."""

PLACES = {
    ("rnn-dfa", "Table 1"): "table1",
    ("drtp", "Table 1"): "table1",
    ("drtp", "Table 2"): "table2",
    ("drtp", "Supplementary Table 1"): "s1",
    ("drtp", "Supplementary Table 2"): "s2",
    ("drtp", "Fig. 3 caption; Sec. 2.1.2"): "fig3-errors",
    ("drtp", "Supp. Fig. 1 caption"): "s1-errors",
    ("drtp", "Supp. Fig. 2 caption"): "s2-errors",
    ("dirdfa", "Table I"): "table1",
    ("dirdfa", "Table II"): "table2",
    ("fdfa", "Table 1"): "table1",
    ("fdfa", "Table 2"): "table2",
    ("fdfa", "Table 3"): "table3",
    ("fdfa", "Table B.6"): "b6",
    **{("dfa-scales", f"Table {number}"): f"table{number}" for number in range(1, 6)},
    **{("dfa-scales", f"Table A.{number}"): f"a{number}" for number in range(1, 6)},
}
RULES = {
    "bp": "backprop", "sdfa": "sign-dfa", "dirdfa": "fdfa", "fga": "fg-a", "fgw": "fg-w", "lgfga": "lg-fg-a",
}  # fmt: skip
DATA = {
    "MNIST": "mnist", "FashionMNIST": "fashion-mnist", "CIFAR10": "cifar10", "CIFAR100": "cifar100",
    "Tiny ImageNet 200": "tiny-imagenet", "NeRF-Synthetic": "nerf-synthetic", "LLFF-Real": "llff-real",
}  # fmt: skip
NETWORKS = {
    "CONV (random)": "conv-random", "CONV (trained)": "conv", "CNN 15C5-P2-40C5-P2-128-10": "cnn", "AlexNet": "alexnet",
    "AlexNet (batchnorm after each conv, no dropout)": "alexnet", "256-500-500-10 tanh/sigmoid": "fc2-500",
    "784-1000-10 tanh/sigmoid": "fc1-1000", "3072-1000-10 tanh/sigmoid": "fc1-1000",
    "GRU": "gru", "Vanilla RNN (tanh)": "rnn", "Neural Volumes (NV)": "nv",
    "FM": "fm", "DeepFM": "deepfm", "Deep&Cross": "deepcross", "Deep & Cross": "deepcross", "AFN": "afn",
    "ChebConv": "cheb", "GraphConv": "gcn", "SplineConv": "spline", "GATConv": "gat", "DNAConv": "dna",
    "GraphConv GAE (non-probabilistic)": "gae",
}  # fmt: skip
VARIANTS = {
    "DO 0.0": "dropout-0", "DO 0.1": "dropout-0.1", "DO 0.25": "dropout-0.25", "DA (flip, no dropout)": "flip",
    "macro baseline (Noam, beta2 0.98)": "macro-noam", "macro + Adam (lr 5e-5, beta2 0.98)": "macro-adam",
    "macro + Adam + beta2 0.999": "macro-beta2",
    "macro + Adam + beta2 0.999 + LR schedule (plateau, lr 1e-4)": "macro-plateau",
    "micro baseline (Noam, beta2 0.98)": "micro-noam", "micro + Adam (lr 5e-5, beta2 0.98)": "micro-adam",
    "micro + Adam + beta2 0.999": "micro-beta2",
    "micro + Adam + beta2 0.999 + LR schedule (plateau, lr 1e-4)": "micro-plateau",
    "baseline (Noam, beta2 0.98)": "noam", "Noam + beta2 0.999": "beta2",
}  # fmt: skip
WIDTHS = {
    "Strawberry gru": 50, "ECG200 gru": 50, "ECG200 rnn": 50, "Strawberry rnn bp": 50, "Row-MNIST rnn bp": 50,
}  # fmt: skip
"""Those that the grid search of appendix B chose; 512 elsewhere."""
METRIC_OF = {
    "test_error_pct": "error", "train_error_pct": "train error", "test_accuracy_pct": "accuracy", "auc": "AUC",
    "ap": "AP", "logloss": "log loss", "psnr_db": "PSNR", "perplexity": "perplexity", "cosine": "cosine",
}  # fmt: skip


EXPERIMENTS = {
    ("rnn-dfa", "Table 1 / Fig. 2 sequence classification"): ("table1",),
    ("drtp", "Tables 1, S1 (MNIST)"): ("table1", "s1"),
    ("drtp", "Tables 2, S2 (CIFAR-10)"): ("table2", "s2"),
    ("drtp", "Fig. 3 classification"): ("fig3-errors",),
    ("drtp", "Supp. Fig. 1"): ("s1-errors",),
    ("drtp", "Supp. Fig. 2"): ("s2-errors",),
    ("dirdfa", "Tables I and II, FC"): ("table1", "table2"),
    ("dfa-scales", "Tables 3, A.4 graph convolutions"): ("table3", "a4"),
    ("fdfa", "Tables 1, B.6"): ("table1", "b6"),
    ("fdfa", "Table 2"): ("table2",),
    ("fdfa", "Table 3"): ("table3",),
}
"""Tables of which all networks are trained equally long, by the name that the settings have for them."""


def _folder_of_papers() -> Path:
    """Where what was copied out of the papers lies; skips where it is not at hand."""
    named = os.environ.get("FEEDALIGN_DATA")
    folder = Path(named or ".").parent / "papers"
    if not named or not (folder / "results.csv").exists():
        pytest.skip("the papers' numbers do not lie beside the folder that FEEDALIGN_DATA names")
    return folder


def _copy() -> list[Row]:
    """The numbers as they were copied out of the papers."""
    with (_folder_of_papers() / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _settings() -> list[Row]:
    """The settings as they were copied out of the papers, beside the numbers."""
    with (_folder_of_papers() / "settings.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _is_result(row: Row) -> bool:
    is_elsewhere = (row["paper"], row["table"]) in NO_RESULTS
    return not is_elsewhere and row["value"] not in NO_NUMBERS and row["metric"] not in NO_ERRORS


def _network(row: Row) -> str:
    """The lab's name for the network of a row."""
    name = row["network"]
    if name.startswith("FC"):
        layers, width = name.removeprefix("FC ").split("x" if " " in name else "-")
        return f"mlp{layers}-{width}" if " " in name else f"{layers.lower()}-{width}"
    return NETWORKS.get(name, name.lower())


def _place(row: Row) -> tuple[str, str, str]:
    """Paper, table and name of the cell that a row is of."""
    paper, table = row["paper"], PLACES[row["paper"], row["table"]]
    rule, network = RULES.get(row["rule"], row["rule"]), _network(row)
    data = DATA.get(row["task"], row["task"].lower())
    return paper, table, _NAMES[paper](row, data, network, rule)


def _name_of_drtp(row: Row, data: str, network: str, rule: str) -> str:
    del data
    variant = VARIANTS.get(row["variant"]) or row["metric"].split("_")[0]
    return f"{network}/{rule}/{variant}"


def _name_of_bacho(row: Row, data: str, network: str, rule: str) -> str:
    # With batch normalization, which AlexNet always has.
    is_normalized = row["variant"].startswith("batchnorm") and network != "alexnet"
    ending = "/transfer" if "transfer" in row["variant"] else ""
    return f"{data}/{network}{'-bn' if is_normalized else ''}/{rule}{ending}"


def _name_of_recurrent(row: Row, data: str, network: str, rule: str) -> str:
    keys = (f"{row['task']} {network} {row['rule']}", f"{row['task']} {network}")
    width = next((WIDTHS[key] for key in keys if key in WIDTHS), 512)
    return f"{data}/{network}-{width}/{rule}"


def _name_of_launay(row: Row, data: str, network: str, rule: str) -> str:
    if row["metric"] == "psnr_db":
        scene = row["variant"].removeprefix("scene ").lower().replace("-", "")
        return f"{data if scene == 'mean over scenes' else scene}/{network}/{rule}"
    if row["metric"] == "perplexity":
        return f"transformer/{rule}/{VARIANTS[row['variant']]}"
    ending = {"auc": "/auc", "ap": "/ap", "logloss": "/log-loss"}.get(row["metric"], "")
    return f"{data}/{network}/{rule}{ending}"


_NAMES = {
    "drtp": _name_of_drtp,
    "dirdfa": _name_of_bacho,
    "fdfa": _name_of_bacho,
    "rnn-dfa": _name_of_recurrent,
    "dfa-scales": _name_of_launay,
}


def _published(row: Row) -> Published:
    std, trials = row["std"], row["trials"]
    return Published(float(row["value"]), float(std) if std else None, int(trials) if trials else None)


def test_every_printed_result_is_one_cell_and_every_cell_a_printed_result() -> None:
    places = [_place(row) for row in _copy() if _is_result(row)]
    assert len(places) == len(set(places))
    assert set(places) == set(CELLS)


def test_every_number_is_as_printed() -> None:
    for row in filter(_is_result, _copy()):
        cell = CELLS[_place(row)]
        assert cell.published == _published(row), cell.name
        assert cell.metric == METRIC_OF[row["metric"]], cell.name


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids="/".join)
def test_networks_are_trained_for_as_many_epochs_as_the_papers_say(experiment: tuple[str, str]) -> None:
    """The number in "100", "max 200" or "900"; several rows of one experiment may be of different data."""
    rows = [row for row in _settings() if (row["paper"], row["experiment"]) == experiment]
    assert rows
    for row in rows:
        found = re.search(r"\d+", row["epochs"])
        if found is None:
            assert row["dataset"] == "Row-MNIST"
            continue
        for table in EXPERIMENTS[experiment]:
            cells = paper_named(experiment[0]).table(table).cells
            if experiment[0] == "rnn-dfa":
                cells = tuple(cell for cell in cells if cell.data == row["dataset"].lower())
            assert {cell.protocol.epochs for cell in cells} == {int(found[0])}, row["dataset"]


def test_what_is_left_out_is_in_the_copy() -> None:
    """No reason stands for rows that are not there."""
    assert set(NO_RESULTS) <= {(row["paper"], row["table"]) for row in _copy()}
