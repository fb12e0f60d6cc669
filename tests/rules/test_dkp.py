"""Direct Kolen-Pollack: equations, the decay of B - W, and every way an error meets an activation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, case_of_rows, compare, expected_gradients, gradients_after, gradients_after_step
from feedalign.errors import AttachError
from problems import MeanOverTokens, Problem, SmallConvNet, by_pixel, draw, pixelwise, problems
from reference import convolutional


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(fa.DKP(), problem)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(num_samples: int) -> None:
    compare(fa.DKP(), Problem(), num_samples=num_samples)


@pytest.mark.parametrize("problem", problems(), ids=str)
def test_feedback_of_the_last_hidden_layer_has_the_gradient_of_the_output_weight(problem: Problem) -> None:
    model = problem.model()
    fa.attach(model, fa.DKP(), example_inputs=problem.inputs(), feedback=problem.direct_feedback())
    found = gradients_after_step(model, problem)
    assert_agree({"": found["fc3.feedalign.act2"]}, {"": found["fc3.weight"]}, tolerance=1e-6)
    if problem.dtype == torch.float64:
        assert_agree({"": found["fc3.feedalign.act2"]}, {"": found["fc3.weight"]})


def test_feedback_and_output_weight_approach_each_other_as_decay_says() -> None:
    """Kolen and Pollack: what is added to both leaves their difference to the decay, `(1 - lr * decay)^t`."""
    problem, rate, decay = Problem(), 0.1, 0.3
    model = problem.model()
    handle = fa.attach(model, fa.DKP(), example_inputs=problem.inputs())
    groups = handle.parameter_groups(lr=rate, feedback_lr=rate, weight_decay=decay, feedback_decay=decay)
    optimizer = torch.optim.SGD(groups)

    def apart() -> torch.Tensor:
        return (handle.store.feedback("act2") - model.fc3.weight).detach()

    start, first = apart(), model.fc3.weight.detach().clone()
    for step in range(1, 21):
        gradients_after_step(model, problem)
        optimizer.step()
        assert_agree({"": apart()}, {"": (1 - rate * decay) ** step * start})
    assert (model.fc3.weight - first).norm() > 0.1 * first.norm()


def test_feedback_starts_at_zero_and_leaves_hidden_layers_alone_at_first() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.DKP(), example_inputs=problem.inputs())
    found = gradients_after_step(model, problem)
    assert not any(p.any() for p in handle.store.parameters())
    assert not any(found[f"fc{layer}.{kind}"].any() for layer in (1, 2) for kind in ("weight", "bias"))


def test_feedback_may_start_as_webster_et_al_have_it() -> None:
    problem = Problem()
    drawn = fa.attach(problem.model(), fa.DKP(), example_inputs=problem.inputs(), feedback=fa.KaimingUniform())
    as_dfa = fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs())
    for name, matrix in drawn.store.named_parameters():
        assert torch.equal(matrix, as_dfa.store.feedback(name))


@pytest.mark.parametrize("positions", ["auto", "shared"])
def test_one_matrix_serves_every_token(positions: str) -> None:
    problem, rule = Problem(), fa.DKP(positions=positions)
    model, feedback = problem.model(), problem.direct_feedback()
    x, labels = draw(3, 4, 5, seed=6), torch.arange(12).reshape(3, 4) % 4
    fa.attach(model, rule, example_inputs=x, feedback=feedback)
    found = gradients_after(model, F.cross_entropy(model(x).flatten(0, 1), labels.flatten()))
    assert_agree(found, expected_gradients(rule, case_of_rows(rule, model, x, labels, feedback, {})))


def sequence(positions: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient of the feedback of a network with one output for six tokens, the error by hand, and activations."""
    model, x, labels = MeanOverTokens(), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    fa.attach(model, fa.DKP(positions=positions), example_inputs=x)
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    hidden = torch.tanh(x @ model.fc1.weight.T + model.fc1.bias).detach()
    error = (model(x).softmax(-1) - F.one_hot(labels, 4)).detach() / 3
    return model, found["feedalign.act1"], error, hidden


def test_where_the_error_is_repeated_over_tokens_their_terms_add_up() -> None:
    _, found, error, hidden = sequence("auto")
    assert_agree({"": found}, {"": torch.einsum("nc,ntd->cd", error, hidden)})


def test_positions_count_as_features_where_the_rule_says_so() -> None:
    _, found, error, hidden = sequence("full")
    assert_agree({"": found}, {"": error.T @ hidden.flatten(1)})


@pytest.mark.parametrize("positions", ["full", "shared"])
def test_feedback_of_a_convolution_is_learned_before_the_pooling(positions: str) -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    sizes = {"full": (3 * 64, 4 * 4), "shared": (3, 4)}[positions]
    feedback = {f"act{layer}": draw(5, size, seed=60 + layer) for layer, size in enumerate(sizes, start=1)}
    handle = fa.attach(model, fa.DKP(positions=positions), example_inputs=x, feedback=feedback)
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    net = model.by_hand()
    passed = convolutional.forward(net, x)
    error = model.error_by_hand(labels, passed.output)
    spread = [
        feedback[name] if positions == "full" else feedback[name].repeat_interleave(h[0, 0].numel(), 1)
        for name, h in zip(feedback, passed.activations, strict=True)
    ]
    expected = convolutional.gradients(net, passed, error, convolutional.direct_signals(passed, error, spread))
    for name, h in zip(feedback, passed.activations, strict=True):
        rows = h.flatten(1) if positions == "full" else h.sum((-1, -2))
        expected[f"feedalign.{name}"] = error.T @ rows
    assert_agree(found, expected)
    assert {name for name, _ in handle.store.named_parameters()} == feedback.keys()


def test_an_error_at_every_pixel_meets_the_activation_of_its_pixel() -> None:
    problem, rule = Problem(widths=(5, 7, 4)), fa.DKP(positions="shared")
    model, feedback, x = pixelwise(problem), {"1": draw(4, 7, seed=8)}, draw(2, 5, 3, 2, seed=9)
    labels = torch.arange(12).reshape(2, 3, 2) % 4
    fa.attach(model, rule, example_inputs=x, feedback=feedback)
    found = gradients_after(model, F.cross_entropy(model(x), labels))
    case = case_of_rows(rule, problem.model(), x.movedim(1, -1), labels, feedback, {})
    assert_agree(by_pixel(found), expected_gradients(rule, case))


def test_no_projection_stands_for_a_matrix_that_is_learned() -> None:
    problem = Problem()
    device = fa.Projection(lambda error, point: error)
    with pytest.raises(AttachError, match=r"fa\.DKP learns matrices of its own"):
        fa.attach(problem.model(), fa.DKP(), example_inputs=problem.inputs(), feedback=device)


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(AttachError, match="positions='somewhere'"):
        fa.DKP(positions="somewhere")
