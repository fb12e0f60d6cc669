"""Direct feedback alignment: equations, exact limits, and every way an error meets an activation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, compare, gradients_after, gradients_after_step
from feedalign.errors import AmbiguousShapeError
from problems import MeanOverTokens, Problem, SmallConvNet, by_hand, draw, pixelwise, problems
from reference import convolutional, dfa, perceptron
from reference.losses import error_at_output, one_hot


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.DFA(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.DFA(), Problem(), num_samples=num_samples)


def test_it_is_backprop_where_the_feedback_is_the_derivative_of_a_linear_network() -> None:
    problem = Problem(nonlinearity="identity", widths=(5, 7, 6, 8, 4))
    model = problem.model()
    exact = gradients_after_step(model, problem)
    derivative, feedback = torch.eye(4, dtype=torch.float64), {}
    for layer in (4, 3, 2):
        derivative = derivative @ model.get_submodule(f"fc{layer}").weight.detach()
        feedback[f"act{layer - 1}"] = derivative
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs(), feedback=feedback)
    assert_agree(gradients_after_step(model, problem), exact)


def test_it_is_feedback_alignment_with_one_hidden_layer() -> None:
    problem = Problem(widths=(5, 7, 4))
    direct, layerwise = problem.model(), problem.model()
    weights = problem.layerwise_feedback()
    fa.attach(layerwise, fa.FA(), example_inputs=problem.inputs(), feedback=weights)
    fa.attach(direct, fa.DFA(), example_inputs=problem.inputs(), feedback={"act1": weights["fc2"]})
    assert_agree(gradients_after_step(direct, problem), gradients_after_step(layerwise, problem))


def test_an_output_without_an_axis_is_one_number_per_sample() -> None:
    class Regressor(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).squeeze(-1)

    problem = Problem("squared_error", widths=(5, 7, 6, 1))
    flat = Regressor(problem.model())
    feedback = problem.direct_feedback()
    fa.attach(flat, fa.DFA(), example_inputs=problem.inputs(), feedback={f"body.{k}": v for k, v in feedback.items()})
    model = problem.model()
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs(), feedback=feedback)
    loss = F.mse_loss(flat(problem.inputs()), problem.targets().squeeze(-1))
    found = {name.removeprefix("body."): g for name, g in gradients_after(flat, loss).items()}
    assert_agree(found, gradients_after_step(model, problem))


def rows_by_hand(model: nn.Module, x: Tensor, labels: Tensor, feedback: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Every position of every sample as a sample of its own, under the mean cross-entropy over all of them."""
    net, rows = by_hand(model, "tanh"), x.reshape(-1, x.shape[-1])
    passed = perceptron.forward(net, rows)
    targets = one_hot(labels.flatten(), passed.output.shape[1])
    scale = torch.full((len(rows), 1), 1 / len(rows), dtype=torch.float64)
    error = error_at_output("cross_entropy", passed.output, targets, scale)
    case = perceptron.Case(net, passed, error, targets, scale, list(feedback.values()))
    return perceptron.gradients(case, dfa.signals(case))


@pytest.mark.parametrize("positions", ["auto", "shared"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_one_matrix_serves_every_token(positions: str, shape: tuple[int, ...]) -> None:
    problem = Problem()
    model, feedback = problem.model(), problem.direct_feedback()
    x = draw(*shape, 5, seed=6)
    labels = torch.arange(x[..., 0].numel()).reshape(shape) % 4
    fa.attach(model, fa.DFA(positions=positions), example_inputs=x, feedback=feedback)
    loss = F.cross_entropy(model(x).reshape(-1, 4), labels.flatten())
    assert_agree(gradients_after(model, loss), rows_by_hand(model, x, labels, feedback))


def test_tokens_may_be_fewer_or_more_than_on_the_example_inputs() -> None:
    problem = Problem()
    model, feedback = problem.model(), problem.direct_feedback()
    fa.attach(model, fa.DFA(), example_inputs=draw(3, 4, 5, seed=6), feedback=feedback)
    for shape in ((2, 7), (3, 1)):
        x, labels = draw(*shape, 5, seed=7), torch.arange(shape[0] * shape[1]).reshape(shape) % 4
        loss = F.cross_entropy(model(x).transpose(1, 2), labels)
        assert_agree(gradients_after(model, loss), rows_by_hand(model, x, labels, feedback))


def test_the_error_of_a_sequence_is_repeated_over_its_tokens() -> None:
    model, x, labels = MeanOverTokens(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    feedback = draw(4, 7, seed=8)
    fa.attach(model, fa.DFA(), example_inputs=x, feedback={"act1": feedback})
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = by_hand(model, "tanh")
    hidden = torch.tanh(x @ net.weights[0].T + net.biases[0])
    output = hidden.mean(1) @ net.weights[1].T + net.biases[1]
    error = error_at_output("cross_entropy", output, one_hot(labels, 4), 1 / 3)
    signal = (error @ feedback)[:, None, :].expand(3, 6, 7)
    delta = signal * (1 - hidden**2)
    expected = {
        "fc1.weight": torch.einsum("ntd,nti->di", delta, x),
        "fc1.bias": delta.sum((0, 1)),
        "fc2.weight": error.T @ hidden.mean(1),
        "fc2.bias": error.sum(0),
    }
    assert_agree(found, expected)


def test_positions_count_as_features_where_the_rule_says_so() -> None:
    model, x, labels = MeanOverTokens(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    feedback = draw(4, 6 * 7, seed=8)
    fa.attach(model, fa.DFA(positions="full"), example_inputs=x, feedback={"act1": feedback})
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = by_hand(model, "tanh")
    hidden = torch.tanh(x @ net.weights[0].T + net.biases[0])
    output = hidden.mean(1) @ net.weights[1].T + net.biases[1]
    error = error_at_output("cross_entropy", output, one_hot(labels, 4), 1 / 3)
    delta = (error @ feedback).reshape(3, 6, 7) * (1 - hidden**2)
    assert_agree({"w": found["fc1.weight"]}, {"w": torch.einsum("ntd,nti->di", delta, x)})


@pytest.mark.parametrize("positions", ["auto", "full"])
def test_feedback_of_a_convolution_is_full_and_arrives_before_the_pooling(positions: str) -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    feedback = [draw(5, 3 * 8 * 8, seed=61), draw(5, 4 * 2 * 2, seed=62)]
    named = {"act1": feedback[0], "act2": feedback[1].reshape(5, 4, 2, 2)}
    fa.attach(model, fa.DFA(positions=positions), example_inputs=x, feedback=named)
    net = model.by_hand()
    for batch in (slice(0, 3), slice(0, 2), slice(2, 3)):
        found = gradients_after(model, F.cross_entropy(model(x[batch]), labels[batch]))
        passed = convolutional.forward(net, x[batch])
        error = model.error_by_hand(labels[batch], passed.output)
        signals = convolutional.direct_signals(passed, error, feedback)
        assert_agree(found, convolutional.gradients(net, passed, error, signals))


def test_one_matrix_serves_every_pixel_where_the_rule_says_so() -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    feedback = [draw(5, 3, seed=61), draw(5, 4, seed=62)]
    named = {"act1": feedback[0], "act2": feedback[1]}
    fa.attach(model, fa.DFA(positions="shared"), example_inputs=x, feedback=named)
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = model.by_hand()
    passed = convolutional.forward(net, x)
    error = model.error_by_hand(labels, passed.output)
    signals = [
        (error @ matrix)[:, :, None, None].expand(h.shape)
        for matrix, h in zip(feedback, passed.activations, strict=True)
    ]
    assert_agree(found, convolutional.gradients(net, passed, error, signals))


def test_an_error_at_every_pixel_meets_the_activation_of_its_pixel() -> None:
    problem = Problem(widths=(5, 7, 4))
    model = pixelwise(problem)
    feedback, x = draw(4, 7, seed=8), draw(2, 5, 3, 2, seed=9)
    labels = torch.arange(12).reshape(2, 3, 2) % 4
    fa.attach(model, fa.DFA(positions="shared"), example_inputs=x, feedback={"1": feedback})
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    by_pixel = rows_by_hand(problem.model(), x.movedim(1, -1), labels, {"act1": feedback})
    shaped = zip(model.parameters(), by_pixel.items(), strict=True)
    expected = {name: gradient.reshape(p.shape) for p, (name, gradient) in shaped}
    assert_agree(dict(zip(expected, found.values(), strict=True)), expected)


def test_an_error_at_every_pixel_is_refused_until_the_rule_says_how_it_is_meant() -> None:
    with pytest.raises(AmbiguousShapeError, match="positions"):
        fa.attach(pixelwise(Problem(widths=(5, 7, 4))), fa.DFA(), example_inputs=draw(2, 5, 3, 2, seed=9))
