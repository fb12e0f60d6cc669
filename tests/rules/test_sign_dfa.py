"""Direct feedback alignment with the sign of the error."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, compare, gradients_after, gradients_after_step, rule_for
from feedalign.errors import ErrorFormError
from problems import CLASSIFICATION, Problem, by_hand, draw, problems
from reference import perceptron, sign_dfa
from reference.losses import error_at_output


@pytest.mark.parametrize("problem", problems(CLASSIFICATION), ids=str)
def test_gradients_equal_the_equations_by_hand(problem: Problem) -> None:
    compare(rule_for(fa.SignDFA, problem), problem)


@pytest.mark.parametrize("loss", CLASSIFICATION)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_partial_batch_has_the_gradients_of_its_own_samples(loss: str, num_samples: int) -> None:
    problem = Problem(loss)
    compare(rule_for(fa.SignDFA, problem), problem, num_samples=num_samples)


def test_any_other_bounded_output_has_the_scale_of_a_mean_loss() -> None:
    problem = Problem("squared_error")
    model, feedback = problem.model(), problem.direct_feedback()
    fa.attach(model, fa.SignDFA(link="other"), example_inputs=problem.inputs(), feedback=feedback)
    for num_samples in (5, 2):
        step = problem.with_samples(num_samples)
        net = by_hand(model, "tanh")
        passed = perceptron.forward(net, step.inputs())
        error = error_at_output("squared_error", passed.output, step.target_rows(), step.scale())
        mean = torch.full((num_samples, 1), 1 / num_samples, dtype=torch.float64)
        case = perceptron.Case(net, passed, error, step.target_rows(), mean, list(feedback.values()))
        assert_agree(gradients_after_step(model, step), perceptron.gradients(case, sign_dfa.signals(case)))


def test_it_is_dfa_where_the_error_is_its_own_sign() -> None:
    problem = Problem()
    signs = draw(5, 4, seed=20).sign()
    feedback = problem.direct_feedback()
    found = []
    for rule in (fa.SignDFA(link="other"), fa.DFA()):
        model = problem.model()
        fa.attach(model, rule, example_inputs=problem.inputs(), feedback=feedback)
        found.append(gradients_after(model, (model(problem.inputs()) * signs).sum() / 5))
    assert_agree(*found)


def test_with_two_classes_it_is_dfa_divided_by_the_probability_of_the_wrong_one() -> None:
    """Both entries of the error then have one size, `s * p(wrong)`, which weights on the samples take away."""
    problem = Problem(widths=(5, 7, 6, 2))
    feedback, labels = problem.direct_feedback(), problem.targets()
    with torch.no_grad():
        wrong = 1 - problem.model()(problem.inputs()).softmax(-1)[torch.arange(5), labels]
    found = []
    for rule, weights in ((fa.SignDFA(), None), (fa.DFA(), 1 / wrong)):
        model = problem.model()
        fa.attach(model, rule, example_inputs=problem.inputs(), feedback=feedback)
        gradients = gradients_after_step(model, problem, weights)
        found.append({name: g for name, g in gradients.items() if not name.startswith("fc3")})
    assert_agree(*found)


@pytest.mark.parametrize("last", [nn.Softmax(-1), nn.LogSoftmax(-1), nn.Sigmoid()], ids=lambda m: type(m).__name__)
def test_a_last_module_that_makes_predictions_tells_the_link(last: nn.Module) -> None:
    problem = Problem("binary_cross_entropy" if isinstance(last, nn.Sigmoid) else "cross_entropy")
    feedback, x, targets = problem.direct_feedback(), problem.inputs(), problem.targets()
    model = problem.model()
    model.add_module("last", last)
    fa.attach(model, fa.SignDFA(), example_inputs=x, feedback=feedback)
    output = model(x)
    loss = {
        nn.Softmax: lambda: F.nll_loss(output.log(), targets),
        nn.LogSoftmax: lambda: F.nll_loss(output, targets),
        nn.Sigmoid: lambda: F.binary_cross_entropy(output, targets),
    }[type(last)]()
    plain = problem.model()
    fa.attach(plain, rule_for(fa.SignDFA, problem), example_inputs=x, feedback=feedback)
    assert_agree(gradients_after(model, loss), gradients_after_step(plain, problem))


def test_an_error_of_another_form_is_refused() -> None:
    problem = Problem("squared_error")
    model = problem.model()
    fa.attach(model, fa.SignDFA(), example_inputs=problem.inputs())
    with pytest.raises(ErrorFormError, match="SignDFA"):
        gradients_after_step(model, problem)
