"""Forwards in which the rule could not act: refused as they happen, never silently backprop or nothing at all."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import (
    NUM_CLASSES,
    NUM_INPUTS,
    OneNumber,
    Perceptron,
    Repeats,
    ReturnsDict,
    Seeded,
    TakesBranch,
    TakesItsLastChild,
    Wrapper,
    batch,
    images,
)
from attach.refusal import assert_says
from feedalign import errors

x, y = batch()
LEARNED = [fa.DKP(), fa.FDFA()]
DIRECT = [fa.Shallow(), fa.DFA(), fa.SignDFA(), fa.DRTP(), *LEARNED, fa.ActivityPerturbed()]
RULES = [*DIRECT, fa.FA(), fa.BRSF(), fa.WeightPerturbed()]
PERTURBING = (fa.FDFA, fa.ActivityPerturbed, fa.WeightPerturbed)


def not_from_zero(rule: fa.Rule) -> dict[str, Any]:
    return {"feedback": fa.KaimingUniform()} if rule in LEARNED else {}


def refusal_of(step: Callable[[], Any]) -> errors.FeedalignError:
    with pytest.raises(errors.FeedalignError) as caught:
        step()
    return caught.value


@pytest.mark.parametrize("rule", RULES)
def test_a_branch_not_taken_is_refused(rule: fa.Rule) -> None:
    model = TakesBranch()
    fa.attach(model, rule, example_inputs=x)
    model.short = True
    missing = "fc2" if isinstance(rule, (fa.FA, fa.BRSF)) else "act2"
    caught = refusal_of(lambda: model(x))
    words = ("another path",) if isinstance(rule, PERTURBING) else (missing, "did not fire", "another path", "points=")
    assert_says(caught, errors.PointNotFiredError, *words)
    model.short = False
    F.cross_entropy(model(x), y).backward()


def test_a_branch_left_out_of_the_points_may_be_skipped() -> None:
    model = TakesBranch()
    fa.attach(model, fa.DFA(), example_inputs=x, points="act1")
    for model.short in (True, False):
        F.cross_entropy(model(x), y).backward()


@pytest.mark.parametrize("rule", DIRECT)
def test_a_point_that_fires_more_often_is_refused(rule: fa.Rule) -> None:
    model = Repeats()
    fa.attach(model, rule, example_inputs=x)
    model.times = 3
    caught = refusal_of(lambda: model(x))
    assert_says(caught, errors.PointNotFiredError, "'act'", "3 times", "2 times", "example inputs", "points=")


@pytest.mark.parametrize("rule", DIRECT)
def test_a_point_that_fires_less_often_is_refused(rule: fa.Rule) -> None:
    model = Repeats()
    fa.attach(model, rule, example_inputs=x)
    model.times = 1
    words = ("another path",) if isinstance(rule, PERTURBING) else ("act#2", "did not fire")
    assert_says(refusal_of(lambda: model(x)), errors.PointNotFiredError, *words)


@pytest.mark.parametrize("rule", DIRECT)
def test_a_part_called_on_its_own_with_gradients_is_refused(rule: fa.Rule) -> None:
    model = Wrapper()
    handle = fa.attach(model, rule, example_inputs=x)
    words = ("inner.act1", "outside the forward", "Call the model itself", "torch.no_grad()", "handle.remove()")
    assert_says(refusal_of(lambda: model.inner(x)), errors.OutsideForwardError, *words)
    with torch.no_grad():
        model.inner(x)
    handle.remove()
    model.inner(x).sum().backward()


@pytest.mark.parametrize("rule", [fa.WeightPerturbed(), fa.NoisyBackprop(), fa.BRSF()], ids=repr)
def test_a_layer_run_on_its_own_with_gradients_is_refused_where_its_rule_draws(rule: fa.Rule) -> None:
    model = Wrapper()
    handle = fa.attach(model, rule, example_inputs=x)
    words = ("inner.fc", "outside the forward", "Call the model itself", "torch.no_grad()", "handle.remove()")
    assert_says(refusal_of(lambda: model.inner(x)), errors.OutsideForwardError, *words)
    with torch.no_grad():
        model.inner(x)
    with handle.suspended():
        model.inner(x)
    handle.remove()
    model.inner(x).sum().backward()


class SqueezesAll(OneNumber):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


def test_a_single_sample_squeezed_to_a_number_is_no_loss() -> None:
    model = SqueezesAll()
    fa.attach(model, fa.NoisyBackprop(), example_inputs=x)
    model(x[:1]).backward()
    assert model.fc1.weight.grad.any()
    model = SqueezesAll()
    fa.attach(model, fa.DFA(), example_inputs=x)
    assert_says(refusal_of(lambda: model(x[:1])), errors.FeedbackShapeError, "positions ()")


class InADict(SqueezesAll):
    def forward(self, inputs: dict[str, list[Tensor]]) -> Tensor:
        return super().forward(inputs["x"][0])


@pytest.mark.parametrize("rule", [fa.Shallow(), fa.NoisyBackprop()], ids=repr)
@pytest.mark.parametrize("way", ["by name", "in a dict"])
def test_a_single_sample_is_found_wherever_it_is(rule: fa.Rule, way: str) -> None:
    model, given = (SqueezesAll(), {"x": x}) if way == "by name" else (InADict(), ({"x": [x]},))
    fa.attach(model, rule, example_inputs=given)
    (model(x=x[:1]) if way == "by name" else model({"x": [x[:1]]})).backward()
    assert model.head.weight.grad.any()


@pytest.mark.parametrize(
    "rule", [fa.WeightPerturbed(), fa.WeightPerturbed(per="sample"), fa.ActivityPerturbed(), *LEARNED], ids=repr
)
def test_rules_that_count_samples_refuse_a_number(rule: fa.Rule) -> None:
    model = SqueezesAll()
    fa.attach(model, rule, example_inputs=x, **not_from_zero(rule))
    words = ["positions ()"] if isinstance(rule, fa.DKP) else ["single number", "squeeze(-1)"]
    assert_says(refusal_of(lambda: model(x[:1])), errors.FeedbackShapeError, *words)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.NoisyBackprop()], ids=repr)
def test_a_loss_in_the_place_of_the_output_is_refused(rule: fa.Rule) -> None:
    class Losing(Perceptron):
        losing = False

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).square().mean() if self.losing else super().forward(x)

    model = Losing()
    fa.attach(model, rule, example_inputs=x)
    model.losing = True
    assert_says(refusal_of(lambda: model(x)), errors.OutsideForwardError, "most likely its loss", "network inside")


@pytest.mark.parametrize("rule", DIRECT)
def test_the_forward_method_called_past_the_model_is_refused(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    assert_says(refusal_of(lambda: model.forward(x)), errors.OutsideForwardError, "act1", "Call the model itself")


@pytest.mark.parametrize("rule", DIRECT)
def test_a_part_called_after_a_forward_that_failed_is_refused(rule: fa.Rule) -> None:
    model = Wrapper()
    fa.attach(model, rule, example_inputs=x)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(x[:, :3])
    assert_says(refusal_of(lambda: model.inner(x)), errors.OutsideForwardError, "inner.act1", "outside the forward")


def test_an_output_module_that_does_not_fire_is_refused() -> None:
    class Skips(ReturnsDict):
        def forward(self, *, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            if labels is not None:
                return super().forward(inputs=inputs)
            return {"features": self.act2(self.fc2(self.act1(self.fc1(inputs))))}

    model = Skips()
    fa.attach(model, fa.DFA(), example_inputs={"inputs": x, "labels": y}, output="head")
    caught = refusal_of(lambda: model(inputs=x))
    assert_says(caught, errors.PointNotFiredError, "output=", "did not fire")


@pytest.mark.parametrize("rule", [fa.DFA(), fa.SignDFA(), fa.Shallow()])
def test_a_detach_inside_the_forward_is_refused(rule: fa.Rule) -> None:
    class Detaches(Perceptron):
        off = False

        def forward(self, x: Tensor) -> Tensor:
            a = self.fc1(x)
            return self.head(self.act2(self.fc2(self.act1(a.detach() if self.off else a))))

    model = Detaches()
    fa.attach(model, rule, example_inputs=x)
    model.off = True
    if isinstance(rule, fa.Shallow):
        model(x)
        return
    words = ("act1", "cannot teach", "fc1.weight", "no gradient", "use_reentrant=False")
    assert_says(refusal_of(lambda: model(x)), errors.UntaughtLayerError, *words)


def test_a_copy_for_data_parallel_is_refused() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x)
    replica = model._replicate_for_data_parallel()
    words = ("DataParallel", "DistributedDataParallel")
    assert_says(refusal_of(lambda: replica(x)), errors.WrappedModelError, *words)


def test_images_of_another_size_are_refused() -> None:
    class AnySize(Seeded):
        def build(self) -> None:
            self.conv, self.act = nn.Conv2d(2, 4, 3), nn.Tanh()
            self.head = nn.Linear(4, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.conv(x)).mean((2, 3)))

    model = AnySize()
    fa.attach(model, fa.DFA(), example_inputs=images()[0])
    words = ("act", "(2, 4, 6, 6)", "144", "64", "Attach again", 'positions="shared"')
    wide = torch.randn(2, 2, 8, 8)
    assert_says(refusal_of(lambda: model(wide)), errors.FeedbackShapeError, *words)
    fa.handle_of(model).remove()
    fa.attach(model, fa.DFA(positions="shared"), example_inputs=images()[0])
    model(wide).sum().backward()


def test_a_layer_of_another_width_is_refused() -> None:
    model = Perceptron()
    fa.attach(model, fa.DFA(), example_inputs=x)
    model.fc2, model.head = nn.Linear(7, 8), nn.Linear(8, NUM_CLASSES)
    caught = refusal_of(lambda: model(x))
    assert_says(caught, errors.FeedbackShapeError, "act2", "8 features", "6", "Attach again")


@pytest.mark.parametrize("rule", [*LEARNED, fa.ActivityPerturbed(), fa.LocalGreedy(), fa.WeightPerturbed()])
def test_an_output_layer_put_in_after_attach_is_refused(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    model.head = nn.Linear(6, 4)
    caught = refusal_of(lambda: model(x))
    assert isinstance(caught, errors.FeedbackShapeError if isinstance(rule, fa.DKP) else errors.PointNotFiredError)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.SignDFA(), fa.DRTP()])
def test_an_output_of_another_size_is_refused(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    model.head = nn.Linear(6, 4)
    caught = refusal_of(lambda: F.cross_entropy(model(x), y).backward())
    assert_says(caught, errors.FeedbackShapeError, "4 outputs", "3", "attach it again")


@pytest.mark.parametrize("rule", [fa.FA(), fa.BRSF()])
def test_a_layer_replaced_under_a_layerwise_rule_is_refused(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    model.fc2 = nn.Linear(7, 6)
    assert_says(refusal_of(lambda: model(x)), errors.PointNotFiredError, "fc2", "did not fire")


def test_a_layer_called_on_its_own_does_not_count_as_called_in_the_next_forward() -> None:
    model = Perceptron()
    fa.attach(model, fa.FA(), example_inputs=x)
    old = model.fc2
    model.fc2 = nn.Linear(7, 6)
    old(torch.zeros(5, 7))
    assert_says(refusal_of(lambda: model(x)), errors.PointNotFiredError, "fc2", "did not fire")


@pytest.mark.parametrize("rule", [*DIRECT, fa.WeightPerturbed()])
def test_a_layer_unfrozen_after_attach_never_gets_exact_backprop(rule: fa.Rule) -> None:
    model = Perceptron()
    model.fc1.requires_grad_(False)
    fa.attach(model, rule, example_inputs=x)
    model.fc1.requires_grad_(True)
    words = ("fc1.weight", "frozen", "attach it again")
    assert_says(refusal_of(lambda: model(x)), errors.UntaughtLayerError, *words)


def test_a_layer_unfrozen_after_its_parameters_were_replaced_is_noticed() -> None:
    model = Perceptron()
    model.fc1.requires_grad_(False)
    fa.attach(model, fa.DFA(), example_inputs=x)
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    model.fc1.requires_grad_(True)
    assert_says(refusal_of(lambda: model(x)), errors.UntaughtLayerError, "fc1.weight", "attach it again")


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_frozen_after_attach_is_left_alone(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x)
    model.fc1.requires_grad_(False)
    F.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad is None
    assert model.head.weight.grad.any()


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.Backprop()])
def test_a_forward_that_the_store_would_change_is_refused_or_kept(rule: fa.Rule) -> None:
    model = TakesItsLastChild()
    expected = model(x)
    with suppress(errors.AttachError):
        fa.attach(model, rule, example_inputs=x)
    assert torch.equal(model(x), expected)


class Peeks(Seeded):
    """The hidden layers also run without gradients within the forward."""

    def build(self) -> None:
        self.fc1, self.act1, self.head = nn.Linear(NUM_INPUTS, 7), nn.Tanh(), nn.Linear(7, NUM_CLASSES)

    def run(self, x: Tensor) -> Tensor:
        return self.head(self.act1(self.fc1(x)))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            baseline = self.run(x)
        return self.run(x) - baseline.mean()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("output", [None, "head"])
def test_a_pass_without_gradients_inside_the_forward_works(rule: fa.Rule, output: str | None) -> None:
    model = Peeks()
    handle = fa.attach(model, rule, example_inputs=x, output=output, **not_from_zero(rule))
    F.cross_entropy(model(x), y).backward()
    if not isinstance(rule, fa.Shallow):
        assert model.fc1.weight.grad.any()
    assert all(row.fired is not False for row in handle.describe().rows)


@pytest.mark.parametrize("rule", RULES)
def test_a_forward_that_failed_leaves_nothing_behind(rule: fa.Rule) -> None:
    model, untroubled = Perceptron(), Perceptron()
    for one in (model, untroubled):
        fa.attach(one, rule, example_inputs=x, **not_from_zero(rule))
    if isinstance(rule, (fa.BRSF, *PERTURBING)):
        untroubled(x)  # a failed forward draws, too
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(x[:, :3])
    for one in (model, untroubled):
        F.cross_entropy(one(x), y).backward()
    for one, other in zip(model.parameters(), untroubled.parameters(), strict=True):
        assert one.grad is None or torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("rule", RULES)
def test_a_parametrization_added_after_attach_works(rule: fa.Rule) -> None:
    model = Perceptron()
    fa.attach(model, rule, example_inputs=x, **not_from_zero(rule))
    nn.utils.parametrizations.weight_norm(model.fc1)
    if isinstance(rule, fa.WeightPerturbed):
        assert isinstance(refusal_of(lambda: model(x)), errors.FeedalignError)
        return
    F.cross_entropy(model(x), y).backward()
    assert isinstance(rule, fa.Shallow) or model.fc1.parametrizations.weight.original0.grad.any()


def test_a_parametrization_added_after_attach_works_when_streaming() -> None:
    model = Perceptron()
    handle = fa.attach(model, fa.DRTP(), example_inputs=x)
    nn.utils.parametrizations.weight_norm(model.fc1)
    handle.targets(y)
    model(x)
    assert model.fc1.parametrizations.weight.original0.grad.any()


class ChangesInPlace(Seeded):
    """What the first non-linearity returns is doubled in place, as its derivative allows."""

    def build(self) -> None:
        self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.GELU()
        self.fc2, self.act2 = nn.Linear(7, 6), nn.GELU()
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(x)).mul_(2))))


@pytest.mark.parametrize("rule", [fa.DKP(), fa.LocalGreedy()])
def test_an_activation_that_is_read_and_changed_in_place_is_refused(rule: fa.Rule) -> None:
    model = ChangesInPlace()
    fa.attach(model, rule, example_inputs=x)
    assert_says(refusal_of(lambda: model(x)), errors.ChangedActivationError, "'act1'", "h = h * 2")
    with torch.no_grad():
        assert torch.equal(model(x), ChangesInPlace()(x))


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DRTP(allow_unbounded=True), fa.FDFA(), fa.ActivityPerturbed()])
def test_an_activation_that_is_not_read_may_be_changed_in_place(rule: fa.Rule) -> None:
    model = ChangesInPlace()
    fa.attach(model, rule, example_inputs=x, **not_from_zero(rule))
    F.cross_entropy(model(x), y).backward()
    assert model.fc1.weight.grad.any()


class UsesItsInputAgain(Seeded):
    """What is given to a non-linearity that works in place is added behind it: its activation once more, uncut."""

    def build(self, *, uses_it: bool = True) -> None:
        self.uses_it = uses_it
        self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.ReLU(inplace=True)
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc1(x)
        h = self.act1(z)
        return self.head(h + (z if self.uses_it else h))


@pytest.mark.parametrize("rule", [fa.Shallow(), fa.DFA(), fa.FDFA()])
def test_the_input_of_a_point_that_works_in_place_is_not_used_behind_it(rule: fa.Rule) -> None:
    model = UsesItsInputAgain()

    def run() -> None:
        # Rules that perturb run the model once as they are attached.
        if not hasattr(model, "feedalign"):
            fa.attach(model, rule, example_inputs=x)
        model(x)

    for _ in range(2):
        assert_says(refusal_of(run), errors.ChangedActivationError, "'act1'", "inplace=False")
    other = UsesItsInputAgain(uses_it=False)
    fa.attach(other, rule, example_inputs=x)
    for _ in range(2):
        other(x).sum().backward()
