"""Layers of recommender networks, each with the feedback points at which a rule's signals enter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import feedalign as fa

_SMALLEST_LOGARITHM = 1e-7


class FirstOrder(nn.Module):
    """A weight for each category and a bias, from zero: logistic regression, once the loss is taken.

    Differs from torchfm, whose weights start as N(0, 1), so that first logits are as far apart as there are fields.

    Args:
        num_categories: Categories of all fields together.
    """

    def __init__(self, num_categories: int) -> None:
        super().__init__()
        self.weight = nn.Embedding(num_categories, 1)
        nn.init.zeros_(self.weight.weight)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, categories: Tensor) -> Tensor:
        """Sum the weights of each example's categories.

        Args:
            categories: One category per field [N, F], int64, numbered through all fields.

        Returns:
            Logits [N, 1].
        """
        total: Tensor = self.weight(categories).sum(dim=1) + self.bias
        return total


class FactorizationMachine(nn.Module):
    """The sum over all pairs of fields of the inner product of their embeddings; it has no weights."""

    def forward(self, embedded: Tensor) -> Tensor:
        """Sum over the pairs: half of (the square of the sum less the sum of the squares).

        Args:
            embedded: Embeddings [N, F, D].

        Returns:
            Logits [N, 1].

        Source: Rendle 2010, equation 1 and lemma 3.1.
        """
        of_sum = embedded.sum(dim=1).square()
        of_each = embedded.square().sum(dim=1)
        return 0.5 * (of_sum - of_each).sum(dim=1, keepdim=True)


class CrossLayer(nn.Module):
    """`x_{l+1} = x_0 (x_l . w) + b + x_l`: one more degree of interactions, without a non-linearity.

    Args:
        width: Size D of the input.
        is_point: Whether a rule's signal enters at the output.

    Source: Wang et al. 2017, equation 3.
    """

    def __init__(self, width: int, *, is_point: bool) -> None:
        super().__init__()
        self.weight = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.point = fa.FeedbackPoint() if is_point else nn.Identity()

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Cross once more.

        Args:
            first: The network's input `x_0`, [N, D].
            crossed: The layer's input `x_l`, [N, D].

        Returns:
            The layer's output [N, D].
        """
        output: Tensor = self.point(first * self.weight(crossed) + self.bias + crossed)
        return output


class CrossNetwork(nn.Module):
    """Cross layers in a row; what follows the last one is its feedback point.

    Args:
        width: Size D of the input.
        num_layers: How many.
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(width, is_point=i < num_layers - 1) for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Cross the input with itself, [N, D] to [N, D]."""
        crossed = x
        for layer in self.layers:
            crossed = layer(x, crossed)
        return crossed


class LogarithmicLayer(nn.Module):
    """Products of powers of the fields' embeddings, the powers being learned: `exp(W log |e|)`.

    Args:
        num_fields: Fields F of the input.
        num_neurons: Products K to learn.

    Source: Cheng, Shen and Huang 2020, equation 6; Hines 1996.

    Differs from the paper: `log(1 + |e|)` and `exp(.) - 1`, rectified, without batch normalization, as in torchfm,
    which Launay et al. 2020 use.
    """

    def __init__(self, num_fields: int, num_neurons: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(num_fields)
        self.weight = nn.Parameter(torch.empty(num_neurons, num_fields).uniform_(-bound, bound))

    def forward(self, embedded: Tensor) -> Tensor:
        """Multiply powers of fields.

        Args:
            embedded: Embeddings [N, F, D].

        Returns:
            Products [N, K * D].
        """
        logarithms = torch.log1p(embedded.abs() + _SMALLEST_LOGARITHM)
        return torch.expm1(self.weight @ logarithms).flatten(1)


def perceptron(width: int, hidden: Sequence[int], dropout: float) -> tuple[nn.Sequential, int]:
    """Fully connected layers, each with batch normalization, ReLU and dropout.

    Args:
        width: Size of the input.
        hidden: Sizes of the layers.
        dropout: Probability of dropping a unit.

    Returns:
        The layers, and the size of their output.
    """
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers), width
