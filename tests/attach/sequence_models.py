"""Small models of sequences that the tests attach rules to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attach.models import NUM_CLASSES, Seeded


def tokens(num_samples: int = 3, length: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token indices `[N, T]` of a vocabulary of 11, and class indices `[N, T]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(11, (num_samples, length), generator=generator)
    return x, torch.randint(NUM_CLASSES, (num_samples, length), generator=generator)


class Tokens(Seeded):
    """Embedding and a perceptron at every position: outputs `[N, T, 3]`."""

    def build(self) -> None:
        self.embedding = nn.Embedding(11, 5)
        self.fc1, self.act1 = nn.Linear(5, 7), nn.Tanh()
        self.fc2, self.act2 = nn.Linear(7, 6), nn.Tanh()
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(self.embedding(x))))))


class SentenceClassifier(Tokens):
    """The same, averaged over positions: one output for a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(self.embedding(x))))).mean(1))


class TiedWeights(Seeded):
    """The head's weight is the embedding's."""

    def build(self) -> None:
        self.embedding = nn.Embedding(11, 5)
        self.fc1, self.act1 = nn.Linear(5, 5), nn.Tanh()
        self.head = nn.Linear(5, 11)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act1(self.fc1(self.embedding(x))))


class Attentive(Seeded):
    """Attention over positions, then layer normalization and a skip between points."""

    def build(self) -> None:
        self.embedding, self.attention = nn.Embedding(11, 6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.act1, self.norm = nn.Tanh(), nn.LayerNorm(6)
        self.fc2, self.act2, self.head = nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        h = self.act1(self.attention(h, h, h, need_weights=False)[0])
        return self.head(h + self.act2(self.fc2(self.norm(h))))


class Recurrent(Seeded):
    """A recurrent layer between linear ones."""

    def build(self) -> None:
        self.embedding, self.fc1, self.act1 = nn.Embedding(11, 5), nn.Linear(5, 4), nn.Tanh()
        self.rnn, self.act2, self.head = nn.GRU(4, 6, batch_first=True), nn.Tanh(), nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.rnn(self.act1(self.fc1(self.embedding(x))))[0]))
