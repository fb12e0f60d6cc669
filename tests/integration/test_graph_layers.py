"""PyTorch Geometric's layers: feedback through its own linear layer, and feature axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from integration.gradients import assert_same_gradients, gradients_of_step

geometric = pytest.importorskip("torch_geometric.nn")

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
y = torch.tensor([0, 1, 2, 0])


class Convolutions(nn.Module):
    """Three graph convolutions on four nodes in a row."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1, self.act1 = geometric.GCNConv(5, 7), nn.Tanh()
            self.conv2, self.act2 = geometric.GCNConv(7, 6), nn.Tanh()
            self.conv3 = geometric.GCNConv(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.conv1(x, EDGES))
        return self.conv3(self.act2(self.conv2(h, EDGES)), EDGES)


def with_torchs_linear() -> nn.Module:
    """The same network, of which each linear layer is an `nn.Linear`."""
    model = Convolutions()
    for name in ("conv1", "conv2", "conv3"):
        layer = getattr(model, name).lin
        plain = nn.Linear(layer.in_channels, layer.out_channels, bias=False, dtype=torch.float64)
        plain.weight = layer.weight
        getattr(model, name).lin = plain
    return model


@pytest.fixture(params=[fa.FA(), fa.USF(), fa.BRSF(), fa.FRSF(), fa.DFA()], ids=lambda rule: rule.name)
def rule(request: pytest.FixtureRequest) -> fa.Rule:
    return request.param


def test_its_linear_layer_sends_feedback_back_as_torchs_own(rule: fa.Rule) -> None:
    found, expected = Convolutions(), with_torchs_linear()
    for model in (found, expected):
        fa.attach(model, rule, example_inputs=x)
    assert_same_gradients(gradients_of_step(found, x, y), gradients_of_step(expected, x, y), tolerance=1e-12)


def test_feedback_is_not_backprop() -> None:
    plain, model = Convolutions(), Convolutions()
    fa.attach(model, fa.FA(), example_inputs=x)
    found, exact = gradients_of_step(model, x, y), gradients_of_step(plain, x, y)
    for name in ("conv1.lin.weight", "conv2.lin.weight"):
        assert found[name] is not None
        assert exact[name] is not None
        assert not torch.allclose(found[name], exact[name], rtol=0.1)
    assert torch.allclose(found["conv3.lin.weight"], exact["conv3.lin.weight"])


def test_what_computes_something_else_is_no_linear_layer() -> None:
    class Doubled(geometric.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(5, 4), nn.Tanh(), Doubled(4, 3)).double()
    with pytest.raises(fa.errors.NoFeedbackPointError):
        fa.attach(model, fa.FA(), example_inputs=x)
