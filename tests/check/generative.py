"""Autoencoders, pairs and networks with more than one result, small and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from check.case import Case


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 8), nn.Sigmoid()),
    )


class VAE(nn.Module):
    """Kingma & Welling 2014: returns the reconstruction with mean and log-variance of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 6), nn.Tanh())
        self.mean, self.log_variance = nn.Linear(6, 3), nn.Linear(6, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(code), mean, log_variance


class Siamese(nn.Module):
    """Two inputs pass the same network; the output compares them."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU())
        self.head = nn.Linear(6, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.tower(left) - self.tower(right)).abs())


class TwoTowers(Siamese):
    """Returns both embeddings, for a contrastive loss."""

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.tower(left), self.tower(right)


class MultiHead(nn.Module):
    """A shared body, a class and a box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU())
        self.classes, self.box = nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"classes": self.classes(h), "box": self.box(h)}


class JoinedHeads(MultiHead):
    """The same in one tensor, to be split in the loss."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(list(super().forward(x).values()), -1)


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


class LossInside(nn.Module):
    """Makes its loss inside forward and returns it with the logits, as those of Transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.head = nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, x: Tensor, labels: Tensor) -> Output:
        logits = self.head(self.act(self.fc1(x)))
        return Output(F.cross_entropy(logits, labels), logits)


class LossAlone(LossInside):
    def forward(self, x: Tensor, labels: Tensor) -> Any:
        return super().forward(x, labels).loss


def vectors() -> Tensor:
    return torch.randn(5, 8)


def pairs() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 8), torch.randn(5, 8)


def labelled() -> dict[str, Tensor]:
    return {"x": torch.randn(5, 8), "labels": torch.randint(3, (5,))}


GENERATIVE = [
    Case("autoencoder", autoencoder, vectors),
    Case("vae", VAE, vectors, {"output": "decoder.2"}, lambda returned: returned[0]),
    Case("siamese", Siamese, pairs),
    Case("multi-head", MultiHead, vectors, {"output": "classes"}, lambda returned: returned["classes"]),
    Case("multi-head-joined", JoinedHeads, vectors),
    Case("loss-inside", LossInside, labelled, {"output": "head"}, lambda returned: returned.logits),
]
