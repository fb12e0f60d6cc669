"""Rules that read targets from the error: a loss of another form is refused, those of the right form are not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron, PixelClassifier, batch, images
from attach.refusal import assert_says
from attach.sequence_models import Tokens, tokens
from feedalign import errors

x, y = batch()
one_hot = F.one_hot(y, 3).float()
RULES = [fa.DRTP, fa.SignDFA]

OTHER_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared error": lambda a: F.mse_loss(a, one_hot),
    "absolute error": lambda a: F.l1_loss(a, one_hot),
    "label smoothing": lambda a: F.cross_entropy(a, y, label_smoothing=0.4),
    "soft targets": lambda a: F.cross_entropy(a, torch.full((6, 3), 1 / 3)),
    "binary cross-entropy": lambda a: F.binary_cross_entropy_with_logits(a, one_hot),
    "margin": lambda a: F.multi_margin_loss(a, y),
    "sum of outputs": lambda a: a.sum(),
    "a temperature after the model": lambda a: F.cross_entropy(a / 3, y),
    "a regulariser beside it": lambda a: F.cross_entropy(a, y) + a.square().mean(),
}
RIGHT_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda a: F.cross_entropy(a, y),
    "sum": lambda a: F.cross_entropy(a, y, reduction="sum"),
    "times a hundred": lambda a: 100 * F.cross_entropy(a, y),
    "times a millionth": lambda a: 1e-6 * F.cross_entropy(a, y),
    "weighted samples": lambda a: (torch.linspace(0, 1, 6) * F.cross_entropy(a, y, reduction="none")).sum(),
    "weighted classes": lambda a: F.cross_entropy(a, y, weight=torch.tensor([0.2, 1.0, 3.0])),
    "ignored samples": lambda a: F.cross_entropy(a, y.index_fill(0, torch.tensor([1]), -100)),
    "negative log-likelihood": lambda a: F.nll_loss(a.log_softmax(1), y),
}


def step(rule: fa.Rule, loss: Callable[[Tensor], Tensor], scale: float = 1.0) -> nn.Module:
    """One backward of a model whose predictions are near uniform (scale 1) or confident (scale 30)."""
    model = Perceptron()
    with torch.no_grad():
        model.head.weight.mul_(scale)
    fa.attach(model, rule, example_inputs=x)
    loss(model(x)).backward()
    return model


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_other_losses_are_refused(rule: type[fa.DRTP], loss: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(errors.FeedalignError) as caught:
        step(rule(), loss, scale=10.0)
    words = (rule.__name__, "not of this form", f"fa.{rule.__name__}(link='sigmoid')", "fa.DFA()", "handle.targets(y)")
    assert_says(caught.value, errors.ErrorFormError, *words)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("loss", RIGHT_LOSSES.values(), ids=RIGHT_LOSSES)
def test_cross_entropy_of_any_scale_is_accepted(
    rule: type[fa.DRTP], loss: Callable[[Tensor], Tensor], scale: float
) -> None:
    assert step(rule(), loss, scale).fc1.weight.grad.any()


@pytest.mark.parametrize("rule", RULES)
def test_label_smoothing_is_noticed_while_training(rule: type[fa.DRTP]) -> None:
    """With uniform predictions a smoothed error has the form of a hard one; it must not pass for good."""
    model = Perceptron()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    fa.attach(model, rule(), example_inputs=x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    def train() -> None:
        for _ in range(300):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, label_smoothing=0.4).backward()
            optimizer.step()

    with pytest.raises(errors.ErrorFormError):
        train()


@pytest.mark.parametrize("rule", [*RULES, fa.LocalGreedy])
def test_the_link_is_the_users_word(rule: type[fa.DRTP]) -> None:
    assert step(rule(link="sigmoid"), OTHER_LOSSES["binary cross-entropy"]).fc1.weight.grad.any()
    with pytest.raises(errors.ErrorFormError, match="link='softmax'"):
        step(rule(link="sigmoid"), RIGHT_LOSSES["mean"])


@pytest.mark.parametrize("rule", [*RULES, fa.LocalGreedy])
def test_a_last_sigmoid_tells_the_link(rule: type[fa.DRTP]) -> None:
    model = nn.Sequential(Perceptron(), nn.Sigmoid())
    fa.attach(model, rule(), example_inputs=x)
    F.binary_cross_entropy(model(x), one_hot).backward()
    assert model[0].fc1.weight.grad.any()


def test_sign_dfa_takes_any_loss_when_told_so() -> None:
    for loss in OTHER_LOSSES.values():
        assert step(fa.SignDFA(link="other"), loss).fc1.weight.grad.any()


@pytest.mark.parametrize("rule", [*RULES, fa.LocalGreedy])
def test_an_unknown_link_is_refused(rule: type[fa.DRTP]) -> None:
    with pytest.raises(errors.AttachError, match=r"(?s)sofmax.*softmax.*sigmoid"):
        fa.attach(Perceptron(), rule(link="sofmax"), example_inputs=x)


@pytest.mark.parametrize("rule", [fa.DFA, *RULES, fa.DKP, fa.FDFA])
def test_an_unknown_layout_of_positions_is_refused(rule: type[fa.DFA]) -> None:
    with pytest.raises(errors.AttachError, match=r"(?s)share.*auto.*shared.*full"):
        fa.attach(Perceptron(), rule(positions="share"), example_inputs=x)


@pytest.mark.parametrize("rule", RULES)
def test_every_loss_is_checked_not_only_that_of_the_first_rule(rule: type[fa.DRTP]) -> None:
    model = Perceptron()
    fa.attach(model, {"fc1": fa.DFA(), "fc2": rule()}, example_inputs=x)
    with pytest.raises(errors.ErrorFormError):
        OTHER_LOSSES["squared error"](model(x)).backward()


@pytest.mark.parametrize("rule", RULES)
def test_an_error_of_zeros_does_not_count_as_the_check(rule: type[fa.DRTP]) -> None:
    model = Perceptron()
    fa.attach(model, rule(), example_inputs=x)
    (0 * model(x)).sum().backward()
    with pytest.raises(errors.ErrorFormError):
        OTHER_LOSSES["squared error"](model(x)).backward()


@pytest.mark.parametrize("rule", RULES)
def test_function_transforms_do_not_pass_the_check_by(rule: type[fa.DRTP]) -> None:
    model = Perceptron()
    fa.attach(model, rule(), example_inputs=x)
    with pytest.raises(errors.FeedalignError):
        grad(lambda p: F.mse_loss(functional_call(model, p, (x,)), one_hot))(dict(model.named_parameters()))


@pytest.mark.parametrize("loss", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_local_heads_refuse_other_losses(loss: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(errors.ErrorFormError, match=r"LocalGreedy.*fa\.LocalGreedy\(link='sigmoid'\).*fa\.DFA\(\)"):
        step(fa.LocalGreedy(), loss, scale=10.0)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("loss", RIGHT_LOSSES.values(), ids=RIGHT_LOSSES)
def test_local_heads_take_cross_entropy_of_any_scale(loss: Callable[[Tensor], Tensor], scale: float) -> None:
    model = step(fa.LocalGreedy(), loss, scale)
    assert model.fc1.weight.grad.any()
    assert model.feedalign.act1.grad.any()


@pytest.mark.parametrize(
    "rule", [fa.DKP(), fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed(), fa.NoisyBackprop()]
)
@pytest.mark.parametrize("loss", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
def test_rules_that_read_no_targets_take_any_loss(rule: fa.Rule, loss: Callable[[Tensor], Tensor]) -> None:
    assert step(rule, loss).head.weight.grad.any()


@pytest.mark.parametrize("rule", RULES)
def test_scores_for_tokens_and_pixels_have_the_right_form(rule: type[fa.DRTP]) -> None:
    ids, labels = tokens()
    model = Tokens()
    fa.attach(model, rule(), example_inputs=ids)
    F.cross_entropy(model(ids).transpose(1, 2), labels).backward()
    assert model.fc1.weight.grad.any()
    pictures = images()[0]
    pixels = PixelClassifier()
    fa.attach(pixels, rule(positions="shared"), example_inputs=pictures)
    F.cross_entropy(pixels(pictures), torch.zeros(4, 6, 6, dtype=torch.long)).backward()
    assert pixels.conv1.weight.grad.any()
