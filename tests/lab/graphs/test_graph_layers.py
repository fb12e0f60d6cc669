from __future__ import annotations

import numpy as np
import pytest
import torch
from small_graphs import communities
from torch_geometric.nn import ChebConv, DNAConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from feedalign_lab.graphs.layers import FirstOrderChebConv, NodewiseDNAConv
from feedalign_lab.graphs.networks import FeatureDropout
from feedalign_lab.graphs.spline import SplineConv, linear_basis


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("position", "weights", "knots"),
    [
        (0.0, (1.0, 0.0), (0, 1)),
        (0.25, (0.5, 0.5), (0, 1)),
        (0.5, (1.0, 0.0), (1, 2)),
        (0.625, (0.75, 0.25), (1, 2)),
        (1.0, (0.0, 1.0), (1, 2)),
    ],
)
def test_a_position_lies_between_two_of_three_knots(
    position: float, weights: tuple[float, float], knots: tuple[int, int]
) -> None:
    found, where = linear_basis(torch.tensor([position], dtype=torch.float64), 3)
    torch.testing.assert_close(found[0], torch.tensor(weights, dtype=torch.float64))
    assert tuple(where[0].tolist()) == knots


def test_between_two_knots_the_weights_are_the_position_and_what_is_left_of_one() -> None:
    positions = torch.rand(50, dtype=torch.float64, generator=seeded())
    weights, knots = linear_basis(positions, 2)
    torch.testing.assert_close(weights, torch.stack([1 - positions, positions], dim=1))
    assert bool((knots == torch.tensor([0, 1])).all())


@pytest.mark.parametrize("num_knots", [2, 4])
def test_spline_convolution_is_the_sum_written_out(num_knots: int) -> None:
    layer = SplineConv(3, 2, num_knots).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=seeded())
    edges = torch.tensor([[0, 1, 2, 3, 3], [1, 0, 1, 1, 2]])
    positions = torch.tensor([0.0, 0.3, 0.5, 1.0, 0.8], dtype=torch.float64)
    weight, root, bias = (p.detach().numpy() for p in (layer.weight, layer.root, layer.bias))
    wanted = np.zeros((5, 2))
    for node in range(5):
        messages = []
        for source, target, position in zip(*edges.tolist(), positions.tolist(), strict=True):
            if target != node:
                continue
            # The kernel at a position: a straight line between the weights of the two knots around it.
            place = position * (num_knots - 1)
            below = min(int(place), num_knots - 2)
            kernel = weight[below] + (place - below) * (weight[below + 1] - weight[below])
            messages.append(x[source].numpy() @ kernel)
        wanted[node] = (np.mean(messages, axis=0) if messages else 0) + x[node].numpy() @ root + bias
    torch.testing.assert_close(layer(x, edges, positions), torch.from_numpy(wanted))


def test_chebyshev_convolution_is_the_librarys() -> None:
    graph = communities()
    layer, library = FirstOrderChebConv(24, 5).double(), ChebConv(24, 5, K=2).double()
    library.load_state_dict(layer.state_dict())
    x = graph.features.double()
    torch.testing.assert_close(layer(x, graph.edges), library(x, graph.edges), rtol=0, atol=1e-12)


def test_attention_over_layers_is_the_librarys_forward_and_backward() -> None:
    graph = communities()
    edges, weights = gcn_norm(graph.edges, None, graph.num_nodes, dtype=torch.float64)
    layer = NodewiseDNAConv(16, heads=4, groups=2, dropout=0.0).double()
    library = DNAConv(16, heads=4, groups=2, normalize=False).double()
    library.load_state_dict(layer.state_dict())
    x = torch.randn(graph.num_nodes, 3, 16, dtype=torch.float64, generator=seeded(), requires_grad=True)
    ours, theirs = layer(x, edges, weights), library(x, edges, weights)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradient = torch.randn(ours.shape, dtype=torch.float64, generator=seeded(2))
    own = torch.autograd.grad(ours, [x, *layer.parameters()], gradient)
    other = torch.autograd.grad(theirs, [x, *library.parameters()], gradient)
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_attention_coefficients_are_dropped_in_training_alone() -> None:
    graph = communities()
    edges, weights = gcn_norm(graph.edges, None, graph.num_nodes)
    layer = NodewiseDNAConv(16, heads=4, groups=2, dropout=0.5)
    x = torch.randn(graph.num_nodes, 3, 16, generator=seeded())
    with torch.random.fork_rng():
        assert not torch.equal(layer(x, edges, weights), layer(x, edges, weights))
        layer.eval()
        assert torch.equal(layer(x, edges, weights), layer(x, edges, weights))


@pytest.mark.parametrize("is_sparse", [False, True])
def test_features_are_dropped_and_the_others_scaled_up(is_sparse: bool) -> None:
    x = (torch.rand(200, 50, generator=seeded()) < 0.3).float()
    dropout = FeatureDropout(0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = dropout(x.to_sparse().coalesce() if is_sparse else x)
    assert given.is_sparse is is_sparse
    dropped = given.to_dense()
    kept = dropped[x != 0]
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    # A binomial share of about 3,000 features: four standard errors.
    assert abs(float((kept == 0).double().mean()) - 0.25) < 4 * (0.25 * 0.75 / len(kept)) ** 0.5
    assert not bool(dropped[x == 0].any())
    assert dropout.eval()(x) is x
