"""Autocast, gradient scaling and changes of dtype and device."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Convolutional, Functional, Perceptron, batch, images
from integration.gradients import (
    ALL_RULES,
    AVERAGED,
    PERTURBING,
    Gradients,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    direct_feedback,
    draws_given,
    draws_recorded,
    gradients,
    gradients_of_step,
    is_learned_feedback,
    step,
)

x, y = batch(16)
names = {"ids": lambda rule: rule.name}

# bfloat16 keeps 8 bits; products of a few layers add up to some percent of a gradient's norm.
BFLOAT16_TOLERANCE = 0.05


def averaging() -> nn.Module:
    """Without maxima, of which rounding may pick others."""
    model = Convolutional()
    model.pool = nn.AvgPool2d(2)
    return model


def assert_close_in_norm(found: Gradients, expected: Gradients, tolerance: float) -> None:
    for name, value in expected.items():
        other = found[name]
        assert (value is None) == (other is None), name
        if value is not None:
            assert torch.linalg.vector_norm(other.float() - value) <= tolerance * torch.linalg.vector_norm(value), name


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("make", [Perceptron, averaging])
def test_autocast_gives_the_same_gradients_within_its_precision(rule: fa.Rule, make: Callable[[], nn.Module]) -> None:
    inputs, labels = images(16) if make is averaging else (x, y)
    model, plain = attached(make, rule, inputs), attached(make, rule, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs)
        assert output.dtype == torch.bfloat16
        loss = F.cross_entropy(output, labels)
    loss.backward()
    step(plain, inputs, labels)
    assert_close_in_norm(gradients(model), gradients(plain), BFLOAT16_TOLERANCE)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
    assert_hidden_layers_learn(gradients(model), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_attaching_under_autocast_makes_no_difference(rule: fa.Rule) -> None:
    plain = attached(Perceptron, rule, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = attached(Perceptron, rule, x)
    for one in (model, plain):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_model_all_in_bfloat16_learns_within_its_precision(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    model.to(torch.bfloat16)
    with draws_recorded() as drawn:
        step(plain, x, y)
    with draws_given(drawn):
        step(model, x.bfloat16(), y)
    assert_close_in_norm(gradients(model), gradients(plain), 2 * BFLOAT16_TOLERANCE)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_model_made_double_after_attach_learns_as_one_made_double_before(rule: fa.Rule) -> None:
    after, before = attached(Perceptron, rule, x), attached(lambda: Perceptron().double(), rule, x.double())
    after.to(torch.float64)
    assert all(t.dtype == torch.float64 for t in direct_feedback(after).values())
    for model in (after, before):
        for _ in range(2):
            step(model, x.double(), y)
    assert_same_gradients(gradients(after), gradients(before), tolerance=1e-12)
    assert_hidden_layers_learn(gradients(after), rule)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_there_and_back_between_dtypes_changes_nothing(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    model.double().float()
    for one in (model, plain):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


def exact_gradients() -> Gradients:
    return gradients_of_step(Perceptron(), x, y)


def after_unscaling(rule: fa.Rule, plain: Gradients, exact: Gradients, scale: float) -> Gradients:
    """What does not come from the loss is unscaled all the same: noise, and how far feedback is from the Jacobian."""
    if isinstance(rule, fa.NoisyBackprop):
        return {name: exact[name] + (g - exact[name]) / scale for name, g in plain.items()}
    if isinstance(rule, fa.FDFA):
        return {name: g / scale if is_learned_feedback(name) else g for name, g in plain.items()}
    return plain


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("init_scale", [2.0**16, 3000.0])
def test_a_grad_scaler_scales_and_unscales_every_layer(rule: fa.Rule, init_scale: float) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    step(plain, x, y)
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaled = gradients(model)
    scaler.unscale_(optimizer)
    expected = after_unscaling(rule, gradients(plain), exact_gradients(), init_scale)
    assert_same_gradients(gradients(model), expected)
    for name, value in expected.items():
        if value is not None:
            torch.testing.assert_close(scaled[name], init_scale * value, rtol=1e-5, atol=1e-6 * init_scale)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_grad_scaler_under_autocast_changes_nothing_within_its_precision(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for one in (model, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(one(x), y)
        (scaler.scale(loss) if one is model else loss).backward()
    scaler.unscale_(optimizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = exact_gradients()
    assert_close_in_norm(gradients(model), after_unscaling(rule, gradients(plain), exact, 2.0**12), 0.01)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_step_that_overflowed_is_skipped_as_ever(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=torch.finfo(torch.float32).max)
    scaler.scale(100 * F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert scaler.get_scale() < torch.finfo(torch.float32).max
    optimizer.zero_grad()
    step(model, x, y)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_streaming_takes_the_scalers_factor_as_its_scale() -> None:
    model, plain = attached(Perceptron, fa.DRTP(), x), attached(Perceptron, fa.DRTP(), x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    step(plain, x, y)
    scaler.scale(torch.zeros(()))  # the scaler makes its scale at the first use
    fa.handle_of(model).targets(y, scale=scaler.get_scale() / len(y))
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    assert_same_gradients(gradients(model), gradients(plain))


def test_streaming_under_autocast_learns_within_its_precision() -> None:
    model, plain = attached(Perceptron, fa.DRTP(), x), attached(Perceptron, fa.DRTP(), x)
    fa.handle_of(model).targets(y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    step(plain, x, y)
    assert_close_in_norm(gradients(model), gradients(plain), BFLOAT16_TOLERANCE)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize("make", [Perceptron, Convolutional])
def test_a_model_moved_to_the_gpu_after_attach_learns_alike(rule: fa.Rule, make: Callable[[], nn.Module]) -> None:
    inputs, labels = images(16) if make is Convolutional else (x, y)
    model, plain = attached(make, rule, inputs), attached(make, rule, inputs)
    model.to("cuda", torch.float64)
    plain.to(torch.float64)
    assert all(buffer.is_cuda for buffer in fa.handle_of(model).store.buffers())
    assert all(parameter.is_cuda for parameter in model.parameters())
    for _ in range(2):
        with draws_recorded() as drawn:
            step(plain, inputs.double(), labels)
        with draws_given(drawn):
            step(model, inputs.double().cuda(), labels.cuda())
    found = {name: None if g is None else g.cpu() for name, g in gradients(model).items()}
    assert_same_gradients(found, gradients(plain), tolerance=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_grad_scaler_in_half_precision_on_the_gpu_learns_alike(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x).cuda(), attached(Perceptron, rule, x).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    with draws_recorded() as drawn:
        step(plain, x.cuda(), y.cuda())
    with torch.autocast("cuda", dtype=torch.float16), draws_given(drawn):
        loss = F.cross_entropy(model(x.cuda()), y.cuda())
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    exact = {name: grad.cuda() for name, grad in exact_gradients().items()}
    assert_close_in_norm(gradients(model), after_unscaling(rule, gradients(plain), exact, 2.0**10), 0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [*PERTURBING, AVERAGED, fa.NoisyBackprop()], ids=repr)
@pytest.mark.parametrize("make", [Perceptron, Functional])
def test_draws_on_the_gpu_go_by_the_clock_too(rule: fa.Rule, make: Callable[[], nn.Module]) -> None:
    """Two models draw alike, two forwards do not, and a copy goes on where the original was."""
    model, other = attached(make, rule, x).cuda(), attached(make, rule, x).cuda()
    seen = []
    for one in (model, other):
        with draws_recorded() as drawn:
            for _ in range(2):
                step(one, x.cuda(), y.cuda())
        seen.append(drawn)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    half = len(seen[0]) // 2
    assert not any(torch.equal(a, b) for a, b in zip(seen[0][:half], seen[0][half:], strict=True))
    assert_same_gradients(gradients(model), gradients(other))
    assert_hidden_layers_learn(gradients(model), rule)


@pytest.mark.gpu
def test_streaming_on_the_gpu_takes_targets_from_either_device() -> None:
    expected = attached(Perceptron, fa.DRTP(), x)
    step(expected, x, y)
    for targets in (y, y.cuda()):
        model = attached(Perceptron, fa.DRTP(), x).cuda()
        fa.handle_of(model).targets(targets)
        step(model, x.cuda(), y.cuda())
        found = {name: g.cpu() for name, g in gradients(model).items()}
        assert_same_gradients(found, gradients(expected), tolerance=1e-5)
