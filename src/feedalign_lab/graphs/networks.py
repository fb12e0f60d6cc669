"""The networks of Launay et al. 2020 on graphs, from PyTorch Geometric's layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, GCNConv

from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.graphs.layers import FirstOrderChebConv, NodewiseDNAConv
from feedalign_lab.graphs.names import NETWORK_NAMES
from feedalign_lab.graphs.spline import SplineConv

_HIDDEN = 16
_HEADS, _PER_HEAD, _GAT_DROPOUT = 8, 8, 0.6
_DNA_WIDTH, _DNA_LAYERS, _DNA_HEADS, _DNA_GROUPS, _DNA_DROPOUT = 128, 5, 8, 16, 0.8
_LATENT = 16


class Network(nn.Module):
    """A network that takes node features and edges, and gives one row per node.

    Attributes:
        hidden: Name of the module whose output is the last hidden activation.
        decays_all: Whether weight decay acts on all layers, not on the first one alone.
    """

    hidden = "activation"
    decays_all = True

    @property
    def first_layer(self) -> nn.Module:
        """The layer that reads the features."""
        return next(self.children())

    def facts(self) -> dict[str, Any]:
        """Return what the network consists of, for `results.json`."""
        activation = type(self.get_submodule(self.hidden)).__name__.lower()
        return {"activation": activation, "num_parameters": sum(p.numel() for p in self.parameters())}


class FeatureDropout(nn.Module):
    """Dropout of features, of which a sparse tensor draws for those alone that are not zero.

    Args:
        probability: Of dropping a feature of a node.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Drop features in training.

        Args:
            x: `[N, F]`, dense or sparse.

        Returns:
            The same, with features dropped and the others scaled up.
        """
        if not self.training or not self.probability:
            return x
        if not x.is_sparse:
            return functional.dropout(x, self.probability)
        values = functional.dropout(x.values(), self.probability)
        return torch.sparse_coo_tensor(x.indices(), values, x.shape, is_coalesced=True, check_invariants=False)


class Cheb(Network):
    """Two convolutions with Chebyshev polynomials of degree 1 (K = 2), 16 hidden units.

    Source: Defferrard et al. 2016.
    """

    decays_all = False

    def __init__(self, num_features: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = FirstOrderChebConv(num_features, _HIDDEN)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = FirstOrderChebConv(_HIDDEN, num_outputs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return a row per node.

        Args:
            x: Features `[N, F]`.
            edges: `[2, E]`.

        Returns:
            `[N, C]`.
        """
        hidden = self.activation(self.conv1(x, edges))
        output: Tensor = self.conv2(self.dropout(hidden), edges)
        return output


class GCN(Network):
    """Two graph convolutions with renormalized edges.

    Source: Kipf & Welling 2017; with 32 hidden and 16 output units the encoder of the graph autoencoder.
    """

    decays_all = False

    def __init__(self, num_features: int, num_outputs: int, dropout: float, num_hidden: int = _HIDDEN) -> None:
        super().__init__()
        self.conv1 = GCNConv(num_features, num_hidden, normalize=False)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = GCNConv(num_hidden, num_outputs, normalize=False)

    def forward(self, x: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        """Return a row per node.

        Args:
            x: Features `[N, F]`.
            edges: `[2, E + N]`, a loop at every node among them.
            weights: `[E + N]`, the renormalized weight of each edge.

        Returns:
            `[N, C]`.
        """
        hidden = self.activation(self.conv1(x, edges, weights))
        output: Tensor = self.conv2(self.dropout(hidden), edges, weights)
        return output


class Spline(Network):
    """Two spline convolutions over the degree of a neighbor, 16 hidden units.

    Source: Fey et al. 2018.
    """

    def __init__(self, num_features: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = SplineConv(num_features, _HIDDEN)
        self.feature_dropout = FeatureDropout(dropout)
        self.activation = nn.ELU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = SplineConv(_HIDDEN, num_outputs)

    def forward(self, x: Tensor, edges: Tensor, positions: Tensor) -> Tensor:
        """Return a row per node.

        Args:
            x: Features `[N, F]`.
            edges: `[2, E]`.
            positions: `[E]`, degree of each edge's end over the largest degree.

        Returns:
            `[N, C]`.
        """
        hidden = self.activation(self.conv1(self.feature_dropout(x), edges, positions))
        output: Tensor = self.conv2(self.dropout(hidden), edges, positions)
        return output


class GAT(Network):
    """Two attention layers: 8 heads of 8 hidden units, then one head.

    Attention coefficients are dropped with probability 0.6, unless nothing is dropped at all.

    Source: Velickovic et al. 2018.
    """

    def __init__(self, num_features: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        of_attention = _GAT_DROPOUT if dropout else 0.0
        self.conv1 = GATConv(num_features, _PER_HEAD, heads=_HEADS, dropout=of_attention)
        self.feature_dropout = FeatureDropout(dropout)
        self.activation = nn.ELU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = GATConv(_HEADS * _PER_HEAD, num_outputs, heads=1, dropout=of_attention)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return a row per node.

        Args:
            x: Features `[N, F]`.
            edges: `[2, E]`.

        Returns:
            `[N, C]`.
        """
        hidden = self.activation(self.conv1(self.feature_dropout(x), edges))
        output: Tensor = self.conv2(self.dropout(hidden), edges)
        return output


class DNA(Network):
    """A linear layer, 5 layers of dynamic neighborhood aggregation that attend to all before them, a linear layer.

    128 units, 8 heads, 16 groups. Attention coefficients are dropped with probability 0.8, unless nothing is dropped
    at all.

    Source: Fey 2019, "Just Jump".
    """

    hidden = "activations.5"

    def __init__(self, num_features: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        of_attention = _DNA_DROPOUT if dropout else 0.0
        self.lin1 = nn.Linear(num_features, _DNA_WIDTH)
        self.convs = nn.ModuleList(
            NodewiseDNAConv(_DNA_WIDTH, _DNA_HEADS, _DNA_GROUPS, of_attention) for _ in range(_DNA_LAYERS)
        )
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(_DNA_LAYERS + 1))
        self.dropout = nn.Dropout(dropout)
        self.lin2 = nn.Linear(_DNA_WIDTH, num_outputs)

    def forward(self, x: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        """Return a row per node.

        Args:
            x: Features `[N, F]`.
            edges: `[2, E + N]`, a loop at every node among them.
            weights: `[E + N]`, the renormalized weight of each edge.

        Returns:
            `[N, C]`.
        """
        last = self.dropout(self.activations[0](self.lin1(x)))
        layers = [last]
        for conv, activation in zip(self.convs, list(self.activations)[1:], strict=True):
            last = activation(conv(torch.stack(layers, dim=1), edges, weights))
            layers.append(last)
        output: Tensor = self.lin2(self.dropout(last))
        return output


def encoder(num_features: int, num_outputs: int, dropout: float) -> GCN:
    """Return the encoder of the graph autoencoder: two graph convolutions, 32 hidden units, 16 latent ones.

    Args:
        num_features: F.
        num_outputs: Not used: the latent space has its own size.
        dropout: Probability of dropping a hidden unit.

    Source: Kipf & Welling 2016, "Variational graph auto-encoders", the variant that is not probabilistic.
    """
    del num_outputs
    return GCN(num_features, _LATENT, dropout, num_hidden=2 * _LATENT)


_NETWORKS: dict[str, Callable[[int, int, float], Network]] = {
    "cheb": Cheb,
    "gcn": GCN,
    "spline": Spline,
    "gat": GAT,
    "dna": DNA,
    "gae": encoder,
}


def build(name: str, num_features: int, num_outputs: int, *, dropout: float, seed: int) -> Network:
    """Build a network with the draw of weights that its layers have in PyTorch Geometric.

    Args:
        name: One of `feedalign_lab.graphs.names.NETWORK_NAMES`.
        num_features: F.
        num_outputs: C.
        dropout: Probability of dropping, in [0, 1).
        seed: Seed of the weights; the global random state is left as it was.

    Returns:
        The network, on the CPU.

    Raises:
        UnknownNameError: There is no such network.
        SettingError: The dropout is out of range.
    """
    if name not in _NETWORKS:
        raise UnknownNameError("network for graphs", name, NETWORK_NAMES)
    if not 0 <= dropout < 1:
        raise SettingError(f"The dropout must be at least 0 and below 1, not {dropout}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _NETWORKS[name](num_features, num_outputs, dropout)
