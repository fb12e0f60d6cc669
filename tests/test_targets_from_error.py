"""Targets and scale read back from errors that torch's own losses give, and errors of another form refused."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import feedalign as fa
from agreement import gradients_after
from feedalign.errors import ErrorFormError
from feedalign.rules.targets_from_error import has_form, read_targets, wrong_form
from problems import Problem, draw

Loss = Callable[[Tensor, Tensor], Tensor]


def error_of(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """The error of a loss, through autograd, as a rule receives it."""
    leaf = output.clone().requires_grad_()
    (error,) = torch.autograd.grad(loss(leaf, targets), leaf)
    return error


def softmax_error(output: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    return error_of(lambda o, y: (F.cross_entropy(o, y, reduction="none") * scale).sum(), output, labels)


def sigmoid_error(output: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    def loss(o: Tensor, y: Tensor) -> Tensor:
        return (F.binary_cross_entropy_with_logits(o, y, reduction="none") * scale[:, None]).sum()

    return error_of(loss, output, targets)


# Relative error of the scale: a few roundings of the dtype in which the error came.
PRECISION = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}
any_batch = given(
    num_outputs=st.integers(2, 10),
    size=st.sampled_from([0.01, 1.0, 8.0]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)


def scales(num_samples: int, seed: int, dtype: torch.dtype) -> Tensor:
    """From e^-6 to e^6, one for each sample."""
    return (2 * draw(num_samples, seed=seed).clamp(-3, 3)).exp().to(dtype)


@any_batch
def test_class_and_scale_of_a_cross_entropy_are_read_back(
    num_outputs: int, size: float, seed: int, dtype: torch.dtype
) -> None:
    output = size * draw(6, num_outputs, seed=seed, dtype=dtype)
    labels, scale = torch.arange(6) % num_outputs, scales(6, seed + 1, dtype)
    targets, found = read_targets(softmax_error(output, labels, scale), output, "softmax")
    assert torch.equal(targets, F.one_hot(labels, num_outputs).to(dtype))
    torch.testing.assert_close(found.squeeze(-1), scale, rtol=PRECISION[dtype], atol=0)


@any_batch
def test_classes_and_scale_of_a_binary_cross_entropy_are_read_back(
    num_outputs: int, size: float, seed: int, dtype: torch.dtype
) -> None:
    output = size * draw(6, num_outputs, seed=seed, dtype=dtype)
    labels, scale = (draw(6, num_outputs, seed=seed + 2) > 0).to(dtype), scales(6, seed + 1, dtype)
    targets, found = read_targets(sigmoid_error(output, labels, scale), output, "sigmoid")
    assert torch.equal(targets, labels)
    torch.testing.assert_close(found.squeeze(-1), scale, rtol=PRECISION[dtype], atol=0)


def test_one_output_is_one_class_that_is_there_or_not() -> None:
    output, labels = draw(6, 1, seed=1), torch.tensor([[0.0], [1], [1], [0], [1], [0]], dtype=torch.float64)
    scale = scales(6, 2, torch.float64)
    targets, found = read_targets(sigmoid_error(output, labels, scale), output, "sigmoid")
    assert torch.equal(targets, labels)
    torch.testing.assert_close(found.squeeze(-1), scale)


def test_positions_have_a_target_and_a_scale_each() -> None:
    output, labels = draw(2, 3, 5, seed=1), torch.tensor([[0, 1, 2], [3, 4, 0]])
    scale = scales(6, 2, torch.float64)
    error = softmax_error(output.flatten(0, 1), labels.flatten(), scale).reshape(2, 3, 5)
    targets, found = read_targets(error, output, "softmax")
    assert torch.equal(targets, F.one_hot(labels, 5).double())
    torch.testing.assert_close(found, scale.reshape(2, 3, 1))


@pytest.mark.parametrize(("link", "make"), [("softmax", softmax_error), ("sigmoid", sigmoid_error)])
def test_errors_rounded_to_bfloat16_have_the_same_targets_and_nearly_the_scale(
    link: str, make: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    output = draw(200, 5, seed=1, dtype=torch.bfloat16)
    scale = torch.full((200,), 1 / 200)
    labels = torch.arange(200) % 5
    given_targets = labels if link == "softmax" else F.one_hot(labels, 5).float()
    error = make(output.float(), given_targets, scale).bfloat16()
    targets, found = read_targets(error, output, link)
    assert targets.dtype == found.dtype == torch.bfloat16
    assert torch.equal(targets.argmax(-1), labels)
    torch.testing.assert_close(found.squeeze(-1).float(), scale, rtol=PRECISION[torch.bfloat16], atol=0)
    assert has_form(error, output, link)


@pytest.mark.parametrize("gap", [20.0, 60.0, 200.0])
def test_a_confident_prediction_that_is_wrong_is_read_exactly(gap: float) -> None:
    output = torch.tensor([[gap, 0.0, -1.0], [0.0, 0.0, gap]])
    labels, scale = torch.tensor([1, 0]), torch.tensor([0.25, 3.0])
    targets, found = read_targets(softmax_error(output, labels, scale), output, "softmax")
    assert torch.equal(targets, F.one_hot(labels, 3).float())
    torch.testing.assert_close(found.squeeze(-1), scale)
    ones = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    targets, found = read_targets(sigmoid_error(output, ones, scale), output, "sigmoid")
    assert torch.equal(targets, ones)
    torch.testing.assert_close(found.squeeze(-1), scale)


@pytest.mark.parametrize("gap", [20.0, 60.0])
def test_a_confident_prediction_that_is_right_is_read_from_what_is_left_of_its_error(gap: float) -> None:
    """In float32 the error of the target itself has long rounded to zero."""
    output = torch.tensor([[gap, 0.0, -1.0], [0.0, 0.0, gap], [-300.0, gap, 0.0]])
    labels, scale = torch.tensor([0, 2, 1]), torch.tensor([0.25, 3.0, 1.0])
    targets, found = read_targets(softmax_error(output, labels, scale), output, "softmax")
    assert torch.equal(targets, F.one_hot(labels, 3).float())
    torch.testing.assert_close(found.squeeze(-1), scale, rtol=1e-4, atol=0)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_sample_whose_error_is_zero_has_no_scale(link: str) -> None:
    output = torch.tensor([[300.0, 0.0, -1.0], [0.0, 1.0, 2.0]])
    targets, scale = read_targets(torch.zeros(2, 3), output, link)
    assert torch.equal(scale, torch.zeros(2, 1))
    assert targets.isfinite().all()


def labels_for(output: Tensor) -> Tensor:
    return torch.arange(len(output)) % output.shape[1]


def ones_for(output: Tensor) -> Tensor:
    return F.one_hot(labels_for(output), output.shape[1]).to(output.dtype)


OF_THE_FORM: list[tuple[str, str, Loss]] = [
    ("softmax", "a mean", lambda o, y: F.cross_entropy(o, y)),
    ("softmax", "a sum", lambda o, y: F.cross_entropy(o, y, reduction="sum")),
    ("softmax", "weights of classes", lambda o, y: F.cross_entropy(o, y, weight=torch.arange(1.0, 5.0).to(o))),
    ("softmax", "samples left out", lambda o, y: F.cross_entropy(o, torch.where(y > 1, y, -100))),
    ("softmax", "the likelihood", lambda o, y: F.nll_loss(o.log_softmax(-1), y)),
    ("sigmoid", "a mean", lambda o, y: F.binary_cross_entropy_with_logits(o, ones_for(o))),
    ("sigmoid", "the probability", lambda o, y: F.binary_cross_entropy(o.sigmoid(), ones_for(o))),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gap", [0.0, 6.0, 10.0, 14.0, 18.0, 25.0, 40.0, 60.0])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_errors_of_predictions_that_are_all_confident_and_right_pass(dtype: torch.dtype, gap: float, link: str) -> None:
    """What is left of such an error is mostly the rounding of predictions next to 0 and 1, and subnormal numbers."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    noise = draw(32, 10, seed=5)
    right = ones_for(noise) if link == "softmax" else 2 * ones_for(noise) - 1
    output = (noise + gap * right).to(dtype)
    mean = torch.full((32,), 1 / 32, dtype=wide)
    make, targets = (softmax_error, labels_for(output)) if link == "softmax" else (sigmoid_error, ones_for(output))
    error = make(output.to(wide), targets.to(wide) if link == "sigmoid" else targets, mean).to(dtype)
    assert has_form(error, output, link)


OF_ANOTHER_FORM: list[tuple[str, str, Loss]] = [
    ("softmax", "another link", lambda o, y: F.binary_cross_entropy_with_logits(o, ones_for(o))),
    ("softmax", "squared error", lambda o, y: F.mse_loss(o, ones_for(o))),
    ("softmax", "smoothed labels", lambda o, y: F.cross_entropy(o, y, label_smoothing=0.2)),
    ("softmax", "soft targets", lambda o, y: F.cross_entropy(o, draw(*o.shape, seed=1).softmax(-1))),
    ("softmax", "a reward", lambda o, y: -F.cross_entropy(o, y)),
    ("softmax", "a margin", lambda o, y: F.multi_margin_loss(o, y)),
    ("sigmoid", "another link", lambda o, y: F.cross_entropy(o, y)),
    ("sigmoid", "soft targets", lambda o, y: F.binary_cross_entropy_with_logits(o, 0.8 * ones_for(o))),
    (
        "sigmoid",
        "weights of the positive",
        lambda o, y: F.binary_cross_entropy_with_logits(o, ones_for(o), pos_weight=torch.full((4,), 3.0).to(o)),
    ),
]


@pytest.mark.parametrize(
    ("link", "what", "loss"), OF_THE_FORM, ids=[f"{link}, {what}" for link, what, _ in OF_THE_FORM]
)
def test_errors_of_the_form_pass(link: str, what: str, loss: Loss) -> None:
    output = 2 * draw(8, 4, seed=5)
    assert has_form(error_of(loss, output, labels_for(output)), output, link)


@pytest.mark.parametrize(
    ("link", "what", "loss"), OF_ANOTHER_FORM, ids=[f"{link}, {what}" for link, what, _ in OF_ANOTHER_FORM]
)
def test_errors_of_another_form_are_refused_by_name(link: str, what: str, loss: Loss) -> None:
    output = 2 * draw(8, 4, seed=5)
    assert not has_form(error_of(loss, output, labels_for(output)), output, link)
    sentence = wrong_form(link, "DRTP")
    assert f"which for a {link} output" in sentence
    assert f"link={'sigmoid' if link == 'softmax' else 'softmax'!r}" in sentence


@pytest.mark.parametrize("rule", [fa.DRTP, fa.SignDFA])
def test_a_loss_that_looks_right_at_the_start_is_refused_in_training(rule: type[fa.Rule]) -> None:
    """With predictions that are all alike, smoothed labels give the very error of hard ones with a smaller scale."""
    problem = Problem()
    model = problem.model()
    fa.attach(model, rule(), example_inputs=problem.inputs())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.no_grad():
        model.fc3.weight.zero_()
        model.fc3.bias.zero_()

    def train() -> None:
        for _ in range(100):
            loss = F.cross_entropy(model(problem.inputs()), problem.targets(), label_smoothing=0.2)
            gradients_after(model, loss)
            optimizer.step()

    with pytest.raises(ErrorFormError, match="label smoothing"):
        train()


@pytest.mark.parametrize("rule", [fa.DRTP, fa.SignDFA])
def test_training_with_the_right_loss_is_never_refused(rule: type[fa.Rule]) -> None:
    """Down to errors far below float32's resolution of one."""
    problem = Problem(dtype=torch.float32)
    model = problem.model()
    fa.attach(model, rule(), example_inputs=problem.inputs())
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
    for _ in range(300):
        gradients_after(model, problem.loss_of(model(problem.inputs())))
        optimizer.step()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("rule", [fa.DRTP, fa.SignDFA])
def test_the_users_word_on_the_link_comes_before_the_models(rule: type[fa.DRTP]) -> None:
    assert rule().for_output(None).link == "softmax"
    assert rule().for_output("sigmoid").link == "sigmoid"
    assert rule(link="softmax").for_output("sigmoid").link == "softmax"
