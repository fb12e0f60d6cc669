from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_graphs import both_ways, communities

from feedalign_lab.graphs.graph import Graph
from feedalign_lab.graphs.inputs import features_of, inputs_of
from feedalign_lab.graphs.names import NETWORK_NAMES


def star() -> Graph:
    """Node 0 linked to 1, 2 and 3, and node 4 alone."""
    words = torch.tensor([[2.0, 2.0], [1.0, 0.0], [0.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    return replace(communities(), features=words, edges=both_ways([(0, 1), (0, 2), (0, 3)]))


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_counts_of_words_become_shares_but_for_spline_and_dna(network: str) -> None:
    counts = star().features.tolist()
    shares = [[0.5, 0.5], [1, 0], [0, 0], [0, 1], [0.5, 0.5]]
    assert features_of(network, star()).tolist() == (counts if network in {"spline", "dna"} else shares)


@pytest.mark.parametrize("network", NETWORK_NAMES)
def test_a_users_features_stay_as_they_are(network: str) -> None:
    graph = replace(star(), is_bag_of_words=False)
    assert torch.equal(inputs_of(network, graph)[0], graph.features)


def test_features_that_are_mostly_zero_become_sparse() -> None:
    graph = communities()
    x = inputs_of("dna", graph)[0]
    assert x.is_sparse
    assert torch.equal(x.to_dense(), graph.features)
    assert not inputs_of("dna", star())[0].is_sparse


def test_edges_of_graph_convolutions_are_renormalized_with_loops() -> None:
    _, edges, weights = inputs_of("gcn", star())
    degrees = [4, 2, 2, 2, 1]
    found = dict(zip(map(tuple, edges.T.tolist()), weights.tolist(), strict=True))
    wanted = {(i, j): 1 / np.sqrt(degrees[i] * degrees[j]) for i, j in star().edges.T.tolist()}
    wanted |= {(i, i): 1 / degrees[i] for i in range(5)}
    assert found == {pair: pytest.approx(weight) for pair, weight in wanted.items()}


def test_the_position_of_an_edge_is_the_degree_of_its_end_over_the_largest() -> None:
    _, edges, positions = inputs_of("spline", star())
    ends = {0: 1.0, 1: 1 / 3, 2: 1 / 3, 3: 1 / 3}
    assert positions.tolist() == pytest.approx([ends[end] for end in edges[1].tolist()])


def test_messages_pass_along_the_edges_given() -> None:
    assert inputs_of("gat", star(), both_ways([(0, 1)]))[1].T.tolist() == [[0, 1], [1, 0]]


def test_a_graph_without_edges_has_inputs_all_the_same() -> None:
    graph = replace(star(), edges=torch.empty(2, 0, dtype=torch.long))
    assert inputs_of("gcn", graph)[2].tolist() == [1.0] * 5
    assert inputs_of("spline", graph)[2].shape == (0,)
