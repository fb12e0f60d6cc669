"""The networks, by name: factorization machine, DeepFM, Deep & Cross and the adaptive factorization network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.rules.base import PointRule, Rule
from feedalign_lab.clicks.layers import CrossNetwork, FactorizationMachine, FirstOrder, LogarithmicLayer, perceptron
from feedalign_lab.clicks.names import NETWORK_NAMES
from feedalign_lab.errors import SettingError, UnknownNameError

Family = Literal["fm", "deepfm", "deepcross", "afn"]


@dataclass(frozen=True)
class NetworkSize:
    """What a network of a name consists of.

    Attributes:
        family: Which network.
        embedding: Size D of each category's embedding.
        hidden: Sizes of the fully connected layers.
        num_cross: Cross layers of Deep & Cross.
        num_products: Logarithmic neurons of the adaptive factorization network.
    """

    family: Family
    embedding: int
    hidden: tuple[int, ...] = ()
    num_cross: int = 0
    num_products: int = 0


_SIZES: Mapping[str, NetworkSize] = {
    "fm": NetworkSize("fm", 16),
    "deepfm": NetworkSize("deepfm", 10, (400, 400, 400)),
    "deepcross": NetworkSize("deepcross", 16, (1024, 1024), num_cross=6),
    "afn": NetworkSize("afn", 10, (400, 400, 400), num_products=1500),
    "deepfm-small": NetworkSize("deepfm", 10, (100, 100, 100)),
    "deepcross-small": NetworkSize("deepcross", 10, (128, 128), num_cross=3),
    "afn-small": NetworkSize("afn", 10, (100, 100, 100), num_products=100),
}


def network_size(name: str) -> NetworkSize:
    """Sizes of a network.

    Args:
        name: One of `NETWORK_NAMES`; those without "-small" have the sizes of Launay et al.'s public code.

    Returns:
        Its sizes.

    Raises:
        UnknownNameError: There is no such network.
    """
    if name not in _SIZES:
        raise UnknownNameError("network for click logs", name, NETWORK_NAMES)
    return _SIZES[name]


# Where the embeddings of a logarithmic layer start: U(0, 0.2).
_LARGEST_POSITIVE = 0.2


class _Embedding(nn.Embedding):
    """Embeddings that start as U(+-sqrt(6 / (categories + D))), as torchfm's do."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.xavier_uniform_(self.weight)


class _PositiveEmbedding(nn.Embedding):
    """Embeddings that start positive, for layers that see their absolute values alone.

    DFA moves all embeddings of a field along one line, up or down by the error. From both sides of zero, as torchfm's
    start, up and down would look the same to the logarithmic layer.
    """

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.uniform_(self.weight, 0.0, _LARGEST_POSITIVE)


class FM(nn.Module):
    """Factorization machine: first order and all pairs of fields.

    Args:
        num_categories: Categories of all fields together.
        num_fields: Fields F; of no consequence here.
        size: Sizes of the network.
        dropout: Probability of dropping a unit; of no consequence here.

    Source: Rendle 2010.
    """

    def __init__(self, num_categories: int, num_fields: int, size: NetworkSize, dropout: float = 0.0) -> None:
        super().__init__()
        del num_fields, dropout
        self.linear = FirstOrder(num_categories)
        self.embedding = _Embedding(num_categories, size.embedding)
        self.fm = FactorizationMachine()

    def forward(self, categories: Tensor) -> Tensor:
        """Logits [N, 1] of categories [N, F], int64, numbered through all fields."""
        logits: Tensor = self.linear(categories) + self.fm(self.embedding(categories))
        return logits


class DeepFM(nn.Module):
    """A factorization machine and fully connected layers on the same embeddings.

    Under a rule that cuts, no signal passes from the fully connected layers into the embeddings: these learn through
    the factorization machine, whose gradient passes no weight.

    Args:
        num_categories: Categories of all fields together.
        num_fields: Fields F.
        size: Sizes of the network.
        dropout: Probability of dropping a hidden unit.

    Source: Guo et al. 2017.
    """

    def __init__(self, num_categories: int, num_fields: int, size: NetworkSize, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = FirstOrder(num_categories)
        self.embedding = _Embedding(num_categories, size.embedding)
        self.fm = FactorizationMachine()
        self.embedded = fa.FeedbackPoint()
        self.mlp, width = perceptron(num_fields * size.embedding, size.hidden, dropout)
        self.head = nn.Linear(width, 1)

    def forward(self, categories: Tensor) -> Tensor:
        """Logits [N, 1] of categories [N, F], int64, numbered through all fields."""
        embedded = self.embedding(categories)
        deep = self.mlp(self.embedded(embedded.flatten(1)))
        logits: Tensor = self.linear(categories) + self.fm(embedded) + self.head(deep)
        return logits


class DeepCross(nn.Module):
    """Cross layers and fully connected layers side by side, and one linear layer on both.

    Feedback points: the embeddings, each cross layer but the last, each ReLU, and the stack of both outputs, which
    teaches the last cross layer.

    Args:
        num_categories: Categories of all fields together.
        num_fields: Fields F.
        size: Sizes of the network.
        dropout: Probability of dropping a hidden unit.

    Source: Wang et al. 2017.
    """

    def __init__(self, num_categories: int, num_fields: int, size: NetworkSize, dropout: float = 0.0) -> None:
        super().__init__()
        width = num_fields * size.embedding
        self.embedding = _Embedding(num_categories, size.embedding)
        self.embedded = fa.FeedbackPoint()
        self.cross = CrossNetwork(width, size.num_cross)
        self.mlp, deep_width = perceptron(width, size.hidden, dropout)
        self.stack = fa.FeedbackPoint()
        self.head = nn.Linear(width + deep_width, 1)

    def forward(self, categories: Tensor) -> Tensor:
        """Logits [N, 1] of categories [N, F], int64, numbered through all fields."""
        embedded = self.embedded(self.embedding(categories).flatten(1))
        stacked = self.stack(torch.cat([self.cross(embedded), self.mlp(embedded)], dim=1))
        logits: Tensor = self.head(stacked)
        return logits


class AFN(nn.Module):
    """Adaptive factorization network: first order, and fully connected layers on products of learned powers.

    Feedback points: the embeddings, the rectified products, each ReLU.

    Differs from torchfm and from the public code of Launay et al.: embeddings start positive. In that code they get no
    signal under DFA; here they do.

    Args:
        num_categories: Categories of all fields together.
        num_fields: Fields F.
        size: Sizes of the network.
        dropout: Probability of dropping a hidden unit.

    Source: Cheng, Shen and Huang 2020.
    """

    def __init__(self, num_categories: int, num_fields: int, size: NetworkSize, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = FirstOrder(num_categories)
        self.embedding = _PositiveEmbedding(num_categories, size.embedding)
        self.embedded = fa.FeedbackPoint()
        self.logarithmic = LogarithmicLayer(num_fields, size.num_products)
        self.rectified = nn.ReLU()
        self.mlp, width = perceptron(size.num_products * size.embedding, size.hidden, dropout)
        self.head = nn.Linear(width, 1)

    def forward(self, categories: Tensor) -> Tensor:
        """Logits [N, 1] of categories [N, F], int64, numbered through all fields."""
        embedded = self.embedding(categories)
        flat = self.embedded(embedded.flatten(1))
        products = self.rectified(self.logarithmic(flat.view_as(embedded)))
        logits: Tensor = self.linear(categories) + self.head(self.mlp(products))
        return logits


_CLASSES: Mapping[Family, type[FM | DeepFM | DeepCross | AFN]] = {
    "fm": FM,
    "deepfm": DeepFM,
    "deepcross": DeepCross,
    "afn": AFN,
}


def build_network(name: str, num_categories: int, num_fields: int, *, seed: int, dropout: float = 0.0) -> nn.Module:
    """Build a network from a seed of its own; the global random state stays as it is.

    Args:
        name: One of `NETWORK_NAMES`.
        num_categories: Categories of all fields together.
        num_fields: Fields F.
        seed: Seed of the weights.
        dropout: Probability of dropping a hidden unit.

    Returns:
        The network: categories [N, F], int64, numbered through all fields, to logits [N, 1].

    Raises:
        UnknownNameError: There is no such network.
        SettingError: There are no fields, or no categories.
    """
    size = network_size(name)
    if num_categories < 1 or num_fields < 1:
        raise SettingError(
            f"{name} needs at least one field and one category, not {num_fields} and {num_categories}: take the sizes "
            "of a log, `log.num_categories` and `len(log.sizes)`."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _CLASSES[size.family](num_categories, num_fields, size, dropout)


def rules_for(network: nn.Module, rule: Rule) -> Rule | dict[str, Rule]:
    """What to attach to a network so that a rule teaches it as in Launay et al. 2020.

    Args:
        network: One of `build_network`.
        rule: The rule.

    Returns:
        The rule; for DeepFM and rules that cut, with a cut without a signal below the fully connected layers.
    """
    if isinstance(network, DeepFM) and isinstance(rule, PointRule):
        return {"embedded": fa.Shallow(), "*": rule}
    return rule
