"""Well-known networks for sequences and graphs, small and by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from check.case import Case

VOCABULARY = 13


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.lstm = nn.LSTM(5, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


class Seq2Seq(nn.Module):
    """Luong et al. 2015: a decoder that attends to the states of an encoder, given the words before (no loop)."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, 6), nn.Embedding(VOCABULARY, 6)
        self.encoder, self.decoder = nn.GRU(6, 8, batch_first=True), nn.GRU(6, 8, batch_first=True)
        self.query, self.mix, self.act = nn.Linear(8, 8), nn.Linear(16, 8), nn.Tanh()
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        states, last = self.encoder(self.source(source))
        decoded, _ = self.decoder(self.target(target), last)
        weights = torch.softmax(self.query(decoded) @ states.transpose(1, 2), -1)
        return self.head(self.act(self.mix(torch.cat([decoded, weights @ states], -1))))


class Seq2SeqOwnStart(Seq2Seq):
    """The decoder starts at zero; what it knows of the source comes through attention alone."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        states, _ = self.encoder(self.source(source))
        decoded, _ = self.decoder(self.target(target))
        weights = torch.softmax(self.query(decoded) @ states.transpose(1, 2), -1)
        return self.head(self.act(self.mix(torch.cat([decoded, weights @ states], -1))))


class CellByCell(nn.Module):
    """A loop of the model's own over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.act, self.head = nn.GRUCell(5, 6), nn.Tanh(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(self.act(state))


class TransformerEncoder(nn.Module):
    """torch's own layers, whose activation is a function."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=12, dropout=0.1, batch_first=True)
        self.embedding, self.encoder = nn.Embedding(VOCABULARY, 8), nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(tokens)))


class GraphConvolution(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, outer) / inner**0.5)
        self.bias = nn.Parameter(torch.zeros(outer))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias


class GCN(nn.Module):
    """Kipf & Welling 2017: an output at every node."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = GraphConvolution(6, 8), GraphConvolution(8, 8), GraphConvolution(8, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.act(self.conv1(x, adjacency))
        return self.conv3(self.act(self.conv2(h, adjacency)), adjacency)


def tokens(num_samples: int = 4, length: int = 6) -> Tensor:
    return torch.randint(VOCABULARY, (num_samples, length))


def source_and_target() -> tuple[Tensor, Tensor]:
    return tokens(4, 7), tokens(4, 5)


def graph() -> tuple[Tensor, Tensor]:
    edges = (torch.rand(9, 9) < 0.3).float()
    adjacency = ((edges + edges.T) > 0).float() + torch.eye(9)
    return torch.randn(9, 6), adjacency / adjacency.sum(1, keepdim=True)


SEQUENCES = [
    Case("lstm", LSTMClassifier, tokens),
    Case("gcn", GCN, graph),
    Case("seq2seq-points-in-the-decoder", Seq2SeqOwnStart, source_and_target, {"points": ["decoder", "act"]}),
    Case(
        "transformer-encoder",
        TransformerEncoder,
        tokens,
        {"points": ["encoder.layers.*.norm1"]},
        leaks=("encoder.layers.1.linear2", "encoder.layers.1.norm2"),
    ),
]
