"""Feedback alignment: equations, exact limit, and every layer at which it acts."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, compare, gradients_after, gradients_after_step
from problems import Problem, SmallConvNet, draw, problems
from reference import convolutional


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.FA(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.FA(), Problem(), num_samples=num_samples)


def test_it_is_backprop_where_the_feedback_is_the_weight() -> None:
    problem = Problem()
    model = problem.model()
    exact = gradients_after_step(model, problem)
    weights = {f"fc{layer}": model.get_submodule(f"fc{layer}").weight for layer in (2, 3)}
    fa.attach(model, fa.FA(), example_inputs=problem.inputs(), feedback=weights)
    assert_agree(gradients_after_step(model, problem), exact)


def test_a_convolutional_network_has_the_gradients_of_the_equations() -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    net = model.by_hand()
    feedback = {
        "conv2": draw(*net.kernels[1].shape, seed=72),
        "fc": draw(*net.out_weight.shape, seed=73),
    }
    fa.attach(model, fa.FA(), example_inputs=x, feedback=feedback)
    for batch in (slice(0, 3), slice(1, 3)):
        found = gradients_after(model, F.cross_entropy(model(x[batch]), labels[batch]))
        passed = convolutional.forward(net, x[batch])
        error = model.error_by_hand(labels[batch], passed.output)
        signals = convolutional.signals_layer_by_layer(net, passed, error, feedback["conv2"], feedback["fc"])
        assert_agree(found, convolutional.gradients(net, passed, error, signals))


class Conv1D(nn.Module):
    """A linear layer with its weight stored `[in, out]`, as Transformers' GPT-2 has it."""

    def __init__(self, num_out: int, num_in: int) -> None:
        super().__init__()
        self.nf, self.nx = num_out, num_in
        self.weight = nn.Parameter(torch.empty(num_in, num_out))
        self.bias = nn.Parameter(torch.zeros(num_out))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.nx) @ self.weight
        return (flat + self.bias).reshape(*x.shape[:-1], self.nf)


Conv1D.__module__ = "transformers.pytorch_utils"

SAME_AND_EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

# A layer and the shape of its input; the layer's output is the model's.
LAYERS: list[Any] = [
    pytest.param(lambda: nn.Linear(4, 3), (5, 4), id="linear"),
    pytest.param(lambda: nn.Linear(4, 3, bias=False), (5, 2, 3, 4), id="linear on tokens"),
    pytest.param(lambda: Conv1D(3, 4), (5, 4), id="transformers' Conv1D"),
    pytest.param(lambda: Conv1D(3, 4), (5, 6, 4), id="transformers' Conv1D on tokens"),
    pytest.param(lambda: nn.Conv1d(4, 6, 3), (2, 4, 7), id="conv1d"),
    pytest.param(lambda: nn.Conv1d(4, 6, 3, groups=2, stride=2, dilation=2, padding=2), (2, 4, 11), id="conv1d all"),
    pytest.param(lambda: nn.Conv1d(4, 4, 2, groups=4, bias=False), (2, 4, 7), id="conv1d depthwise"),
    pytest.param(lambda: nn.Conv1d(4, 6, 4, padding="same"), (2, 4, 7), id="conv1d same even", marks=SAME_AND_EVEN),
    pytest.param(lambda: nn.Conv1d(4, 6, 3, padding="valid"), (2, 4, 7), id="conv1d valid"),
    pytest.param(lambda: nn.Conv2d(4, 6, 3), (2, 4, 6, 5), id="conv2d"),
    pytest.param(lambda: nn.Conv2d(4, 6, 3, stride=2), (2, 4, 8, 7), id="conv2d with a rest that stride skips"),
    pytest.param(lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 3), padding=(2, 0)), (2, 4, 5, 9), id="conv2d uneven"),
    pytest.param(lambda: nn.Conv2d(4, 6, 3, dilation=(1, 2), groups=2), (2, 4, 6, 7), id="conv2d dilated, grouped"),
    pytest.param(lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 6, 7), id="conv2d same odd"),
    pytest.param(
        lambda: nn.Conv2d(4, 6, (2, 3), padding="same"), (2, 4, 6, 7), id="conv2d same even", marks=SAME_AND_EVEN
    ),
    pytest.param(
        lambda: nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="replicate"),
        (2, 4, 6, 7),
        id="conv2d same even replicated",
    ),
    pytest.param(lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 7), id="conv2d circular"),
    pytest.param(
        lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), stride=2, padding_mode="reflect"), (2, 4, 6, 7), id="conv2d reflect"
    ),
    pytest.param(lambda: nn.Conv3d(4, 6, 2, stride=(1, 2, 1), padding=1), (2, 4, 3, 4, 5), id="conv3d"),
    pytest.param(
        lambda: nn.Conv3d(4, 6, (1, 3, 2), groups=2, dilation=(1, 1, 2), padding=(0, 2, 1)),
        (2, 4, 3, 4, 5),
        id="conv3d all",
    ),
    pytest.param(lambda: nn.Conv3d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 3, 4, 5), id="conv3d circular"),
]


class Behind(nn.Module):
    """A parameter and a tanh before the layer under test, so that the layer's input gradient can be seen."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.before = nn.Parameter(draw(*shape, seed=80))
        self.layer = layer.double()
        with torch.no_grad():
            for number, parameter in enumerate(layer.parameters()):
                parameter.copy_(draw(*parameter.shape, seed=81 + number))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(x * self.before))


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_the_input_gradient_is_that_of_a_plain_layer_whose_weight_is_the_feedback(make: Any, shape: Any) -> None:
    """The loss is linear in the output, so the layer's own forward weight cannot enter its input gradient."""
    plain = Behind(make(), shape)
    attached = copy.deepcopy(plain)
    is_stored_transposed = isinstance(plain.layer, Conv1D)
    feedback = draw(*plain.layer.weight.shape, seed=90)
    with torch.no_grad():
        plain.layer.weight.copy_(feedback)
    given = feedback.T if is_stored_transposed else feedback
    x = draw(*shape, seed=91)
    fa.attach(attached, fa.FA(), example_inputs=x, feedback={"layer": given})
    cotangent = draw(*plain(x).shape, seed=92)
    found = gradients_after(attached, (attached(x) * cotangent).sum())
    assert_agree(found, gradients_after(plain, (plain(x) * cotangent).sum()))


def test_an_embedding_is_left_alone_and_learns_from_the_layer_above() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    tokens, labels = torch.tensor([[0, 2, 2], [5, 0, 8]]), torch.tensor([[0, 1, 2], [2, 0, 1]])
    feedback = {"1": draw(6, 4, seed=93), "3": draw(3, 6, seed=94)}
    fa.attach(model, fa.FA(), example_inputs=tokens, feedback=feedback)
    output = model(tokens)
    gradients_after(model, F.cross_entropy(output.flatten(0, 1), labels.flatten()))
    error = (torch.softmax(output.detach(), -1) - F.one_hot(labels, 3)) / 6
    hidden = torch.tanh(model[0].weight[tokens] @ model[1].weight.T + model[1].bias).detach()
    arriving = ((error @ feedback["3"]) * (1 - hidden**2)) @ feedback["1"]
    expected = torch.zeros(9, 4, dtype=torch.float64)
    for token, gradient in zip(tokens.flatten(), arriving.flatten(0, 1), strict=True):
        expected[token] += gradient
    assert_agree({"embedding": model[0].weight.grad}, {"embedding": expected})
    held = [name for name in model.state_dict() if "feedalign" in name]
    assert [name.rpartition(".")[2] for name in held] == ["1", "3"]


def test_dropout_masks_what_is_sent_back() -> None:
    """Layer-wise feedback flows back through whatever lies between two layers; with R = W it is backprop exactly."""
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    x, labels = draw(6, 5, seed=95), torch.arange(6) % 4

    def step() -> dict[str, Tensor | None]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return gradients_after(model, F.cross_entropy(model(x), labels))

    exact = step()
    fa.attach(model, fa.FA(), example_inputs=x, feedback={"3": model[3].weight})
    assert_agree(step(), exact)
