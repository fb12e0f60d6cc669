"""Layers of PyTorch Geometric whose features are transformed before they are passed along edges.

The sums are the same, in an order that never holds all features of all edges: several times faster here, with the
parameters and their draw untouched.
"""

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn import ChebConv, DNAConv


class FirstOrderChebConv(ChebConv):  # type: ignore[misc]
    """`Y = X W_1 + L X W_2 + b`, with L the scaled graph Laplacian: `ChebConv` with K = 2.

    Args:
        num_inputs: Features of a node.
        num_outputs: Features that come out.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__(num_inputs, num_outputs, K=2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Pass messages once.

        Args:
            x: `[N, F]`.
            edges: `[2, E]`.

        Returns:
            `[N, num_outputs]`.
        """
        own, neighbors = self.lins
        edges, norm = self.__norm__(edges, x.shape[0], None, self.normalization, dtype=x.dtype)
        passed: Tensor = self.propagate(edges, x=neighbors(x), norm=norm)
        output: Tensor = own(x) + passed + self.bias
        return output


class NodewiseDNAConv(DNAConv):  # type: ignore[misc]
    """`DNAConv` with queries, keys and values made at nodes, not at edges.

    Args:
        width: Features of a node, in and out.
        heads: Attention heads.
        groups: Blocks of the projections' weights.
        dropout: Probability of dropping an attention coefficient.
    """

    def __init__(self, width: int, heads: int, groups: int, dropout: float) -> None:
        super().__init__(width, heads, groups, dropout, normalize=False)

    def forward(self, x: Tensor, edges: Tensor, weights: Tensor) -> Tensor:
        """Pass messages once.

        Args:
            x: `[N, L, D]`, the outputs of L layers.
            edges: `[2, E]`.
            weights: `[E]`.

        Returns:
            `[N, D]`.
        """
        (num_nodes, _, width), projections = x.shape, self.multi_head
        source, target = edges
        shape = (num_nodes, -1, projections.heads, width // projections.heads)
        query = projections.lin_q(x[:, -1:]).view(shape).index_select(0, target)
        key = projections.lin_k(x).view(shape).index_select(0, source)
        score = (query * key).sum(3, keepdim=True) / math.sqrt(shape[3])
        share = _restricted_softmax(score)
        share = nn.functional.dropout(share, projections.dropout, self.training)
        value = projections.lin_v(x).view(shape).index_select(0, source)
        messages = (share * value).sum(1).view(-1, width) * weights.unsqueeze(1)
        return torch.zeros(num_nodes, width, dtype=x.dtype, device=x.device).index_add(0, target, messages)


def _restricted_softmax(score: Tensor) -> Tensor:
    """Softmax over the layers, dimension 1, and one more score of zero, which attends to nothing."""
    largest = score.detach().amax(1, keepdim=True).clamp(min=0)
    exponential = (score - largest).exp()
    return exponential / (exponential.sum(1, keepdim=True) + (-largest).exp())
