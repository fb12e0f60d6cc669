"""`output=`: where the error is taken."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron, ReturnsDict, ReturnsTuple, Seeded, SharedLinear, batch
from attach.refusal import assert_refused
from feedalign import errors

x, y = batch()


def test_a_dict_is_no_output() -> None:
    words = ("dict", "not a tensor", "output=")
    assert_refused(ReturnsDict(), errors.OutputError, *words, example_inputs={"inputs": x, "labels": y})


def test_a_tuple_is_no_output() -> None:
    assert_refused(ReturnsTuple(), errors.OutputError, "tuple", "output=", example_inputs=x)


def test_a_loss_is_no_output() -> None:
    class ReturnsLoss(Perceptron):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(super().forward(x), y)

    assert_refused(ReturnsLoss(), errors.OutputError, "single number", "loss", "output=", example_inputs=(x, y))


def test_unknown_names_list_near_ones() -> None:
    words = ("'haed'", "no module", "Near names", "head")
    assert_refused(ReturnsDict(), errors.OutputError, *words, example_inputs={"inputs": x}, output="haed")


def test_the_output_fires_exactly_once() -> None:
    words = ("'fc2'", "2 times", "exactly once")
    assert_refused(SharedLinear(), errors.OutputError, *words, example_inputs=x, output="fc2")


def test_an_output_module_that_does_not_fire_is_refused() -> None:
    model = Perceptron()
    model.spare = nn.Linear(2, 2)
    assert_refused(model, errors.OutputError, "'spare'", "0 times", example_inputs=x, output="spare")


def test_an_output_module_returns_a_tensor() -> None:
    class Recurrent(Seeded):
        def build(self) -> None:
            self.fc, self.act, self.rnn = nn.Linear(5, 4), nn.Tanh(), nn.GRU(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(self.act(self.fc(x)))[0]

    assert_refused(Recurrent(), errors.OutputError, "'rnn'", "tuple", example_inputs=x, output="rnn")


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DRTP(), fa.SignDFA(), fa.FA(), fa.Shallow()])
def test_a_model_that_returns_its_loss_learns_as_one_that_returns_logits(rule: fa.Rule) -> None:
    plain, wrapped = Perceptron(), ReturnsDict()
    fa.attach(plain, rule, example_inputs=x)
    fa.attach(wrapped, rule, example_inputs={"inputs": x, "labels": y}, output="head")
    F.cross_entropy(plain(x), y).backward()
    wrapped(inputs=x, labels=y)["loss"].backward()
    assert_equal_grads(plain, wrapped)


def test_a_model_that_returns_features_beside_its_logits_learns_alike() -> None:
    plain, wrapped = Perceptron(), ReturnsTuple()
    fa.attach(plain, fa.DFA(), example_inputs=x)
    fa.attach(wrapped, fa.DFA(), example_inputs=x, output="head")
    F.cross_entropy(plain(x), y).backward()
    F.cross_entropy(wrapped(x)[0], y).backward()
    assert_equal_grads(plain, wrapped)


@pytest.mark.parametrize(("last", "loss"), [
    (nn.Sigmoid, lambda p: F.binary_cross_entropy(p, F.one_hot(y, 3).float())),
    (nn.Tanh, lambda p: F.mse_loss(p, F.one_hot(y, 3).float())),
    (lambda: nn.LogSoftmax(1), lambda p: F.nll_loss(p, y)),
    (lambda: nn.Softmax(1), lambda p: F.nll_loss(p.log(), y)),
])  # fmt: skip
def test_the_error_is_taken_before_a_last_non_linearity(last: type[nn.Module], loss: object) -> None:
    model = nn.Sequential(Perceptron(), last())
    handle = fa.attach(model, fa.DFA(), example_inputs=x, generator=torch.Generator().manual_seed(1))
    assert handle.describe().output == "the input of '1'"
    loss(model(x)).backward()
    plain = Perceptron()
    logits = plain(x).detach().requires_grad_()
    (error,) = torch.autograd.grad(loss(last()(logits)), logits)
    (feedback,) = (value for name, value in handle.store.named_buffers() if name.endswith("act1"))
    (expected,) = torch.autograd.grad(torch.tanh(plain.fc1(x)), plain.fc1.weight, error @ feedback)
    torch.testing.assert_close(model[0].fc1.weight.grad, expected)


def test_an_output_that_names_the_whole_path_of_a_nested_module() -> None:
    model = nn.Sequential(Perceptron(), nn.Flatten())
    assert fa.attach(model, fa.DFA(), example_inputs=x, output="0.head").describe().output == "the output of '0.head'"
    F.cross_entropy(model(x), y).backward()
    assert model[0].fc1.weight.grad.any()


class SecondHead(Perceptron):
    """Another result is made after the output."""

    def build(self) -> None:
        super().build()
        self.other1, self.other2 = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.act2(self.fc2(self.act1(self.fc1(x))))
        return self.head(features), self.other2(self.other1(features))


@pytest.mark.parametrize("rule", [fa.FA(), fa.BRSF(), fa.DFA(), fa.Shallow()])
def test_layers_behind_the_output_may_run_after_it(rule: fa.Rule) -> None:
    plain, model = Perceptron(), SecondHead()
    fa.attach(plain, rule, example_inputs=x)
    handle = fa.attach(model, rule, example_inputs=x, output="head")
    F.cross_entropy(plain(x), y).backward()
    F.cross_entropy(model(x)[0], y).backward()
    assert all(row.fired is not False for row in handle.describe().rows)
    if not isinstance(rule, (fa.FA, fa.BRSF)):  # these draw other weights for other layers
        for name, parameter in plain.named_parameters():
            grad = model.get_parameter(name).grad
            assert (parameter.grad is None) == (grad is None)
            assert grad is None or torch.equal(grad, parameter.grad)


def assert_equal_grads(one: nn.Module, other: nn.Module) -> None:
    for (name, first), (_, second) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None), name
        assert first.grad is None or torch.equal(first.grad, second.grad), name
