"""What a network on a graph is called with."""

from torch import Tensor
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import degree

from feedalign_lab.graphs.graph import Graph

# Features of which fewer than this share are not zero are worth a sparse tensor.
_SPARSE = 0.1


def features_of(name: str, graph: Graph) -> Tensor:
    """Return the features that a network is given, `[N, F]`, dense.

    Args:
        name: Name of the network.
        graph: The graph.
    """
    if not graph.is_bag_of_words or name in {"spline", "dna"}:
        return graph.features
    return graph.features / graph.features.sum(1, keepdim=True).clamp(min=1)


def inputs_of(name: str, graph: Graph, edges: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return what a network is called with: what depends on the graph alone is computed once, here.

    Counts of words become shares of their sum, but for spline and dna, which the paper gives the counts. Features of
    which most are zero become a sparse tensor, which layers multiply, and dropout drops from, several times faster.

    Args:
        name: Name of the network.
        graph: The graph.
        edges: Edges to pass messages along, in both directions; None: all of the graph's.

    Returns:
        Features `[N, F]`, edges, and what else the network's forward takes.
    """
    x, edges = features_of(name, graph), graph.edges if edges is None else edges
    if float((x != 0).double().mean()) < _SPARSE:
        x = x.to_sparse().coalesce()
    if name == "spline":
        degrees = degree(edges[1], graph.num_nodes, dtype=x.dtype)
        return x, edges, degrees[edges[1]] / degrees.max().clamp(min=1)
    if name in {"gcn", "dna", "gae"}:
        with_loops, weights = gcn_norm(edges, None, graph.num_nodes, dtype=x.dtype)
        return x, with_loops, weights
    return x, edges
