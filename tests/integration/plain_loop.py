"""The loop that other people's trainers are compared with: everything written out, nothing around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import feedalign as fa
from attach.models import Perceptron, batch
from integration.gradients import AVERAGED, Gradients, assert_same_gradients, attached, gradients

RULES: list[fa.Rule] = [fa.DFA(), fa.FA(), fa.DKP(), fa.FDFA(), AVERAGED]
"""Feedback that is fixed, at points and by layer; learned with the error and without; an average that is a buffer."""

NUM_STEPS, BATCH_SIZE = 6, 4

x, y = batch(NUM_STEPS * BATCH_SIZE)

Batches = Sequence[tuple[Tensor, Tensor]]
BATCHES: Batches = list(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True))


def loader() -> DataLoader[tuple[Tensor, ...]]:
    """The batches of `BATCHES`, in order."""
    return DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE)


def under(rule: fa.Rule) -> nn.Module:
    """A fresh perceptron with the rule attached."""
    return attached(Perceptron, rule, x[:BATCH_SIZE])


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of every run here: it has a state, so that one lost on the way would show."""
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


@dataclass
class Run:
    """What a training did.

    Attributes:
        model: The model, trained.
        gradients: Those before each optimizer step, before any clipping.
    """

    model: nn.Module
    gradients: list[Gradients] = field(default_factory=list)

    def note(self) -> None:
        """Note the gradients as they are now."""
        self.gradients.append(gradients(self.model))


def train(
    model: nn.Module,
    batches: Batches = BATCHES,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    optimizer: torch.optim.Optimizer | None = None,
) -> Run:
    """Train one epoch.

    Args:
        model: The model.
        batches: Inputs and labels.
        accumulate: Batches to an optimizer step.
        clip: Largest norm of all gradients together.
        precision: Surrounds forward and loss.
        optimizer: None: `sgd(model)`.

    Returns:
        The run.
    """
    run = Run(model)
    optimizer = optimizer or sgd(model)
    for number, (inputs, labels) in enumerate(batches, start=1):
        with precision():
            loss = F.cross_entropy(model(inputs), labels)
        (loss / accumulate).backward()
        if number % accumulate:
            continue
        run.note()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return run


def assert_same_run(found: Run, expected: Run, tolerance: float = 1e-6) -> None:
    """Compare the gradients of all steps, and all parameters and buffers afterwards."""
    assert len(found.gradients) == len(expected.gradients) > 0
    for mine, wanted in zip(found.gradients, expected.gradients, strict=True):
        assert_same_gradients(mine, wanted, tolerance)
    assert_same_state(found.model, expected.model, tolerance)


def assert_same_state(found: nn.Module, expected: nn.Module, tolerance: float = 1e-6) -> None:
    """Compare all parameters and buffers, feedback included; whole numbers exactly."""
    mine, wanted = found.state_dict(), expected.state_dict()
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(mine[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def first_layer(run: Run) -> Tensor:
    """The first gradient of the first hidden layer, wherever in the model it is."""
    (name,) = [name for name in run.gradients[0] if name.endswith("fc1.weight")]
    gradient = run.gradients[0][name]
    assert gradient is not None
    return gradient


def assert_rule_was_on(run: Run) -> None:
    """The points fired, and the first hidden layer's first gradient is not backprop's."""
    fired = [row.fired for row in fa.handle_of(run.model).describe().rows if row.fired is not None]
    assert fired
    assert all(fired)
    learned, exact = first_layer(run), first_layer(train(Perceptron(), BATCHES[:1]))
    assert learned.any()
    assert torch.linalg.vector_norm(learned - exact) > 0.1 * torch.linalg.vector_norm(exact), "backprop's gradient"
