"""`points=`: where teaching signals enter, chosen by name, glob, type, predicate or a FeedbackPoint."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from attach.models import (
    NUM_CLASSES,
    NUM_INPUTS,
    Convolutional,
    Gated,
    Perceptron,
    Regularised,
    Repeats,
    Seeded,
    SharedActivation,
    Wrapper,
    batch,
    images,
)
from feedalign.errors import FeedalignError

x, y = batch()


def points_of(model: nn.Module, **arguments: Any) -> list[str]:
    """The feedback points in the order of the description, once each."""
    handle = fa.attach(model, fa.DFA(), example_inputs=arguments.pop("example_inputs", x), **arguments)
    points = dict.fromkeys(row.point for row in handle.describe().rows if row.point not in {"output", "-"})
    return list(points)


def test_all_non_linearities_but_the_outputs_are_points_by_default() -> None:
    assert points_of(Perceptron()) == ["act1", "act2"]
    assert points_of(Convolutional(), example_inputs=images()[0]) == ["act1", "act2", "act3"]
    assert points_of(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Sigmoid())) == ["1"]


@pytest.mark.parametrize("activation", [
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign, nn.Tanhshrink,
    nn.LogSigmoid, nn.Softshrink, nn.Hardshrink,
])  # fmt: skip
def test_every_activation_of_torch_is_a_point(activation: type[nn.Module]) -> None:
    assert points_of(Perceptron(activation=activation)) == ["act1", "act2"]


@pytest.mark.parametrize("layer", [nn.Dropout, nn.BatchNorm1d, nn.LayerNorm])
def test_other_layers_are_no_points_by_default(layer: type[nn.Module]) -> None:
    other = layer(4) if layer is not nn.Dropout else layer()
    assert points_of(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), other, nn.Linear(4, 3))) == ["1"]


@pytest.mark.parametrize(("points", "expected"), [
    ("act1", ["act1"]),
    ("act*", ["act1", "act2"]),
    (["act2", "act1"], ["act1", "act2"]),
    (("act2",), ["act2"]),
    (nn.Tanh, ["act1", "act2"]),
    ([nn.Tanh, "fc2"], ["act1", "fc2", "act2"]),
    ("fc?", ["fc1", "fc2"]),
    (lambda name, module: name.endswith("2"), ["fc2", "act2"]),
    (lambda name, module: isinstance(module, nn.Tanh), ["act1", "act2"]),
])  # fmt: skip
def test_points_are_chosen_by_name_glob_type_or_predicate(points: Any, expected: list[str]) -> None:
    model = Perceptron()
    found = points_of(model, points=points)
    # fc2 and act2 with nothing trainable in between: the later of the two has nothing to teach.
    assert found == [name for name in expected if not (name == "act2" and "fc2" in expected)]


def test_nested_names_are_dotted() -> None:
    assert points_of(Wrapper(), points="inner.act*") == ["inner.act1", "inner.act2"]
    assert points_of(Wrapper(), points="*act?") == ["inner.act1", "inner.act2"]


def test_points_decide_where_the_graph_is_cut() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x, points="act2", generator=torch.Generator().manual_seed(3))
    feedback = fa.handle_of(model).store.feedback("act2")
    output = model(x)
    error = torch.randn_like(output)
    output.backward(error)
    h1 = torch.tanh(model.fc1(x))
    h2 = torch.tanh(model.fc2(h1))
    expected = torch.autograd.grad(h2, [model.fc1.weight, model.fc2.weight], error @ feedback)
    torch.testing.assert_close([model.fc1.weight.grad, model.fc2.weight.grad], list(expected))


class Functional(Seeded):
    """Functional activations, and a FeedbackPoint placed by hand."""

    def build(self) -> None:
        self.fc1, self.fc2, self.head = nn.Linear(NUM_INPUTS, 7), nn.Linear(7, 6), nn.Linear(6, NUM_CLASSES)
        self.point1, self.point2 = fa.FeedbackPoint(), fa.FeedbackPoint()

    def forward(self, x: Tensor) -> Tensor:
        h = self.point1(torch.tanh(self.fc1(x)))
        return self.head(self.point2(torch.tanh(self.fc2(h))))


def test_a_feedback_point_stands_for_a_functional_activation() -> None:
    functional, modular = Functional(), Perceptron()
    modular.load_state_dict(functional.state_dict())
    assert points_of(functional) == ["point1", "point2"]
    assert points_of(modular) == ["act1", "act2"]
    for model in (functional, modular):
        nn.functional.cross_entropy(model(x), y).backward()
    for one, other in zip(functional.parameters(), modular.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("points", [fa.FeedbackPoint, "point?", ["point1", "point2"], None])
def test_feedback_points_are_chosen_like_other_modules(points: Any) -> None:
    assert points_of(Functional(), points=points) == ["point1", "point2"]


def test_a_feedback_point_is_the_identity_without_a_rule() -> None:
    assert fa.FeedbackPoint()(x) is x
    assert not list(fa.FeedbackPoint().parameters())


@pytest.mark.parametrize(
    "name", ["feedback", "step", "keep", "drawn", "redrawn", "handle", "seed", "counter", "store", "shape", "model"]
)
def test_points_may_have_any_name(name: str) -> None:
    renamed = nn.Sequential()
    for old, module in Perceptron().named_children():
        renamed.add_module(name if old == "act1" else old, module)
    assert points_of(renamed) == [name, "act2"]
    nn.functional.cross_entropy(renamed(x), y).backward()
    assert renamed.fc1.weight.grad.any()


def test_names_that_differ_in_dots_and_underscores_alone_get_feedback_of_their_own() -> None:
    class Alike(Seeded):
        def build(self) -> None:
            self.a = nn.ModuleDict({"b": nn.Tanh()})
            self.a_b = nn.Tanh()
            self.fc1, self.fc2, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a_b(self.fc2(self.a["b"](self.fc1(x)))))

    model = Alike()
    assert points_of(model) == ["a.b", "a_b"]
    held = list(fa.handle_of(model).store.buffers())
    assert len(held) == 2
    assert not torch.equal(*held)


def test_each_call_of_a_shared_activation_is_a_point_of_its_own() -> None:
    assert points_of(SharedActivation()) == ["act", "act#2"]
    assert points_of(Repeats()) == ["act", "act#2"]


def test_two_points_on_one_layer_are_both_its_teachers() -> None:
    model = Gated()
    assert points_of(model) == ["act1", "act2"]
    output = model(x)
    error = torch.randn_like(output)
    output.backward(error)
    store = fa.handle_of(model).store
    a = model.fc1(x)
    signals = [error @ store.feedback("act1"), error @ store.feedback("act2")]
    (expected,) = torch.autograd.grad([torch.tanh(a), torch.sigmoid(a)], [model.fc1.weight], signals)
    torch.testing.assert_close(model.fc1.weight.grad, expected)


def test_a_point_after_dropout_and_normalization_teaches_through_them() -> None:
    model = Regularised()
    assert points_of(model, points=["drop", "act2"]) == ["drop", "act2"]
    nn.functional.cross_entropy(model(x), y).backward()
    assert model.norm.weight.grad.any()
    assert model.fc1.weight.grad.any()


def test_unsupported_points_never_change_what_the_model_computes() -> None:
    for points in ("fc1", nn.Tanh, ["fc2"]):
        model = Perceptron()
        expected = model(x)
        with suppress(FeedalignError):
            fa.attach(model, fa.DFA(), example_inputs=x, points=points)
        assert torch.equal(model(x), expected)
