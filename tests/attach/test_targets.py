"""`Handle.targets`: wrong targets and lost streamed gradients are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

import feedalign as fa
from attach.models import Gated, LeakySkip, OneNumber, Perceptron, batch
from attach.refusal import assert_says
from attach.sequence_models import Tokens, tokens
from feedalign import errors
from feedalign.errors import FeedalignError

x, y = batch()


def streaming(model: nn.Module | None = None, inputs: Tensor = x) -> tuple[nn.Module, fa.Handle]:
    model = Perceptron() if model is None else model
    return model, fa.attach(model, fa.DRTP(), example_inputs=inputs)


@pytest.mark.parametrize("rule", [r() for r in fa.ALL_RULES if r is not fa.DRTP] + [{"fc*": fa.DFA()}])
def test_rules_that_take_no_targets_refuse_them(rule: Any) -> None:
    handle = fa.attach(Perceptron(), rule, example_inputs=x)
    with pytest.raises(FeedalignError) as caught:
        handle.targets(y)
    name = "DFA" if isinstance(rule, dict) else type(rule).__name__
    assert_says(caught.value, errors.TargetsError, name, "takes no targets", "DRTP")


@pytest.mark.parametrize(("targets", "words"), [
    ([0, 1, 2, 0, 1, 2], ("list", "tensor of class indices")),
    (torch.tensor([0, 1, 2, 3, 0, 1]), ("0 to 3", "classes 0 to 2", "scale of 0")),
    (torch.tensor([0, 1, 2, -1, 0, 1]), ("-1 to 2", "classes 0 to 2")),
    (torch.full((6,), -100), ("-100", "classes 0 to 2")),
    (torch.rand(6), ("(6,)", "torch.float32", "3 outputs", "class indices")),
    (torch.rand(6, 4), ("(6, 4)", "3 outputs", "[..., 3]")),
    (torch.zeros(6, dtype=torch.bool), ("(6,)", "torch.bool", "3 outputs")),
])  # fmt: skip
def test_targets_that_cannot_be_meant_are_refused(targets: Any, words: tuple[str, ...]) -> None:
    model, handle = streaming()
    with pytest.raises(FeedalignError) as caught:
        handle.targets(targets)
    assert_says(caught.value, errors.TargetsError, *words)
    F.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad.any(), "the rule still learns from the error"


@pytest.mark.parametrize("targets", [y[:4], torch.cat([y, y]), F.one_hot(y[:4], 3).float(), F.one_hot(y, 3)])
def test_targets_that_do_not_fit_the_batch_are_refused_in_the_forward(targets: Tensor) -> None:
    model, handle = streaming()

    def forward() -> None:
        handle.targets(targets)
        model(x)

    with pytest.raises(FeedalignError) as caught:
        forward()
    found = targets.numel() if not targets.is_floating_point() else len(targets)
    assert_says(caught.value, errors.TargetsError, str(found), "act1", "6 rows", "one target for each")
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("scale", [torch.ones(4), torch.ones(6, 3)])
def test_a_scale_that_does_not_fit_the_targets_is_refused(scale: Tensor) -> None:
    _, handle = streaming()
    with pytest.raises(FeedalignError) as caught:
        handle.targets(y, scale=scale)
    assert_says(caught.value, errors.TargetsError, str(scale.numel()), "6 targets", "one number or one per target")


@pytest.mark.parametrize("scale", ["mean", [1.0] * 6])
def test_a_scale_of_another_kind_is_refused(scale: Any) -> None:
    _, handle = streaming()
    with pytest.raises(FeedalignError) as caught:
        handle.targets(y, scale=scale)
    assert_says(caught.value, errors.TargetsError, "scale", "one number or one per target")


def test_every_training_forward_needs_targets_of_its_own() -> None:
    model, handle = streaming()
    handle.targets(y)
    model(x)
    with pytest.raises(FeedalignError) as caught:
        model(x)
    words = (
        "No targets",
        "handle.targets(y)",
        "before every training forward",
        "handle.targets(None)",
        "torch.no_grad()",
    )
    assert_says(caught.value, errors.TargetsError, *words)
    handle.targets(None)
    model(x)


class Redirected(Perceptron):
    """Its step runs in the place of its forward, as wrappers of trainers do it, and gives the targets itself."""

    is_redirected = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_redirected:
            return super().forward(x)
        self.is_redirected = False
        fa.handle_of(self).targets(y)
        return F.cross_entropy(self(x), y)


def test_targets_may_be_given_within_a_forward_that_calls_the_model() -> None:
    model, plain = Redirected(), Perceptron()
    for one in (model, plain):
        fa.attach(one, fa.DRTP(), example_inputs=x)
    for _ in range(2):
        model.is_redirected = True
        model(x).backward()
        fa.handle_of(plain).targets(y)
        F.cross_entropy(plain(x), y).backward()
    for mine, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)


def test_evaluation_needs_no_targets_and_uses_none_up() -> None:
    model, handle = streaming()
    handle.targets(y)
    with torch.no_grad():
        model(x)
    with torch.inference_mode():
        model(x)
    F.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad.any()


def test_targets_after_removal_are_refused() -> None:
    _, handle = streaming()
    handle.remove()
    with pytest.raises(FeedalignError) as caught:
        handle.targets(y)
    assert_says(caught.value, errors.AttachError, "removed", "attach it again")


@pytest.mark.parametrize("set_to_none", [True, False])
def test_streamed_gradients_thrown_away_before_the_backward_are_noticed(set_to_none: bool) -> None:
    model, handle = streaming()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle.targets(y)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad(set_to_none=set_to_none)
    with pytest.raises(FeedalignError) as caught:
        loss.backward()
    assert_says(caught.value, errors.StreamingError, "thrown away", "zero_grad()", "before the forward")


def test_streamed_gradients_thrown_away_after_parameters_were_replaced_are_noticed() -> None:
    model, handle = streaming()
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    handle.targets(y)
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    with pytest.raises(FeedalignError) as caught:
        loss.backward()
    assert_says(caught.value, errors.StreamingError, "thrown away")


def test_gradients_of_the_first_of_two_forwards_thrown_away_are_noticed() -> None:
    model, handle = streaming()
    handle.targets(y)
    first = F.cross_entropy(model(x), y)
    model.zero_grad()
    handle.targets(y)
    second = F.cross_entropy(model(x), y)
    with pytest.raises(FeedalignError) as caught:
        (first + second).backward()
    assert_says(caught.value, errors.StreamingError, "thrown away")


def test_samples_without_weight_raise_no_false_alarm() -> None:
    model, handle = streaming()
    losses = []
    for _ in range(2):
        handle.targets(y, scale=torch.zeros(6))
        losses.append(0 * F.cross_entropy(model(x), y))
    sum(losses).backward()
    assert not model.fc1.weight.grad.any()


def test_zero_grad_before_the_forward_is_right() -> None:
    model, handle = streaming()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.fc1.weight.clone()
    for _ in range(3):
        optimizer.zero_grad()
        handle.targets(y)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert not torch.equal(model.fc1.weight, before)


def test_streaming_under_function_transforms_is_refused() -> None:
    model, handle = streaming()
    handle.targets(y)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with pytest.raises(FeedalignError) as caught:
        grad(lambda state: F.cross_entropy(functional_call(model, state, (x,)), y))(state)
    assert_says(caught.value, errors.StreamingError, "torch.func", "handle.targets(None)")


@pytest.mark.parametrize("make", [Gated, LeakySkip])
def test_streaming_through_shared_graphs_works_or_is_refused(make: type[nn.Module]) -> None:
    model, from_error = make(), make()
    _, handle = streaming(model)
    fa.attach(from_error, fa.DRTP(), example_inputs=x)
    F.cross_entropy(from_error(x), y).backward()
    try:
        handle.targets(y)
        F.cross_entropy(model(x), y).backward()
    except FeedalignError as caught:
        assert_says(caught, errors.StreamingError, "share a part of its graph", "learn from the error", "points=")
        return
    for (name, one), other in zip(model.named_parameters(), from_error.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_one_target_for_each_position_is_needed() -> None:
    inputs, labels = tokens()
    model, handle = streaming(Tokens(), inputs)
    handle.targets(labels[:, 0])
    with pytest.raises(FeedalignError) as caught:
        model(inputs)
    assert_says(caught.value, errors.TargetsError, "3 targets", "12 rows")
    handle.targets(labels)
    model(inputs)
    assert model.fc1.weight.grad.any()


@pytest.mark.parametrize("targets", [torch.ones(6), torch.ones(6, 1), torch.ones(6, dtype=torch.long)])
def test_one_output_takes_targets_with_or_without_its_axis(targets: Tensor) -> None:
    model, handle = streaming(OneNumber())
    handle.targets(targets)
    model(x)
    assert model.fc1.weight.grad.any()


def test_numbers_beyond_zero_and_one_are_no_targets_for_one_output() -> None:
    _, handle = streaming(OneNumber())
    with pytest.raises(FeedalignError) as caught:
        handle.targets(torch.tensor([0, 1, 2, 0, 1, 0]))
    assert_says(caught.value, errors.TargetsError, "2", "0", "1")
