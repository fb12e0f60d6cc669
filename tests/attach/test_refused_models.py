"""Models that cannot take a rule: a typed error with what to do, and the model as it was."""

from typing import Any

import pytest
import torch
from torch import nn

import feedalign as fa
from attach.models import LeakySkip, Perceptron, Regularised, Wrapper, batch, images, sequential
from attach.refusal import assert_refused, assert_says
from attach.sequence_models import tokens
from feedalign import errors

x, y = batch()


@pytest.mark.parametrize("rule", [fa.Shallow(), fa.DFA(), fa.SignDFA(), fa.DRTP()])
def test_a_model_without_feedback_point_is_refused(rule: fa.Rule) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    words = (type(rule).__name__, "no feedback point", "points=", "fa.FeedbackPoint()")
    assert_refused(model, errors.NoFeedbackPointError, *words, rule=rule, example_inputs=x)


def test_the_non_linearity_that_makes_the_output_is_no_feedback_point() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Sigmoid())
    assert_refused(model, errors.NoFeedbackPointError, "no feedback point", "points=", example_inputs=x)


def test_points_behind_frozen_layers_alone_are_no_feedback_points() -> None:
    model = Perceptron()
    model.fc1.requires_grad_(False)
    model.fc2.requires_grad_(False)
    assert_refused(model, errors.NoFeedbackPointError, "frozen", "fc1, fc2", example_inputs=x)


@pytest.mark.parametrize("rule", [fa.FA(), fa.USF(), fa.BRSF(), fa.FRSF()])
def test_layerwise_rules_need_a_linear_layer(rule: fa.Rule) -> None:
    model = nn.Sequential(nn.Embedding(11, 4), nn.Tanh())
    words = (type(rule).__name__, "nn.Linear")
    assert_refused(model, errors.NoFeedbackPointError, *words, rule=rule, example_inputs=tokens()[0])


@pytest.mark.parametrize("thing", [None, "model", torch.zeros(3), Perceptron])
def test_only_modules_are_models(thing: Any) -> None:
    with pytest.raises(errors.FeedalignError) as caught:
        fa.attach(thing, fa.DFA(), example_inputs=x)
    assert_says(caught.value, errors.AttachError, "torch.nn.Module")


@pytest.mark.parametrize("first", [fa.DFA(), fa.FA(), fa.Backprop()])
@pytest.mark.parametrize("second", [fa.DFA(), fa.FA()])
@pytest.mark.parametrize("where", ["the model", "the model around it", "a part of it"])
def test_a_second_rule_is_refused(first: fa.Rule, second: fa.Rule, where: str) -> None:
    inner = sequential() if where == "the model around it" else Perceptron()
    outer = Wrapper(inner=inner)
    fa.attach(inner if where == "the model around it" else outer, first, example_inputs=x)
    model = inner if where == "a part of it" else outer
    words = ("attached", "already", "remove()", "one attach")
    assert_refused(model, errors.AlreadyAttachedError, *words, rule=second, example_inputs=x)


def test_a_removed_rule_makes_room_for_another() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x).remove()
    assert fa.attach(model, fa.FA(), example_inputs=x).rules == (fa.FA(),)


def compiled_whole() -> nn.Module:
    return torch.compile(Perceptron())


def compiled_in_place() -> nn.Module:
    model = Perceptron()
    model.compile()
    return model


def compiled_part() -> nn.Module:
    return Wrapper(inner=torch.compile(Perceptron()))


def part_compiled_in_place() -> nn.Module:
    model = Perceptron()
    model.act1.compile()
    return model


@pytest.mark.parametrize("make", [compiled_whole, compiled_in_place, compiled_part, part_compiled_in_place])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA()])
def test_compiled_models_are_refused(make: Any, rule: fa.Rule) -> None:
    words = ("compiled already", "Attach first")
    assert_refused(make(), errors.CompiledModelError, *words, rule=rule, example_inputs=x)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    model = torch.jit.trace(Perceptron(), x)
    with pytest.raises(errors.FeedalignError) as caught:
        fa.attach(model, fa.DFA(), example_inputs=x)
    assert_says(caught.value, errors.CompiledModelError, "TorchScript", "Python module")


def test_data_parallel_is_refused() -> None:
    words = ("DataParallel", "inside", "then wrap")
    assert_refused(nn.DataParallel(Perceptron()), errors.WrappedModelError, *words, example_inputs=x)


def test_data_parallel_inside_the_model_is_refused() -> None:
    model = Wrapper(inner=nn.DataParallel(Perceptron()))
    assert_refused(model, errors.WrappedModelError, "DataParallel", "inside", example_inputs=x)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_models_are_refused_until_they_ran_once() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(3))
    with pytest.raises(errors.FeedalignError) as caught:
        fa.attach(model, fa.DFA(), example_inputs=x)
    assert_says(caught.value, errors.ExampleInputsError, "lazy", "run it once")
    model(x)
    assert fa.attach(model, fa.DFA(), example_inputs=x).describe().rows


def zeroed(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.SignDFA(), fa.FA(), fa.FRSF()])
def test_rectifiers_behind_zero_weights_are_refused(activation: type[nn.Module], rule: fa.Rule) -> None:
    words = ("fc1", "zero", "act1", "random weights", "nn.Tanh")
    model = zeroed(Perceptron(activation=activation))
    assert_refused(model, errors.UnsuitableModelError, *words, rule=rule, example_inputs=x)


def test_a_rectifier_behind_a_convolution_of_zeros_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    zeroed(model[0])
    assert_refused(model, errors.UnsuitableModelError, "starts at zero", example_inputs=images()[0])


def test_zero_weights_under_tanh_do_learn() -> None:
    model = zeroed(Perceptron())
    fa.attach(model, fa.DFA(), example_inputs=x)
    nn.functional.cross_entropy(model(x), y).backward()
    assert model.fc1.bias.grad.any()


def test_zero_weights_with_a_bias_under_relu_do_learn() -> None:
    model = zeroed(Perceptron(activation=nn.ReLU))
    nn.init.constant_(model.fc1.bias, 0.1)
    nn.init.constant_(model.fc2.bias, 0.1)
    fa.attach(model, fa.DFA(), example_inputs=x)
    nn.functional.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad.any()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU])
def test_drtp_at_activations_that_never_saturate_is_refused(activation: type[nn.Module]) -> None:
    words = ("DRTP", "act1", activation.__name__, "nn.Tanh", "allow_unbounded=True")
    model = Perceptron(activation=activation)
    assert_refused(model, errors.UnsuitableModelError, *words, rule=fa.DRTP(), example_inputs=x)


def test_drtp_at_relu_can_be_insisted_on() -> None:
    model = Perceptron(activation=nn.ReLU)
    fa.attach(model, fa.DRTP(allow_unbounded=True), example_inputs=x)
    nn.functional.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad.any()


def test_a_leaking_skip_is_refused_when_strict() -> None:
    words = ("stem", "around the rule", "points=", "describe()")
    assert_refused(LeakySkip(), errors.UncutPathError, *words, example_inputs=x, strict=True)


def test_batch_normalization_needs_two_samples() -> None:
    words = ("example inputs", "two samples")
    assert_refused(Regularised(), errors.ExampleInputsError, *words, example_inputs=x[:1])


def test_an_attribute_of_the_stores_name_is_refused() -> None:
    model = Perceptron()
    model.feedalign = 3
    assert_refused(model, errors.AttachError, "feedalign", "attribute", example_inputs=x)


def test_attaching_under_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(errors.FeedalignError) as caught:
        fa.attach(Perceptron(), fa.DFA(), example_inputs=x)
    assert_says(caught.value, errors.AttachError, "inference_mode")


def test_attaching_under_no_grad_works() -> None:
    model = Perceptron()
    with torch.no_grad():
        fa.attach(model, fa.DFA(), example_inputs=x)
    nn.functional.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad.any()


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.FDFA(), fa.WeightPerturbed()], ids=repr)
def test_a_model_without_values_is_refused(rule: fa.Rule) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    with pytest.raises(errors.AttachError, match=r"meta device.*then attach"):
        fa.attach(model, rule, example_inputs=x.to("meta"))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class KeepsParameters(Perceptron):
    """Its checkpoints hold no buffers."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        names = dict(self.named_parameters())
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in names}


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.WeightPerturbed()], ids=repr)
def test_a_state_dict_of_the_models_own_that_would_lose_the_feedback_is_refused(rule: fa.Rule) -> None:
    words = ("KeepsParameters", "state_dict() of its own", "leaves out buffers", "'feedalign.'")
    assert_refused(KeepsParameters(), errors.AttachError, *words, rule=rule, example_inputs=x)


class KeepsBuffers(Perceptron):
    """Its checkpoints hold buffers alone."""

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        names = dict(self.named_buffers())
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in names}


EVERY_RULE = [rule() for rule in fa.ALL_RULES] + [fa.FDFA(update="ema")]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=repr)
def test_a_state_dict_of_the_models_own_is_refused_only_where_it_loses_something(rule: fa.Rule) -> None:
    store = fa.attach(Perceptron(), rule, example_inputs=x).store
    for model, lost in ((KeepsParameters(), store.buffers()), (KeepsBuffers(), store.parameters())):
        if any(True for _ in lost):
            assert_refused(model, errors.AttachError, "state_dict() of its own", rule=rule, example_inputs=x)
        else:
            fa.attach(model, rule, example_inputs=x)


class Forwarding(nn.Module):
    """A wrapper with the state_dict of the model inside."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Perceptron()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.module.state_dict(*args, **kwargs)


def test_a_wrapper_with_the_state_dict_of_the_model_inside_is_refused() -> None:
    words = ("a wrapper (Forwarding)", "Attach to the model inside")
    assert_refused(Forwarding(), errors.WrappedModelError, *words, example_inputs=x)
    fa.attach(Forwarding().module, fa.DFA(), example_inputs=x)
