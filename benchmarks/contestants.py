"""What is timed: one training step of a tanh MLP, by backprop, by hand, and by attached rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import feedalign as fa

Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A network and a batch."""

    name: str
    width: int
    depth: int
    batch: int
    inputs: int = 784
    outputs: int = 10

    def model(self, activation: type[nn.Module]) -> nn.Sequential:
        """Return a fresh network, the same at every call."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        sizes = [self.inputs, *[self.width] * self.depth]
        for i in range(self.depth):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), activation()]
        return nn.Sequential(*layers, nn.Linear(self.width, self.outputs))

    def data(self) -> tuple[Tensor, Tensor]:
        """Return one batch."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, self.inputs, generator=generator)
        return x, torch.randint(self.outputs, (self.batch,), generator=generator)


def backprop(case: Case, activation: type[nn.Module]) -> Step:
    """Plain torch, no rule attached."""
    return _loop(case, case.model(activation))


def attached(case: Case, activation: type[nn.Module], rule: fa.Rule, *, streaming: bool = False) -> Step:
    """The same loop with a rule attached."""
    model = case.model(activation)
    x, y = case.data()
    handle = fa.attach(model, rule, example_inputs=x)
    return _loop(case, model, (lambda: handle.targets(y)) if streaming else None)


def _loop(case: Case, model: nn.Module, before: Step | None = None) -> Step:
    x, y = case.data()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        if before is not None:
            before()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    return step


def by_hand(case: Case, activation: type[nn.Module]) -> Step:
    """DFA written for this network alone: detach between layers, one backward over all local graphs."""
    model = case.model(activation)
    x, y = case.data()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    feedback = [
        torch.empty(case.outputs, case.width).uniform_(-0.05, 0.05, generator=generator) for _ in range(case.depth)
    ]
    blocks = [nn.Sequential(model[2 * i], model[2 * i + 1]) for i in range(case.depth)]

    def step() -> None:
        optimizer.zero_grad()
        h, taps = x, []
        for block in blocks:
            tap = block(h)
            taps.append(tap)
            h = tap.detach()
        logits = model[-1](h)
        loss = nn.functional.cross_entropy(logits, y)
        (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.autograd.backward([logits, *taps], [error, *[error @ matrix for matrix in feedback]])
        optimizer.step()

    return step


def downstream_products(case: Case) -> Step:
    """The products `delta @ W` of backprop's backward alone: what a direct rule never forms."""
    hidden = [torch.randn(case.width, case.width) for _ in range(case.depth - 1)]
    last = torch.randn(case.outputs, case.width)
    deltas = [torch.randn(case.batch, case.width) for _ in range(case.depth - 1)]
    error = torch.randn(case.batch, case.outputs)

    def step() -> None:
        error @ last
        for delta, weight in zip(deltas, hidden, strict=True):
            delta @ weight

    return step


def activation_memory(depth: int, *, streaming: bool) -> int:
    """Peak bytes that one forward and backward hold above parameters and gradients, at width 1024, batch 1024."""
    case = Case("memory", 1024, depth, 1024)
    model = case.model(nn.Tanh)
    x, y = case.data()
    handle = fa.attach(model, fa.DRTP(), example_inputs=x) if streaming else None

    def step() -> None:
        if handle is not None:
            handle.targets(y)
        nn.functional.cross_entropy(model(x), y).backward()

    # The first step makes the gradients, which stay; the second shows what a step needs beside them.
    step()
    return fa.measure.peak_memory(step)
