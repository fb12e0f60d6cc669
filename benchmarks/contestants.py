"""What is timed: one training step of a network, by backprop, by hand, and by attached rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

import feedalign as fa

Step = Callable[[], None]


class Timed(Protocol):
    """A network and a batch."""

    def model(self, activation: type[nn.Module]) -> nn.Sequential:
        """Return a fresh network, the same at every call."""
        ...

    def data(self) -> tuple[Tensor, Tensor]:
        """Return one batch."""
        ...


@dataclass(frozen=True)
class ConvCase:
    """The CNN 15C5-P2-40C5-P2-128-10 on images of the size of CIFAR-10's."""

    name: str
    batch: int

    def model(self, activation: type[nn.Module]) -> nn.Sequential:
        """Return a fresh network, the same at every call."""
        torch.manual_seed(0)
        first = [nn.Conv2d(3, 15, 5), activation(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(15, 40, 5), activation(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(1000, 128), activation(), nn.Linear(128, 10))

    def data(self) -> tuple[Tensor, Tensor]:
        """Return one batch."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, 3, 32, 32, generator=generator)
        return x, torch.randint(10, (self.batch,), generator=generator)


@dataclass(frozen=True)
class Case:
    """Fully connected layers and a batch."""

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


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the cheapest optimizer there is."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return Adam as one kernel per tensor; its plain loop costs up to a third of a step."""
    return torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)


Optimizing = Callable[[nn.Module], torch.optim.Optimizer]


def backprop(case: Timed, activation: type[nn.Module], optimizing: Optimizing = sgd) -> Step:
    """Plain torch, no rule attached."""
    return _loop(case, case.model(activation), optimizing)


def attached(
    case: Timed,
    activation: type[nn.Module],
    rule: fa.Rule,
    optimizing: Optimizing = sgd,
    *,
    streaming: bool = False,
) -> Step:
    """The same loop with a rule attached."""
    model = case.model(activation)
    x, y = case.data()
    handle = fa.attach(model, rule, example_inputs=x)
    return _loop(case, model, optimizing, (lambda: handle.targets(y)) if streaming else None)


def _loop(case: Timed, model: nn.Module, optimizing: Optimizing, before: Step | None = None) -> Step:
    x, y = case.data()
    optimizer = optimizing(model)

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


def tangent_products(case: Case) -> Step:
    """The products `D @ W` that carry a tangent from the first hidden layer to the output: what FDFA adds."""
    hidden = [torch.randn(case.width, case.width) for _ in range(case.depth - 1)]
    last = torch.randn(case.outputs, case.width)
    tangent = torch.randn(case.batch, case.width)

    def step() -> None:
        for weight in hidden:
            nn.functional.linear(tangent, weight)
        nn.functional.linear(tangent, last)

    return step


def step_memory(case: Timed, rule: fa.Rule | None) -> int:
    """Peak bytes that one forward and backward hold above parameters and gradients."""
    model = case.model(nn.ReLU)
    x, y = case.data()
    if rule is not None:
        fa.attach(model, rule, example_inputs=x)

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()

    # The first step makes the gradients, which stay; the second shows what a step needs beside them.
    step()
    return fa.measure.peak_memory(step)


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
