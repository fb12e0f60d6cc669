"""Training with a Monitor beside training without one: the same bits; and what a Monitor costs, counted."""

import copy
import gc
import random
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Functional, Perceptron, Regularised, Seeded, batch
from feedalign.measure import Monitor

x, y = batch(24)


class Noisy(Regularised):
    """Dropout, batch normalization, an activation in place, and random numbers of Python and numpy."""

    def forward(self, inputs: Tensor) -> Tensor:
        scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
        inputs.mul_(1.01)
        return super().forward(inputs).div_(scale)


class Recurrent(Seeded):
    def build(self) -> None:
        self.rnn, self.drop, self.head = nn.GRU(1, 4, batch_first=True), nn.Dropout(0.4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.drop(self.rnn(inputs.unsqueeze(-1))[0][:, -1]))


@dataclass
class Training:
    """All that a training leaves."""

    losses: list[float] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    gradients: list[dict[str, Tensor | None]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    random_numbers: list[float] = field(default_factory=list)


def train(make: Callable[[], nn.Module], rule: fa.Rule, every: int | None, *, streams: bool = False) -> Training:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model, found = make(), Training()
    options: dict[str, Any] = {"feedback": fa.KaimingUniform()} if isinstance(rule, (fa.FDFA, fa.DKP)) else {}
    handle = fa.attach(model, rule, example_inputs=x[:4].clone(), **options)
    monitor = None if every is None else Monitor(handle, every=every)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for number, (inputs, labels) in enumerate(zip(x.split(4), y.split(4), strict=True)):
        inputs = inputs.clone()
        if number % 2 == 0:
            optimizer.zero_grad()
        if streams:
            handle.targets(labels)
        with nullcontext() if monitor is None else monitor.step():
            output = model(inputs)
            # Drawn behind the forward: the streams are to be put back to here, not to where the forward left them.
            noise = torch.rand(()) + random.random() + float(np.random.rand())  # noqa: NPY002
            loss = F.cross_entropy(output, labels) * (1 + 0.1 * noise)
            loss.backward()
        found.inputs.append(inputs)
        found.losses.append(float(loss.detach()))
        found.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()})
        optimizer.step()
    if monitor is not None:
        assert monitor.last is not None
        assert monitor.last.replay_error is not None
        assert monitor.last.replay_error < 1e-6
    found.state = copy.deepcopy(dict(model.state_dict()))
    found.random_numbers = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
    return found


RULES: list[Any] = [
    fa.Backprop(),
    fa.DFA(),
    fa.DFA(limits=fa.Limits(delay=1)),
    fa.DRTP(),
    fa.FA(),
    fa.BRSF(),
    fa.DKP(),
    fa.FDFA(),
    fa.FDFA(update="ema"),
    fa.ActivityPerturbed(),
    fa.WeightPerturbed(),
]


@pytest.mark.parametrize(
    ("make", "rule", "streams"),
    [
        *(pytest.param(Noisy, rule, False, id=repr(rule)) for rule in RULES),
        pytest.param(Functional, fa.FDFA(), False, id="dual tensors"),
        pytest.param(Recurrent, fa.DFA(), False, id="recurrent"),
        pytest.param(Recurrent, fa.Backprop(), False, id="recurrent backprop"),
        pytest.param(Noisy, fa.DRTP(), True, id="streaming"),
    ],
)
def test_a_training_is_the_same_to_the_bit(make: Callable[[], nn.Module], rule: fa.Rule, streams: bool) -> None:
    without, watched = (train(make, rule, every, streams=streams) for every in (None, 2))
    assert watched.losses == without.losses
    assert watched.random_numbers == without.random_numbers
    assert all(torch.equal(*both) for both in zip(watched.inputs, without.inputs, strict=True))
    assert watched.state.keys() == without.state.keys()
    assert all(torch.equal(value, without.state[name]) for name, value in watched.state.items())
    for mine, wanted in zip(watched.gradients, without.gradients, strict=True):
        for name, gradient in wanted.items():
            found = mine[name]
            assert (found is None) == (gradient is None)
            assert gradient is None or found is None or torch.equal(found, gradient)


class Counted(Perceptron):
    """Counts its forwards and the backwards of its first layer."""

    def build(self, activation: type[nn.Module] = nn.Tanh) -> None:
        super().build(activation)
        self.counts = {"forward": 0, "backward": 0}

    def forward(self, inputs: Tensor) -> Tensor:
        self.counts["forward"] += 1
        hidden = _Count.apply(self.counts, self.fc1(inputs))  # type: ignore[no-untyped-call]
        return self.head(self.act2(self.fc2(self.act1(hidden))))


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: dict[str, int], tensor: Tensor) -> Tensor:
        ctx.counts = counts
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        ctx.counts["backward"] += 1
        return None, gradient


def hooks(model: nn.Module) -> list[int]:
    """How many hooks each module and each parameter has."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    counts = [len(getattr(module, kind)) for module in model.modules() for kind in kinds]
    return counts + [len(parameter._backward_hooks or ()) for parameter in model.parameters()]


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.Backprop()], ids=repr)
def test_a_measured_step_runs_once_more_and_the_others_as_ever(rule: fa.Rule) -> None:
    model = Counted()
    fa.attach(model, rule, example_inputs=x)
    model.counts.update(forward=0, backward=0)
    monitor, of_attach = Monitor(model, every=3), hooks(model)
    counts = []
    for _ in range(5):
        with monitor.step():
            inside = hooks(model)
            F.cross_entropy(model(x), y).backward()
        assert hooks(model) == of_attach
        assert (inside == of_attach) == (len(counts) % 3 != 0)
        counts.append((model.counts["forward"], model.counts["backward"]))
        model.counts.update(forward=0, backward=0)
    assert counts == [(2, 2), (1, 1), (1, 1), (2, 2), (1, 1)]


def test_nothing_runs_and_nothing_is_hooked_where_the_monitor_is_off() -> None:
    model = Counted()
    fa.attach(model, fa.DFA(), example_inputs=x)
    model.counts.update(forward=0, backward=0)
    monitor, of_attach = Monitor(model, every=0), hooks(model)
    for _ in range(3):
        with monitor.step():
            assert hooks(model) == of_attach
            F.cross_entropy(model(x), y).backward()
    assert model.counts == {"forward": 3, "backward": 3}
    assert monitor.last is None


def test_gradients_that_were_there_stay_and_are_added_to() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x)
    F.cross_entropy(model(x), y).backward()
    held = {name: p.grad for name, p in model.named_parameters()}
    once = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    monitor = Monitor(model, every=1)
    with monitor.step():
        F.cross_entropy(model(x), y).backward()
    assert all(p.grad is held[name] for name, p in model.named_parameters())
    assert all(torch.equal(gradient, 2 * once[name]) for name, gradient in held.items() if gradient is not None)
    assert monitor.last is not None
    weight = once["fc1.weight"]
    assert monitor.last["fc1"].norm == pytest.approx(float(weight.norm()), rel=1e-6), "that of this step alone"


def test_what_the_model_returns_is_of_the_same_values_and_may_be_changed_in_place() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x)
    expected = model(x)
    monitor = Monitor(model, every=1)
    with monitor.step():
        output = model(x)
        assert torch.equal(output, expected)
        output /= 2
        F.cross_entropy(output, y).backward()
    expected = expected / 2
    gradient = model.fc1.weight.grad
    assert gradient is not None
    watched = gradient.clone()
    model.zero_grad()
    F.cross_entropy(expected, y).backward()
    assert torch.equal(watched, gradient)
    assert monitor.last is not None
    assert monitor.last.replay_error == 0


def test_a_measured_step_holds_on_to_nothing() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x)
    monitor = Monitor(model, every=1)
    inputs = x.clone()
    with monitor.step():
        output = model(inputs)
        F.cross_entropy(output, y).backward()
    held = weakref.ref(output)
    del output
    gc.collect()
    assert held() is None


def test_a_second_derivative_is_refused_and_has_gone_through() -> None:
    model = Perceptron()
    fa.attach(model, fa.Backprop(), example_inputs=x)
    inputs = x.clone().requires_grad_()

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(model(inputs).logsumexp(1).sum(), inputs, create_graph=True)
        return slope.pow(2).sum()

    penalty().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    monitor = Monitor(model, every=1)
    with pytest.raises(fa.errors.MonitorError, match="create_graph"), monitor.step():
        penalty().backward()
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (wanted is None)
        assert wanted is None or parameter.grad is None or torch.equal(parameter.grad, wanted)
