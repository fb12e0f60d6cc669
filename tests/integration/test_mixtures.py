"""One rule per group of layers: each group gets what its rule gives, and no exact gradient passes a cut."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Convolutional, Perceptron, batch, images
from integration.by_hand import graph_cut
from integration.gradients import assert_same_gradients, attached, gradients, step

x, y = batch()
pictures, labels = images()


def error_and_taps(model: nn.Module, points: list[str]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    with graph_cut(model, points) as taps:
        output = model(pictures)
    (error,) = torch.autograd.grad(F.cross_entropy(output, labels), output, retain_graph=True)
    return output, error, taps


def test_shallow_kernels_under_drtp_layers() -> None:
    model = attached(Convolutional, {"conv*": fa.Shallow(), "fc*": fa.DRTP()}, pictures)
    step(model, pictures, labels)
    (feedback,) = fa.handle_of(model).store.buffers()
    plain = Convolutional()
    output, error, taps = error_and_taps(plain, ["act1", "act2", "act3"])
    signal = -F.one_hot(labels, 3).float() @ feedback / 4
    torch.autograd.backward([output, taps[2]], [error, signal])
    assert_same_gradients(gradients(model), gradients(plain))
    assert model.conv1.weight.grad is None
    assert model.fc1.weight.grad.any()


def test_exact_kernels_under_dfa_layers_learn_from_the_point_above_them() -> None:
    model = attached(Convolutional, {"conv*": fa.Backprop(), "fc*": fa.DFA()}, pictures)
    step(model, pictures, labels)
    (feedback,) = fa.handle_of(model).store.buffers()
    plain = Convolutional()
    output, error, taps = error_and_taps(plain, ["act3"])
    torch.autograd.backward([output, *taps], [error, error @ feedback])
    assert_same_gradients(gradients(model), gradients(plain))
    assert model.conv1.weight.grad.any()


def test_dfa_kernels_under_exact_layers() -> None:
    model = attached(Convolutional, {"conv*": fa.DFA(), "fc*": fa.Backprop()}, pictures)
    step(model, pictures, labels)
    plain = Convolutional()
    output, error, taps = error_and_taps(plain, ["act1", "act2"])
    signals = [(error @ b).reshape_as(t) for b, t in zip(fa.handle_of(model).store.buffers(), taps, strict=True)]
    torch.autograd.backward([output, *taps], [error, *signals])
    assert_same_gradients(gradients(model), gradients(plain))


def test_dfa_below_and_fa_above() -> None:
    model = attached(Perceptron, {"fc1": fa.DFA(), "*": fa.FA()}, x)
    step(model, x, y)
    dfa_alone = attached(Perceptron, fa.DFA(), x, points="act1")
    assert fa.handle_of(model).store.feedback("act1").shape == (3, 7)
    fa.handle_of(dfa_alone).store.load_state_dict({"act1": fa.handle_of(model).store.feedback("act1")})
    step(dfa_alone, x, y)
    fa_alone = attached(Perceptron, fa.FA(), x)
    held = dict(fa.handle_of(model).store.named_buffers())
    fa.handle_of(fa_alone).store.load_state_dict({n: b for n, b in held.items() if n != "act1"}, strict=False)
    step(fa_alone, x, y)
    expected = gradients(fa_alone) | {n: g for n, g in gradients(dfa_alone).items() if n.startswith("fc1")}
    assert_same_gradients(gradients(model), expected)


def test_two_direct_rules_share_one_backward() -> None:
    rules = {"fc1": fa.SignDFA(), "fc2": fa.DFA()}
    model = attached(Perceptron, rules, x)
    step(model, x, y)
    for rule, layer, other in ((fa.SignDFA(), "fc1", "fc2"), (fa.DFA(), "fc2", "fc1")):
        alone = attached(Perceptron, rule, x)
        fa.handle_of(alone).store.load_state_dict(fa.handle_of(model).store.state_dict())
        step(alone, x, y)
        expected = gradients(alone)[f"{layer}.weight"]
        torch.testing.assert_close(gradients(model)[f"{layer}.weight"], expected)
        assert not torch.equal(gradients(model)[f"{other}.weight"], gradients(alone)[f"{other}.weight"])


def test_streaming_drtp_beside_dfa() -> None:
    rules = {"fc1": fa.DRTP(), "fc2": fa.DFA()}
    streamed, from_error = attached(Perceptron, rules, x), attached(Perceptron, rules, x)
    step(from_error, x, y)
    fa.handle_of(streamed).targets(y)
    output = streamed(x)
    assert streamed.fc1.weight.grad is not None
    assert streamed.fc2.weight.grad is None
    F.cross_entropy(output, y).backward()
    assert_same_gradients(gradients(streamed), gradients(from_error))


@pytest.mark.parametrize("rules", [
    {"conv*": fa.Shallow(), "fc*": fa.DRTP()},
    {"conv*": fa.FA(), "fc*": fa.DFA()},
    {"conv1": fa.DFA(), "conv2": fa.SignDFA(), "*": fa.DRTP()},
])  # fmt: skip
def test_globs_match_layers_and_points_alike(rules: dict[str, fa.Rule]) -> None:
    by_layer = attached(Convolutional, rules, pictures)
    step(by_layer, pictures, labels)
    assert by_layer.fc1.weight.grad.any()


def test_a_later_glob_yields_to_an_earlier_one() -> None:
    model = attached(Perceptron, {"fc1": fa.Shallow(), "fc*": fa.DFA()}, x)
    step(model, x, y)
    assert model.fc1.weight.grad is None
    assert model.fc2.weight.grad.any()
