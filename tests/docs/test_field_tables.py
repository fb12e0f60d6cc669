"""Tables of graphs, recommenders and scenes, from records made here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ACCURACY = {"name": "accuracy", "unit": "%", "better": "higher", "digits": 1}
AUC, AP = ({"name": name, "unit": "", "better": "higher", "digits": 3} for name in ("AUC", "AP"))
MODULES = ("field_tables", "tables")


@pytest.fixture
def field_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("field_tables")
    for name in MODULES:
        sys.modules.pop(name, None)


def score(mean: float, std: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "std": std, "count": 1 if std is None else 5}


def run(data: str, network: str, judged_at: str, metric: dict[str, Any], *rules: str, others: Any = ()) -> Any:
    return {
        "format": 2,
        "config": {"data": data, "network": network, "rules": rules, "trials": 5, "schedule": {"epochs": 250}},
        "environment": {"torch": "2.13.0", "num_threads": 1, "device": "cpu"},
        "metric": metric,
        "other_metrics": others,
        "judged_at": judged_at,
        "summary": [
            {
                "rule": rule,
                "num_trials": 5,
                "num_finished": 5,
                "test_score": score(10.0 + place, 0.5),
                "test_score_chosen": score(20.0 + place, 0.25),
                "other_scores": {other["name"]: score(0.5 + place / 10) for other in others},
                "other_scores_chosen": {other["name"]: score(0.75) for other in others},
            }
            for place, rule in enumerate(rules)
        ],
    }


def test_scores_stand_at_the_epoch_that_counts_beside_the_papers(field_tables: ModuleType) -> None:
    runs = [
        run("cora", "gcn", "chosen", ACCURACY, "backprop", "dfa", "shallow"),
        run("citeseer", "gae", "last", AUC, "backprop", "dfa", others=[AP]),
    ]
    page = field_tables.rules_side_by_side({"runs": runs})
    assert page.splitlines()[0] == "| data | network | metric | epochs | trials | backprop | dfa | shallow |"
    assert page.splitlines()[2:5] == [
        "| `cora` | `gcn` | accuracy (%) | 250 | 5 | 20.0 ± 0.2 (80.1) | 21.0 ± 0.2 (79.9) | 22.0 ± 0.2 (37.0) |",
        "| `citeseer` | `gae` | AUC | 250 | 5 | 10.000 ± 0.500 (0.886) | 11.000 ± 0.500 (0.879) | – |",
        "| `citeseer` | `gae` | AP | 250 | 5 | 0.500 (0.895) | 0.600 (0.889) | – |",
    ]
    assert "after the first epoch with the best validation score, of `gae` after the last epoch" in page
    assert "in parentheses the paper's" in page
    assert "PyTorch 2.13.0, 1 thread of a CPU." in page


def test_one_metric_needs_no_column_and_own_data_have_no_paper(field_tables: ModuleType) -> None:
    page = field_tables.rules_side_by_side(
        run("lego", "nerf-tiny", "last", {**AUC, "name": "PSNR", "unit": "dB"}, "dfa")
    )
    assert page.splitlines()[0] == "| data | network | epochs | trials | dfa |"
    assert page.splitlines()[2] == "| `lego` | `nerf-tiny` | 250 | 5 | 10.000 ± 0.500 |"
    assert "PSNR (dB) on the test part, after the last epoch: mean" in page
    assert "paper" not in page


def test_trials_that_did_not_finish_are_told(field_tables: ModuleType) -> None:
    lost = run("cora", "gat", "chosen", ACCURACY, "dfa")
    lost["summary"][0]["num_finished"] = 4
    assert "20.0 ± 0.2 (1 of 5 not finished) (80.6)" in field_tables.rules_side_by_side(lost)
    lost["summary"][0] |= {"num_finished": 0, "test_score_chosen": None}
    assert "no trial finished (80.6)" in field_tables.rules_side_by_side(lost)


def test_another_layout_is_refused(field_tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="has format 1"):
        field_tables.rules_side_by_side(run("cora", "gat", "last", ACCURACY, "dfa") | {"format": 1})


def test_numbers_of_the_paper_are_of_three_rules_for_classifiers_and_two_for_links(field_tables: ModuleType) -> None:
    for (_, network, _), scores in field_tables._PAPER.items():
        assert len(scores) == (2 if network == "gae" else 3)
    assert len(field_tables._PAPER) == 15 + 6


def test_cosines_as_read_here_and_by_the_papers_code(field_tables: ModuleType) -> None:
    def reading(mean: float, num_counted: int = 0) -> dict[str, Any]:
        return {"mean": mean, "std": 0.245, "num_nodes": 9, "num_counted_as_1": num_counted}

    found = {"plain": reading(0.81), "dropout": reading(0.76), "silent": reading(0.9, 3), "both": reading(0.7, 3)}
    one = {"network": "gcn", "epochs": 250, "readings": found}
    head = {"data": "cora", "rule": "dfa", "floor": 1e-8, "torch": "2.13.0", "num_threads": 1}
    page = field_tables.cosines({**head, "networks": [one]})
    assert page.splitlines()[2] == (
        "| `gcn` | 0.77 (0.25) | 0.81 (0.24) | 0.76 (0.24) | 0.90 (0.24), 3 of 9 nodes so | 0.70 (0.24) |"
    )
    assert "`cora`, after 250 epochs" in page
    assert "1e-08" in page


def test_auc_of_parity(field_tables: ModuleType) -> None:
    best = {"rate": 0.003, "epoch": 3, "validation_auc": 0.66, "test_auc": 0.6537}
    head = {"network": "deepfm-small", "rows": 200_000, "epochs": 6, "rates": [0.001, 0.003], "bayes_auc": 0.8563}
    page = field_tables.parity({**head, "torch": "2.13.0", "num_threads": 1, "rules": {"dfa": best}})
    assert page.splitlines()[2] == "| `deepfm-small` | 0.6537 | 0.8563 |"
    assert "one trial" in page
    assert "rates 0.001, 0.003 and the best of 6 epochs" in page


def test_step_costs(field_tables: ModuleType) -> None:
    rules = {
        "backprop": {"ms": 20.04, "ratio": 1.0},
        "dfa": {"ms": 18.0, "ratio": 0.898},
        "shallow": {"ms": 9.0, "ratio": 0.45},
    }
    head = {"rounds": 60, "torch": "2.13.0", "num_threads": 2}
    one = field_tables.step_costs({**head, "network": "nerf-tiny", "rules": rules})
    several = field_tables.step_costs({**head, "cases": [{"case": "deepfm", "rules": rules}] * 2})
    assert "| `nerf-tiny` | 0.90 | 0.45 | 20.0 |" in one
    assert several.count("| deepfm | 0.90 | 0.45 | 20.0 |") == 2
    assert "Medians of 60 whole training steps" in one
