from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign_lab.graphs.node_alignment import NodeAlignment, node_alignment, write_node_alignment


def squares(output: Tensor) -> Tensor:
    return output.square().sum() / 2


def test_cosines_between_error_times_feedback_and_error_times_weight() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    handle = fa.attach(model, fa.DFA(), example_inputs=x)
    (row,) = node_alignment(model, handle, squares, (x,))
    with torch.no_grad():
        error = model(x)
        feedback = handle.feedback_at("1")
        assert feedback is not None
        given, wanted = error @ feedback.double(), error @ model[2].weight
        cosines = (given * wanted).sum(1) / given.norm(dim=1) / wanted.norm(dim=1)
    assert row.point == "1"
    assert row.num_nodes == 6
    assert row.mean == pytest.approx(float(cosines.mean()), abs=1e-10)
    assert row.std == pytest.approx(float(cosines.std(correction=0)), abs=1e-10)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nodes_without_an_error_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    handle = fa.attach(model, fa.DFA(), example_inputs=x)
    (row,) = node_alignment(model, handle, lambda output: output[:2].square().sum(), (x,))
    assert row.num_nodes == 2


def test_a_rule_without_signals_has_no_rows() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    handle = fa.attach(model, fa.Shallow(), example_inputs=x)
    assert node_alignment(model, handle, squares, (x,)) == ()


def test_rows_as_json(tmp_path: Path) -> None:
    write_node_alignment((NodeAlignment("a", 0.5, 0.25, 7),), tmp_path / "alignment.json")
    rows = json.loads((tmp_path / "alignment.json").read_text(encoding="utf-8"))
    assert rows == [{"point": "a", "mean": 0.5, "std": 0.25, "num_nodes": 7}]
