"""Models with connections at random."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from check.case import Case

WIDTH = 4


class Branch(nn.Module):
    """A part with a skip of its own."""

    def __init__(self, *, has_skip: bool) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)
        self.has_skip = has_skip

    def forward(self, x: Tensor) -> Tensor:
        made = self.fc2(self.act(self.fc1(x)))
        return x + made if self.has_skip else made


class RandomGraph(nn.Module):
    """Each part takes one or two of the tensors made so far; the head, the sum of the last and some others.

    Args:
        seed: Tells all connections.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.parts, self.sources = nn.ModuleList(), list[tuple[int, ...]]()
        for number in range(draw.randint(2, 7)):
            kinds = [
                nn.Linear(WIDTH, WIDTH),
                nn.Tanh(),
                nn.LayerNorm(WIDTH),
                Branch(has_skip=True),
                Branch(has_skip=False),
            ]
            is_again = number > 0 and draw.random() < 0.15
            self.parts.append(self.parts[draw.randrange(number)] if is_again else draw.choice(kinds))
            self.sources.append(tuple(draw.randint(0, number) for _ in range(draw.randint(1, 2))))
        others = [draw.randint(0, number) for _ in range(draw.randint(0, 2))]
        self.ends = (len(self.parts), *others)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for part, sources in zip(self.parts, self.sources, strict=True):
            made.append(part(sum(made[source] for source in sources)))
        return self.head(sum(made[end] for end in self.ends))


def random_case(seed: int) -> Case:
    return Case(f"random-{seed}", lambda: RandomGraph(seed), lambda: torch.randn(5, WIDTH))
