"""Models in which paths are easily overlooked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from check.case import Case


class Skip(nn.Module):
    """An identity skip around the only point."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc, self.act, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)

    def joined(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return h + self.act(self.fc(h))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.joined(x))


class HeadByKeyword(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.joined(x))


class PooledPair(nn.Module):
    """A layer with weights of its own that takes a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))

    def forward(self, several: list[Tensor]) -> Tensor:
        return F.linear(several[0] * several[1], self.weight)


class HeadOfAList(Skip):
    def __init__(self) -> None:
        super().__init__()
        self.head = PooledPair()

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head([h, self.act(self.fc(h))])


class AttentionByKeyword(Skip):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.joined(x)
        return self.head(self.attention(query=h, key=h, value=h, need_weights=False)[0])


class LSTMWithStart(Skip):
    """A recurrent module that no rule cuts, with an initial state that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.init, self.lstm = nn.Linear(6, 6), nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        start = self.init(x[:, 0]).unsqueeze(0)
        return self.head(self.lstm(self.act(self.fc(self.stem(x))), (start, torch.zeros_like(start)))[0])


class LastState(Skip):
    """A recurrent module that no rule cuts, of which the last state alone is used."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.joined(x))[1][-1])


class Packed(Skip):
    """A recurrent module that no rule cuts, given packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.joined(x), [5, 4, 4, 2], batch_first=True)
        states, _ = self.lstm(packed)
        return self.head(nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0])


class PassesOn(nn.Linear):
    """Returns what it was given beside what it made."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, super().forward(x)


class TwoResults(Skip):
    """The second result of a layer is used."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = PassesOn(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.joined(x))[1])


class TwoProducts(nn.Module):
    """A layer with a point between two products of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 6) / 3), nn.Parameter(torch.randn(6, 6) / 3)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.act(F.linear(x, self.first)), self.second)


def point_inside_a_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), TwoProducts(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


class FunctionalHead(Skip):
    """The head's weight is another layer's, used as a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.joined(x), self.head.weight)


class Einsum(Skip):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3))
        del self.head

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,dc->nc", self.joined(x), self.weight)


class StopGradient(Skip):
    """What the target network makes is detached; its layers run and learn nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.hidden = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.hidden(x)
        return self.head(self.joined(x) + self.teacher(x).detach() + hidden)


class Checkpointed(Skip):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.joined, x, use_reentrant=False))


class SharedBlock(Skip):
    """One layer twice on the main path."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.joined(x)
        return self.head(h + self.act(self.fc(h)))


class TupleBlock(Skip):
    """Blocks return tuples, so that no module's output is the main path."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head((h + self.act(self.fc(h))) * 2)


class LowRank(nn.Module):
    """An adapter on a frozen layer, as LoRA; its second factor starts at random."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(6, 6), nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapters() -> nn.Module:
    return nn.Sequential(LowRank(), nn.GELU(), LowRank(), nn.GELU(), nn.Linear(6, 3))


def weight_normed() -> nn.Module:
    model = Skip()
    nn.utils.parametrizations.weight_norm(model.head)
    nn.utils.parametrizations.orthogonal(model.fc)
    return model


def vectors() -> Tensor:
    return torch.randn(5, 6)


def series() -> Tensor:
    return torch.randn(4, 5, 6)


AWKWARD = [
    Case("skip", Skip, vectors, leaks=("stem",)),
    Case("keyword", HeadByKeyword, vectors, leaks=("stem",)),
    Case("list", HeadOfAList, vectors, leaks=("stem",)),
    Case(
        "attention-by-keyword",
        AttentionByKeyword,
        series,
        leaks=("stem", "attention"),
        stays=("attention", "attention.out_proj"),
    ),
    Case(
        "state-in-a-tuple", LSTMWithStart, series, {"points": ["act"]}, leaks=("init", "lstm"), stays=("init", "lstm")
    ),
    Case("last-state", LastState, series, {"points": ["act"]}, leaks=("stem", "gru")),
    Case("packed", Packed, series, {"points": ["act"]}, leaks=("stem", "lstm")),
    Case("two-results", TwoResults, vectors, leaks=("stem", "mix"), stays=("mix",)),
    Case("point-inside-a-layer", point_inside_a_layer, vectors, has_bare_products=True),
    Case("functional-head", FunctionalHead, vectors, has_bare_products=True, leaks=("stem",)),
    Case("einsum", Einsum, vectors, has_bare_products=True, leaks=("stem",)),
    Case("stop-gradient", StopGradient, vectors, leaks=("stem",)),
    Case("checkpointed", Checkpointed, vectors, leaks=("stem",)),
    Case("shared-block", SharedBlock, vectors, leaks=("stem",)),
    Case("tuple-blocks", TupleBlock, vectors, leaks=("stem",)),
    Case("adapters", adapters, vectors),
    Case("weight-normed", weight_normed, vectors, leaks=("stem",)),
]
