"""Direct random target projection, from the error alone and streaming."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, compare, gradients, gradients_after, gradients_after_step, rule_for
from feedalign.errors import ErrorFormError, TargetsError
from problems import CLASSIFICATION, Problem, SmallConvNet, draw, pixelwise, problems
from reference import convolutional
from reference.losses import one_hot


class MeanOver(nn.Module):
    """Mean over one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axis)


both_modes = pytest.mark.parametrize("streaming", [False, True], ids=["from the error", "streaming"])


@both_modes
@pytest.mark.parametrize("problem", problems(CLASSIFICATION), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem, streaming: bool) -> None:
    compare(rule_for(fa.DRTP, problem), problem, streaming=streaming)


@both_modes
@pytest.mark.parametrize("loss", CLASSIFICATION)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(loss: str, num_samples: int, streaming: bool) -> None:
    problem = Problem(loss)
    compare(rule_for(fa.DRTP, problem), problem, num_samples=num_samples, streaming=streaming)


def streamed(problem: Problem, targets: Tensor, scale: float | Tensor | None = None) -> dict[str, Tensor | None]:
    """Gradients of the hidden layers after a streaming step; the output's are exact in any case."""
    model = problem.model()
    feedback = problem.direct_feedback()
    handle = fa.attach(model, rule_for(fa.DRTP, problem), example_inputs=problem.inputs(), feedback=feedback)
    handle.targets(targets, scale=scale)
    gradients_after_step(model, problem, keep=True)
    return {name: g for name, g in gradients(model).items() if not name.startswith("fc3")}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float64, torch.float32, torch.bool])
def test_targets_may_be_class_indices_or_zeros_and_ones(dtype: torch.dtype) -> None:
    problem = Problem()
    is_index = not (dtype.is_floating_point or dtype == torch.bool)
    targets = problem.targets() if is_index else problem.target_rows()
    assert_agree(streamed(problem, targets.to(dtype)), streamed(problem, problem.targets()))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_the_scale_of_a_mean_cross_entropy_needs_no_word(dtype: torch.dtype) -> None:
    problem = Problem()
    targets = (problem.targets() if dtype == torch.int64 else problem.target_rows()).to(dtype)
    assert_agree(streamed(problem, targets), streamed(problem, problem.targets(), scale=1 / 5))


def test_the_scale_may_be_a_tensor_with_one_number() -> None:
    problem = Problem()
    as_tensor = streamed(problem, problem.targets(), torch.tensor(0.25))
    assert_agree(as_tensor, streamed(problem, problem.targets(), 0.25))


def test_targets_of_several_classes_at_once_stream_with_the_scale_of_the_mean_over_classes() -> None:
    problem = Problem("binary_cross_entropy")
    model, feedback = problem.model(), problem.direct_feedback()
    fa.attach(model, rule_for(fa.DRTP, problem), example_inputs=problem.inputs(), feedback=feedback)
    from_error = gradients_after_step(model, problem)
    found = streamed(problem, problem.targets(), scale=1 / (5 * 4))
    assert_agree(found, {name: g for name, g in from_error.items() if not name.startswith("fc3")})


def test_streaming_accumulates_over_steps_like_any_backward() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.DRTP(), example_inputs=problem.inputs())
    handle.targets(problem.targets())
    once = gradients_after_step(model, problem, keep=True)
    handle.targets(problem.targets())
    twice = gradients_after_step(model, problem, keep=True)
    assert_agree(twice, {name: 2 * g for name, g in once.items()})


@both_modes
def test_every_token_is_a_sample_with_a_target_of_its_own(streaming: bool) -> None:
    problem = Problem()
    feedback = problem.direct_feedback()
    x, labels = draw(3, 4, 5, seed=6), torch.arange(12).reshape(3, 4) % 4
    tokens, rows = problem.model(), problem.model()
    handle = fa.attach(tokens, fa.DRTP(), example_inputs=x, feedback=feedback)
    fa.attach(rows, fa.DRTP(), example_inputs=x.flatten(0, 1), feedback=feedback)
    if streaming:
        handle.targets(labels)
    F.cross_entropy(tokens(x).flatten(0, 1), labels.flatten()).backward()
    assert_agree(gradients(tokens), gradients_after(rows, F.cross_entropy(rows(x.flatten(0, 1)), labels.flatten())))


@both_modes
def test_the_error_of_a_sequence_is_repeated_over_its_tokens(streaming: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4), MeanOver(1)).double()
    feedback, x, labels = draw(4, 7, seed=8), draw(3, 6, 5, seed=6), torch.tensor([0, 3, 1])
    handle = fa.attach(model, fa.DRTP(), example_inputs=x, feedback={"1": feedback})
    if streaming:
        handle.targets(labels)
    F.cross_entropy(model(x), labels).backward()
    hidden = torch.tanh(x @ model[0].weight.T + model[0].bias).detach()
    delta = -feedback[labels][:, None, :] / 3 * (1 - hidden**2)
    expected = {"0.weight": torch.einsum("ntd,nti->di", delta, x), "0.bias": delta.sum((0, 1))}
    assert_agree({name: g for name, g in gradients(model).items() if name in expected}, expected)


@both_modes
def test_a_convolutional_network_has_the_gradients_of_the_equations(streaming: bool) -> None:
    model, (x, labels) = SmallConvNet(), SmallConvNet.batch()
    feedback = [draw(5, 3 * 8 * 8, seed=61), draw(5, 4 * 2 * 2, seed=62)]
    named = {"act1": feedback[0], "act2": feedback[1]}
    handle = fa.attach(model, fa.DRTP(), example_inputs=x, feedback=named)
    if streaming:
        handle.targets(labels)
    F.cross_entropy(model(x), labels).backward()
    net = model.by_hand()
    passed = convolutional.forward(net, x)
    error = model.error_by_hand(labels, passed.output)
    signals = convolutional.direct_signals(passed, -one_hot(labels, 5) / 3, feedback)
    assert_agree(gradients(model), convolutional.gradients(net, passed, error, signals))


@both_modes
def test_every_pixel_is_a_sample_with_a_target_of_its_own(streaming: bool) -> None:
    problem = Problem(widths=(5, 7, 4))
    feedback, x = draw(4, 7, seed=8), draw(2, 5, 3, 2, seed=9)
    labels = torch.arange(12).reshape(2, 3, 2) % 4
    pixels, rows = pixelwise(problem), problem.model()
    handle = fa.attach(pixels, fa.DRTP(positions="shared"), example_inputs=x, feedback={"1": feedback})
    if streaming:
        handle.targets(labels)
    F.cross_entropy(pixels(x), labels).backward()
    flat = x.movedim(1, -1).reshape(12, 5)
    fa.attach(rows, fa.DRTP(), example_inputs=flat, feedback={"act1": feedback})
    by_row = gradients_after(rows, F.cross_entropy(rows(flat), labels.flatten())).values()
    found = gradients(pixels)
    expected = {name: g.reshape(found[name].shape) for name, g in zip(found, by_row, strict=True)}
    assert_agree(found, expected)


def test_it_is_dfa_with_the_prediction_left_out_of_the_error() -> None:
    """Under the linear loss `-s * Y . output` the error is `-s * Y`, which is what DFA then projects."""
    problem = Problem()
    feedback = problem.direct_feedback()
    drtp, dfa = problem.model(), problem.model()
    fa.attach(drtp, fa.DRTP(), example_inputs=problem.inputs(), feedback=feedback)
    fa.attach(dfa, fa.DFA(), example_inputs=problem.inputs(), feedback=feedback)
    found = gradients_after_step(drtp, problem)
    expected = gradients_after(dfa, -(dfa(problem.inputs()) * problem.target_rows()).sum() / 5)
    hidden = [name for name in found if not name.startswith("fc3")]
    assert_agree({name: found[name] for name in hidden}, {name: expected[name] for name in hidden})


def test_dfa_is_drtp_with_the_prediction_put_back() -> None:
    """By linearity, the difference of the two is what DFA makes of the prediction alone."""
    problem = Problem()
    feedback = problem.direct_feedback()
    found = {}
    for rule in (fa.DRTP(), fa.DFA()):
        model = problem.model()
        fa.attach(model, rule, example_inputs=problem.inputs(), feedback=feedback)
        found[rule.name] = gradients_after_step(model, problem)
    output = model(problem.inputs())
    prediction = gradients_after(model, (output * output.detach().softmax(-1)).sum() / 5)
    hidden = [name for name in prediction if not name.startswith("fc3")]
    put_back = {name: found["drtp"][name] + prediction[name] for name in hidden}
    assert_agree(put_back, {name: found["dfa"][name] for name in hidden})


def test_samples_left_out_of_the_loss_send_no_signal() -> None:
    problem = Problem()
    feedback = problem.direct_feedback()
    model, fewer = problem.model(), problem.model()
    fa.attach(model, fa.DRTP(), example_inputs=problem.inputs(), feedback=feedback)
    fa.attach(fewer, fa.DRTP(), example_inputs=problem.inputs(), feedback=feedback)
    labels = problem.targets()
    ignored = torch.where(torch.arange(5) < 3, labels, -100)
    found = gradients_after(model, F.cross_entropy(model(problem.inputs()), ignored))
    assert_agree(found, gradients_after(fewer, F.cross_entropy(fewer(problem.inputs()[:3]), labels[:3])))


def test_weights_of_classes_are_read_from_the_error() -> None:
    problem = Problem()
    feedback, labels = problem.direct_feedback(), problem.targets()
    class_weights = torch.tensor([0.2, 1.0, 5.0, 2.0], dtype=torch.float64)
    model = problem.model()
    fa.attach(model, fa.DRTP(), example_inputs=problem.inputs(), feedback=feedback)
    found = gradients_after(model, F.cross_entropy(model(problem.inputs()), labels, weight=class_weights))
    weights = class_weights[labels] / class_weights[labels].sum()
    expected = streamed(problem, labels, scale=weights)
    assert_agree({name: found[name] for name in expected}, expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, labels: -F.cross_entropy(output, labels),
        lambda output, labels: F.mse_loss(output, F.one_hot(labels, 4).double()),
        lambda output, labels: F.binary_cross_entropy_with_logits(output, F.one_hot(labels, 4).double()),
    ],
    ids=["negative", "squared error", "another link"],
)
def test_an_error_of_another_form_is_refused(loss: object) -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.DRTP(), example_inputs=problem.inputs())
    with pytest.raises(ErrorFormError, match="DRTP"):
        gradients_after(model, loss(model(problem.inputs()), problem.targets()))


def test_streaming_works_with_losses_from_which_targets_could_not_be_read() -> None:
    problem = Problem()
    model = problem.model()
    feedback = problem.direct_feedback()
    handle = fa.attach(model, fa.DRTP(), example_inputs=problem.inputs(), feedback=feedback)
    handle.targets(problem.targets())
    F.cross_entropy(model(problem.inputs()), problem.targets(), label_smoothing=0.2).backward()
    expected = streamed(problem, problem.targets())
    assert_agree({name: g for name, g in gradients(model).items() if name in expected}, expected)


@pytest.mark.parametrize(
    ("targets", "scale"),
    [
        (torch.tensor([0, 1, 2, 3, 4]), None),
        (torch.tensor([0, 1, 2, 3, -1]), None),
        (torch.zeros(5, 3), None),
        (torch.zeros(5), None),
        ([0, 1, 2, 3, 0], None),
        (torch.tensor([0, 1, 2, 3, 0]), torch.ones(4)),
    ],
    ids=["class too large", "negative class", "too few classes", "no classes", "no tensor", "scale of another length"],
)
def test_targets_that_do_not_fit_are_refused_at_once(targets: object, scale: Tensor | None) -> None:
    problem = Problem()
    handle = fa.attach(problem.model(), fa.DRTP(), example_inputs=problem.inputs())
    with pytest.raises(TargetsError):
        handle.targets(targets, scale=scale)


def test_targets_of_another_batch_are_refused_in_the_forward() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.DRTP(), example_inputs=problem.inputs())
    handle.targets(problem.targets()[:3])
    with pytest.raises(TargetsError, match="3 targets"):
        model(problem.inputs())


def test_targets_are_good_for_one_forward() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.DRTP(), example_inputs=problem.inputs())
    handle.targets(problem.targets())
    model(problem.inputs())
    with pytest.raises(TargetsError, match="every training forward"):
        model(problem.inputs())


def test_it_learns_from_the_error_again_once_targets_are_taken_back() -> None:
    problem = Problem()
    model = problem.model()
    handle = fa.attach(model, fa.DRTP(), example_inputs=problem.inputs())
    from_error = gradients_after_step(model, problem)
    handle.targets(problem.targets())
    handle.targets(None)
    assert_agree(gradients_after_step(model, problem), from_error, tolerance=0.0)
