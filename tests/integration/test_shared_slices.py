"""One matrix that several feedback points share: signals, what is held, and how often the error is multiplied."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import feedalign as fa
from attach.models import NUM_CLASSES, Perceptron, batch, images
from attach.sequence_models import SentenceClassifier, Tokens, tokens
from integration.gradients import assert_same_gradients, attached, cross_entropy, gradients_of_step

by_size, by_largest = fa.SharedSlice("layer"), fa.SharedSlice("largest")
each_draw = pytest.mark.parametrize("draw", [by_size, by_largest], ids=lambda draw: draw.normalisation)


class PixelsAndUnits(nn.Sequential):
    """Positions count as features at two convolutions; at two linear layers there are none."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(
                nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(),
                nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, NUM_CLASSES),
            )  # fmt: skip


def sentences() -> tuple[Tensor, Tensor]:
    x, y = tokens()
    return x, y[:, 0]


class Case(NamedTuple):
    """A model, its data, and the number of features at each feedback point."""

    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    widths: dict[str, int]

    def model(self) -> nn.Module:
        return self.make().double()

    def batch(self) -> tuple[Tensor, Tensor]:
        x, y = self.data()
        return x.double() if x.is_floating_point() else x, y

    def apart(self, draw: fa.SharedSlice) -> dict[str, Tensor]:
        """What is drawn, a matrix for each point."""
        shapes = [(NUM_CLASSES, width) for width in self.widths.values()]
        return dict(zip(self.widths, draw(shapes, torch.Generator().manual_seed(0)), strict=True))


PERCEPTRON = Case(Perceptron, batch, {"act1": 7, "act2": 6})
PIXELS = Case(PixelsAndUnits, images, {"1": 48, "3": 8, "6": 6, "8": 5})
CASES = [
    PERCEPTRON,
    Case(Tokens, tokens, {"act1": 7, "act2": 6}),
    Case(SentenceClassifier, sentences, {"act1": 7, "act2": 6}),
    PIXELS,
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)


@each_case
@each_draw
@pytest.mark.parametrize("rule", [fa.DFA(), fa.SignDFA(), fa.DRTP()], ids=lambda rule: rule.name)
def test_signals_are_those_of_a_matrix_for_each_point(case: Case, draw: fa.SharedSlice, rule: fa.Rule) -> None:
    x, y = case.batch()
    shared = attached(case.model, rule, x, feedback=draw)
    own = {point: fa.handle_of(shared).feedback_at(point) for point in case.widths}
    apart = attached(case.model, rule, x, feedback=own)
    assert_same_gradients(gradients_of_step(shared, x, y), gradients_of_step(apart, x, y), tolerance=1e-12)


@each_case
@each_draw
def test_each_point_tells_its_own_part(case: Case, draw: fa.SharedSlice) -> None:
    handle = fa.attach(case.model(), fa.DFA(), example_inputs=case.batch()[0], feedback=draw)
    for point, matrix in case.apart(draw).items():
        own = handle.feedback_at(point)
        assert own is not None
        torch.testing.assert_close(own, matrix.double(), rtol=0, atol=1e-7)


@each_draw
@pytest.mark.parametrize(("case", "held"), [(PERCEPTRON, [7]), (PIXELS, [48])], ids=["units", "pixels"])
def test_it_is_held_once(case: Case, held: list[int], draw: fa.SharedSlice) -> None:
    handle = fa.attach(case.model(), fa.DFA(), example_inputs=case.batch()[0], feedback=draw)
    assert [tuple(buffer.shape) for buffer in handle.store.buffers()] == [(NUM_CLASSES, width) for width in held]


@each_draw
def test_points_named_one_by_one_share_it_too(draw: fa.SharedSlice) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(2, 5, 1), nn.Tanh(), nn.Conv2d(5, 4, 1), nn.Tanh(), nn.Conv2d(4, 3, 1))
    rule = {"1": fa.DFA("shared"), "3": fa.DFA("shared")}
    handle = fa.attach(model, rule, example_inputs=x, feedback=draw)
    assert [tuple(buffer.shape) for buffer in handle.store.buffers()] == [(3, 5)]


@each_draw
def test_rules_in_a_mixture_have_a_matrix_each(draw: fa.SharedSlice) -> None:
    x = PERCEPTRON.batch()[0]
    rules = {"act1": fa.DFA(), "act2": fa.SignDFA()}
    handle = fa.attach(PERCEPTRON.model(), rules, example_inputs=x, feedback=draw)
    assert len(dict(handle.store.named_buffers())) == 2


@each_draw
def test_a_rule_that_learns_its_feedback_learns_a_matrix_for_each_point(draw: fa.SharedSlice) -> None:
    handle = fa.attach(PERCEPTRON.model(), fa.DKP(), example_inputs=PERCEPTRON.batch()[0], feedback=draw)
    assert sorted(dict(handle.store.named_parameters())) == ["act1", "act2"]


@each_draw
def test_targets_given_before_the_forward_teach_the_same(draw: fa.SharedSlice) -> None:
    x, y = PERCEPTRON.batch()
    later, streaming = (attached(PERCEPTRON.model, fa.DRTP(), x, feedback=draw) for _ in range(2))
    expected = gradients_of_step(later, x, y)
    streaming.zero_grad()
    fa.handle_of(streaming).targets(y)
    cross_entropy(streaming(x), y).backward()
    assert_same_gradients({n: p.grad for n, p in streaming.named_parameters()}, expected, tolerance=1e-12)


@each_draw
def test_a_copy_and_a_loaded_checkpoint_teach_the_same(draw: fa.SharedSlice) -> None:
    x, y = PERCEPTRON.batch()
    model = attached(PERCEPTRON.model, fa.DFA(), x, feedback=draw)
    expected = gradients_of_step(model, x, y)
    other = attached(PERCEPTRON.model, fa.DFA(), x, feedback=draw, generator=torch.Generator().manual_seed(5))
    other.load_state_dict(model.state_dict())
    for again in (copy.deepcopy(model), other):
        assert_same_gradients(gradients_of_step(again, x, y), expected, tolerance=0)


@each_draw
def test_points_of_two_precisions_each_have_their_own(draw: fa.SharedSlice) -> None:
    x, y = batch()

    class Mixed(Perceptron):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                h = self.act1(self.fc1(x))
            return self.head(self.act2(self.fc2(h.float())))

    shared = attached(Mixed, fa.DFA(), x, feedback=draw)
    apart = attached(Mixed, fa.DFA(), x, feedback=PERCEPTRON.apart(draw))
    found, expected = gradients_of_step(shared, x, y), gradients_of_step(apart, x, y)
    # Scaled after the product that is rounded to eight bits, not before.
    assert_same_gradients(found, expected, tolerance=1e-6 if draw == by_largest else 1e-2)


class Products(TorchDispatchMode):
    """Counts the matrix products with a tensor of the given shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.mm.default and tuple(args[1].shape) == self.shape:
            self.count += 1
        return function(*args, **(kwargs or {}))


@each_draw
def test_the_error_is_multiplied_once(draw: fa.SharedSlice) -> None:
    layers = [layer for _ in range(4) for layer in (nn.Linear(9, 9), nn.Tanh())]
    model, x = nn.Sequential(*layers, nn.Linear(9, 4)), torch.ones(2, 9)
    fa.attach(model, fa.DFA(), example_inputs=x, feedback=draw)
    output = model(x)
    with Products((4, 9)) as products:
        output.sum().backward()
    # The output layer's own input gradient is no such product: its graph ends at the last feedback point.
    assert products.count == 1


def test_signals_are_parts_of_one_tensor() -> None:
    """All signals together take the memory of the largest."""
    signals: list[Tensor] = []

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, activation: Tensor) -> Tensor:
            return activation.clone()

        @staticmethod
        def backward(ctx: Any, signal: Tensor) -> Tensor:
            signals.append(signal)
            return signal

    class Watched(nn.Tanh):
        def forward(self, x: Tensor) -> Tensor:
            return Seen.apply(super().forward(x))

    layers = [layer for width in (9, 8, 5) for layer in (nn.LazyLinear(width), Watched())]
    model, x = nn.Sequential(*layers, nn.LazyLinear(4)), torch.ones(2, 9)
    model(x)
    fa.attach(model, fa.DFA(), example_inputs=x, feedback=by_largest)
    signals.clear()
    model(x).sum().backward()
    assert [signal.shape[1] for signal in signals] == [5, 8, 9]
    assert len({signal.untyped_storage().data_ptr() for signal in signals}) == 1
