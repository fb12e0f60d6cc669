"""Mixtures of layer-wise and direct rules: every hidden signal passes a feedback matrix, and the table says which."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa

x, y = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
MIXTURES = [
    {"0": fa.FA(), "*": fa.DFA()},
    {"0": fa.DFA(), "2": fa.FA(), "*": fa.DFA()},
    {"0": fa.DFA(), "*": fa.FA()},
    {"0": fa.FA(), "2": fa.DFA(), "4": fa.FA()},
]


def tower() -> nn.Sequential:
    layers = [nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("rules", MIXTURES)
def test_without_feedback_no_hidden_layer_learns(rules: dict[str, fa.Rule]) -> None:
    model = tower()
    handle = fa.attach(model, rules, example_inputs=x, strict=True)
    assert not any(row.uncut for row in handle.describe().rows)
    F.cross_entropy(model(x), y).backward()
    assert all(model[layer].weight.grad.any() for layer in (0, 2, 4, 6))
    model.zero_grad()
    for matrix in handle.store.buffers():
        matrix.zero_()
    F.cross_entropy(model(x), y).backward()
    assert not any(model[layer].weight.grad.any() for layer in (0, 2, 4))
    assert model[6].weight.grad.any()


@pytest.mark.parametrize("rules", MIXTURES)
def test_each_row_names_the_rule_that_was_asked_for(rules: dict[str, fa.Rule]) -> None:
    rows = {row.layer: row.signal for row in fa.attach(tower(), rules, example_inputs=x).describe().rows}
    for layer in ("0", "2", "4"):
        wanted = next(rule for glob, rule in rules.items() if glob in (layer, "*"))
        assert rows[layer].startswith(f"{wanted.name}:")
    assert rows["6"] == "error"


def test_feedback_above_a_frozen_layer_reaches_through_it() -> None:
    model = tower()
    model[2].requires_grad_(False)
    handle = fa.attach(model, fa.FA(), example_inputs=x, strict=True)
    assert sorted(dict(handle.store.named_buffers())) == ["2", "4", "6"]


def test_the_first_layer_keeps_no_feedback() -> None:
    handle = fa.attach(tower(), fa.FA(), example_inputs=x)
    assert sorted(dict(handle.store.named_buffers())) == ["2", "4", "6"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.back = nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.back(self.act(self.fc(h)))


def test_a_point_behind_a_skip_names_the_weights_on_every_path() -> None:
    model = nn.Sequential(nn.Linear(5, 5), Residual(), nn.Linear(5, 3))
    rows = {row.layer: row.signal for row in fa.attach(model, fa.DFA(), example_inputs=x, points="1").describe().rows}
    assert rows["1.back"] == "dfa: e B"
    assert rows["1.fc"] == "dfa: e B, through 1.back"
    assert rows["0"].startswith("dfa: e B, also through")
    assert all(layer in rows["0"] for layer in ("1.back", "1.fc"))
