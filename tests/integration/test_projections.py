"""`fa.Projection`: `error @ feedback` made elsewhere teaches as the same matrices here would."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Convolutional, Perceptron, batch, images
from attach.sequence_models import SentenceClassifier, Tokens, tokens
from integration.gradients import assert_same_gradients, attached, gradients, step

x, y = batch()
names = {"ids": lambda rule: rule.name}
RULES = [fa.DFA(), fa.SignDFA(), fa.DRTP()]
DATA = {
    Perceptron: (x, y),
    Convolutional: images(),
    Tokens: tokens(),
    SentenceClassifier: (tokens()[0], tokens()[1][:, 0]),
}


class Device:
    """Stands for the hardware: holds the matrices, takes no gradients, and counts."""

    def __init__(self, make: type[nn.Module], inputs: Tensor) -> None:
        model = attached(make, fa.DFA(), inputs)
        store = fa.handle_of(model).store
        self.matrices = {name: store.feedback(name).clone() for name, _ in store.named_buffers()}
        self.num_calls = 0

    def __call__(self, rows: Tensor, point: str) -> Tensor:
        assert not rows.requires_grad
        self.num_calls += 1
        return rows @ self.matrices[point]


@pytest.mark.parametrize("rule", RULES, **names)
@pytest.mark.parametrize("make", DATA)
def test_a_device_teaches_as_its_matrices_would(rule: fa.Rule, make: type[nn.Module]) -> None:
    inputs, targets = DATA[make]
    device = Device(make, inputs)
    projected = attached(make, rule, inputs, feedback=fa.Projection(device))
    plain = attached(make, rule, inputs, feedback=device.matrices)
    for model in (projected, plain):
        step(model, inputs, targets)
    assert_same_gradients(gradients(projected), gradients(plain))
    assert device.num_calls == len(device.matrices)
    assert not list(fa.handle_of(projected).store.buffers())


@pytest.mark.parametrize("make", DATA)
def test_a_device_teaches_while_streaming(make: type[nn.Module]) -> None:
    inputs, targets = DATA[make]
    device = Device(make, inputs)
    streamed = attached(make, fa.DRTP(), inputs, feedback=fa.Projection(device))
    plain = attached(make, fa.DRTP(), inputs, feedback=device.matrices)
    fa.handle_of(streamed).targets(targets)
    for model in (streamed, plain):
        step(model, inputs, targets)
    assert_same_gradients(gradients(streamed), gradients(plain))


def test_a_device_that_fails_stops_the_backward_with_its_own_error() -> None:
    def broken(rows: Tensor, point: str) -> Tensor:
        raise ConnectionError(f"no light at {point}")

    model = attached(Perceptron, fa.DFA(), x, feedback=fa.Projection(broken))
    loss = F.cross_entropy(model(x), y)
    with pytest.raises(ConnectionError, match="no light at act"):
        loss.backward()


def test_a_device_may_answer_in_another_precision() -> None:
    device = Device(Perceptron, x)
    coarse = attached(Perceptron, fa.DFA(), x, feedback=fa.Projection(lambda r, p: device(r, p).bfloat16()))
    plain = attached(Perceptron, fa.DFA(), x, feedback=device.matrices)
    for model in (coarse, plain):
        step(model, x, y)
    assert coarse.fc1.weight.grad.dtype == torch.float32
    torch.testing.assert_close(coarse.fc1.weight.grad, plain.fc1.weight.grad, rtol=0.02, atol=0.002)
