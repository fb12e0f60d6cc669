"""Tangents carried by hand: layouts, blocks, frozen parts and mixtures; another path than at attach is an error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.model_state import left_as_it_was
from attach.models import (
    NUM_CLASSES,
    Convolutional,
    Perceptron,
    Repeats,
    Seeded,
    TakesBranch,
    batch,
    images,
)
from integration.by_hand import gradients_by_hand
from integration.gradients import (
    AVERAGED,
    PERTURBING,
    Gradients,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    direct_feedback,
    draws_recorded,
    gradients,
    gradients_of_step,
    numbered_gradients,
    own_gradients,
    set_clock,
    step,
)

x, y = batch()
pictures, labels = images()
names = {"ids": lambda rule: rule.name}
TRAVELING = [fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()]


class Flattens(Convolutional):
    """Flattens in one of several ways."""

    WAYS: tuple[str, ...] = ("view", "reshape", "torch.flatten", "nn.Flatten", "unflatten and flatten", "unsqueeze")

    def build(self, way: str = "view") -> None:
        super().build()
        self.way, self.flat = way, nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act2(self.conv2(self.pool(self.act1(self.conv1(x)))))
        return self.fc2(self.act3(self.fc1(self.flattened(h))))

    def flattened(self, h: Tensor) -> Tensor:
        if self.way == "view":
            return h.view(len(h), -1)
        if self.way == "reshape":
            return h.reshape(-1, 12)
        if self.way == "torch.flatten":
            return torch.flatten(h, 1)
        if self.way == "nn.Flatten":
            return self.flat(h)
        if self.way == "unsqueeze":
            return h.unsqueeze(0).squeeze(0).flatten(1)
        return h.unflatten(1, (3, 1)).flatten(1)


class Blocks(Seeded):
    """Layer, normalization and activation in a container each."""

    def build(self) -> None:
        self.block1 = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU())
        self.block2 = nn.Sequential(nn.Linear(7, 6), nn.Dropout(0.3), nn.Tanh())
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block2(self.block1(x)))


class Nested(Blocks):
    """Containers in a container."""

    def build(self) -> None:
        super().build()
        self.body = nn.Sequential(self.block1, self.block2)
        del self.block1, self.block2

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def assert_as_by_hand(
    make: Callable[[], nn.Module], rule: fa.Rule, inputs: Tensor, targets: Tensor, at: list[str], **options: Any
) -> None:
    """One step in double precision, without dual tensors."""
    model = attached(lambda: make().double(), rule, inputs.double(), **options)
    assert not fa.handle_of(model).uses_dual_tensors
    with torch.random.fork_rng():
        torch.manual_seed(3)
        with draws_recorded() as drawn:
            step(model, inputs.double(), targets)
        torch.manual_seed(3)
        feedback = direct_feedback(model)
        expected = gradients_by_hand(make().double(), rule, feedback, inputs.double(), targets, at, drawn)
    assert_same_gradients(numbered_gradients(model), expected, tolerance=1e-12)


@pytest.mark.parametrize("rule", PERTURBING, **names)
@pytest.mark.parametrize("way", Flattens.WAYS)
def test_tangents_are_flattened_as_activations_are(rule: fa.Rule, way: str) -> None:
    assert_as_by_hand(lambda: Flattens(way=way), rule, pictures, labels, ["act1", "act2", "act3"])


@pytest.mark.parametrize("rule", PERTURBING, **names)
@pytest.mark.parametrize(("make", "points"), [
    (Blocks, ["block1", "block2"]),
    (Blocks, ["block1.2", "block2"]),
    (Blocks, ["block1", "block2.1"]),
    (Nested, ["body.0", "body.1"]),
    (Nested, ["body.0.0", "body"]),
])  # fmt: skip
def test_whole_blocks_may_be_points(rule: fa.Rule, make: type[nn.Module], points: list[str]) -> None:
    assert_as_by_hand(make, rule, x, y, points, points=points)


@pytest.mark.parametrize("rule", TRAVELING, **names)
@pytest.mark.parametrize("frozen", [["conv1"], ["conv1", "conv2"], ["conv2"], ["fc1"], ["fc2"], ["conv1", "fc2"]])
def test_frozen_layers_are_passed(rule: fa.Rule, frozen: list[str]) -> None:
    def make() -> nn.Module:
        model = Convolutional()
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        return model

    assert_as_by_hand(make, rule, pictures, labels, ["act1", "act2", "act3"])


@pytest.mark.parametrize("rule", PERTURBING, **names)
@pytest.mark.parametrize("is_last_at_attach", [True, False])
def test_channels_last_learns_alike(rule: fa.Rule, is_last_at_attach: bool) -> None:
    inputs = pictures.double().to(memory_format=torch.channels_last)
    plain = attached(lambda: Convolutional().double(), rule, pictures.double())
    model = Convolutional().double()
    if is_last_at_attach:
        model.to(memory_format=torch.channels_last)
    attached(lambda: model, rule, inputs if is_last_at_attach else pictures.double())
    model.to(memory_format=torch.channels_last)
    for _ in range(2):
        step(plain, pictures.double(), labels)
    try:
        for _ in range(2):
            step(model, inputs, labels)
    except fa.errors.PointNotFiredError:  # to flatten such images takes a copy, which was not there before
        assert not is_last_at_attach
    else:
        assert_same_gradients(gradients(model), gradients(plain), tolerance=1e-12)


@pytest.mark.parametrize("rule", PERTURBING, **names)
@pytest.mark.parametrize("size", [1, 3])
def test_batches_of_another_size_and_layout_learn_as_if_attached_with_them(rule: fa.Rule, size: int) -> None:
    model, other = attached(Convolutional, rule, pictures), attached(Convolutional, rule, pictures[:size])
    transposed = pictures[:size].transpose(2, 3).contiguous().transpose(2, 3)
    found, expected = (gradients_of_step(one, transposed, labels[:size]) for one in (model, other))
    assert_same_gradients(found, expected, tolerance=0)
    set_clock(model, like=attached(Convolutional, rule, pictures))
    assert_same_gradients(gradients_of_step(model, pictures[:size], labels[:size]), expected)


@pytest.mark.parametrize("rule", TRAVELING, **names)
def test_a_branch_not_taken_is_refused(rule: fa.Rule) -> None:
    model, plain = attached(TakesBranch, rule, x), attached(TakesBranch, rule, x)
    model.short = True
    with pytest.raises(fa.errors.PointNotFiredError, match="another path"):
        model(x)
    model.short = False
    set_clock(plain, like=model)
    assert_same_gradients(gradients_of_step(model, x, y), gradients_of_step(plain, x, y), tolerance=0)


@pytest.mark.parametrize("rule", TRAVELING, **names)
@pytest.mark.parametrize("times", [1, 3])
def test_a_layer_that_runs_more_or_less_often_is_refused(rule: fa.Rule, times: int) -> None:
    model = attached(Repeats, rule, x)
    model.times = times
    with pytest.raises(fa.errors.PointNotFiredError):
        model(x)


class Detours(Perceptron):
    """An operation outside the modules that comes only after attach."""

    detour: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.fc1(x))
        h = h if self.detour is None else self.detour(h)
        return self.head(self.act2(self.fc2(h)))


DETOURS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda h: h + 0.0,
    "product": lambda h: 2.0 * h,
    "permutation": lambda h: h.flip(1),
    "part": lambda h: torch.cat([h[:, :3], h[:, 3:]], 1),
    "copy": lambda h: h.clone(),
}


@pytest.mark.parametrize("rule", TRAVELING, **names)
@pytest.mark.parametrize("detour", DETOURS.values(), ids=DETOURS)
def test_an_operation_that_comes_between_is_refused(rule: fa.Rule, detour: Callable[[Tensor], Tensor]) -> None:
    model = attached(Detours, rule, x)
    model.detour = detour
    with pytest.raises(fa.errors.PointNotFiredError, match=r"what 'act1' returned did not arrive.*same path"):
        model(x)
    model.detour = None
    step(model, x, y)


@pytest.mark.parametrize("rule", TRAVELING, **names)
@pytest.mark.parametrize("module", ["fc1", "act1", "fc2", "act2"])
def test_a_hook_registered_after_attach_may_look_but_not_replace(rule: fa.Rule, module: str) -> None:
    model, plain, seen = attached(Perceptron, rule, x), attached(Perceptron, rule, x), []
    looks = model.get_submodule(module).register_forward_hook(lambda m, args, output: seen.append(output.shape))
    for one in (model, plain):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(plain), tolerance=0)
    assert len(seen) == 1
    looks.remove()
    model.get_submodule(module).register_forward_hook(lambda m, args, output: output * 2)
    with pytest.raises(fa.errors.PointNotFiredError, match=rf"what '{module}' returned.*must be there before attach"):
        model(x)


@pytest.mark.parametrize("rule", TRAVELING, **names)
def test_a_hook_registered_before_attach_that_replaces_is_followed(rule: fa.Rule) -> None:
    def make() -> nn.Module:
        model = Perceptron().double()
        model.act2.register_forward_hook(lambda m, args, output: output * 2)
        return model

    model = attached(make, rule, x.double())
    with draws_recorded() as drawn:
        step(model, x.double(), y)
    expected = gradients_by_hand(make(), rule, direct_feedback(model), x.double(), y, ["act1", "act2"], drawn)
    assert_same_gradients(numbered_gradients(model), expected, tolerance=1e-12)
    assert_hidden_layers_learn(gradients(model), rule)


class InPlace(Perceptron):
    """An operation in place between two modules."""

    def build(self, act: Callable[[Tensor], object] = F.relu_, is_on: bool = True) -> None:
        super().build()
        self.operate, self.is_on = act, is_on

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc2(self.act1(self.fc1(x)))
        if self.is_on:
            self.operate(h)
        return self.head(self.act2(h))


def doubled_first_column(h: Tensor) -> None:
    h[:, 0] *= 2


IN_PLACE: dict[str, Callable[[Tensor], object]] = {
    "relu_": F.relu_,
    "mul_": lambda h: h.mul_(2),
    "tanh_": torch.tanh_,
    "column": doubled_first_column,
}


@pytest.mark.parametrize("rule", TRAVELING, **names)
@pytest.mark.parametrize("operate", IN_PLACE.values(), ids=IN_PLACE)
def test_an_operation_in_place_between_modules_is_differentiated(
    rule: fa.Rule, operate: Callable[[Tensor], object]
) -> None:
    def make() -> nn.Module:
        return InPlace(act=operate).double()

    model = attached(make, rule, x.double())
    with draws_recorded() as drawn:
        step(model, x.double(), y)
    expected = gradients_by_hand(make(), rule, direct_feedback(model), x.double(), y, ["act1", "act2"], drawn)
    assert_same_gradients(numbered_gradients(model), expected, tolerance=1e-12)


@pytest.mark.parametrize("rule", TRAVELING, **names)
@pytest.mark.parametrize("operate", IN_PLACE.values(), ids=IN_PLACE)
def test_an_operation_in_place_that_comes_after_attach_is_refused(
    rule: fa.Rule, operate: Callable[[Tensor], object]
) -> None:
    model = attached(lambda: InPlace(act=operate, is_on=False), rule, x)
    step(model, x, y)
    model.is_on = True
    with pytest.raises(fa.errors.PointNotFiredError, match=r"what 'fc2' returned did not arrive"):
        model(x)


class Drops(Seeded):
    """Dropout of whole channels and of single units, and batch normalization."""

    def build(self) -> None:
        self.conv, self.norm, self.act1 = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.drop1, self.pool, self.flat = nn.Dropout2d(0.4), nn.AvgPool2d(2), nn.Flatten()
        self.fc1, self.norm2, self.act2 = nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Tanh()
        self.drop2, self.head = nn.Dropout(0.4), nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.flat(self.pool(self.drop1(self.act1(self.norm(self.conv(x))))))
        return self.head(self.drop2(self.act2(self.norm2(self.fc1(h)))))


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_dropout_and_batch_normalization_go_on_as_in_the_plain_model(rule: fa.Rule) -> None:
    model, plain = attached(Drops, rule, pictures), Drops()
    states = []
    for one in (model, plain):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            outputs = [one(pictures) for _ in range(2)]
            states.append((outputs, torch.get_rng_state()))
    (found, state), (expected, plain_state) = states
    assert torch.equal(state, plain_state), "as many numbers are drawn"
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert dict(plain.named_buffers()).keys() <= dict(model.named_buffers()).keys()
    for name, buffer in plain.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_dropout_and_batch_normalization_are_differentiated(rule: fa.Rule) -> None:
    assert_as_by_hand(Drops, rule, pictures, labels, ["act1", "act2"])


def separately(rule: fa.Rule, points: list[str], feedback: dict[str, Tensor] | None = None) -> Gradients:
    """A rule at some points of a model whose other layers below are cut off by these points."""
    model = attached(
        Convolutional, rule, pictures, points=points, **({} if feedback is None else {"feedback": feedback})
    )
    step(model, pictures, labels)
    return gradients(model)


@pytest.mark.parametrize("rule", [fa.DKP(), fa.FDFA(), fa.FDFA(num_perturbations=2), AVERAGED], ids=repr)
@pytest.mark.parametrize("below", [fa.Shallow(), fa.DFA(), fa.Backprop()], **names)
def test_mixtures_with_learned_feedback_above(rule: fa.Rule, below: fa.Rule) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes = {"act1": (3, 144), "act2": (3, 12), "act3": (3, 8)}
    matrices = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    given = matrices if isinstance(below, fa.DFA) else {"act3": matrices["act3"]}
    mixture = {"conv*": below, "fc*": rule}
    model = attached(Convolutional, mixture, pictures, feedback=given)
    assert not fa.handle_of(model).uses_dual_tensors
    step(model, pictures, labels)
    above = separately(rule, ["act3"], {"act3": matrices["act3"]})
    convolutions = {name: grad for name, grad in above.items() if name.startswith("conv")}
    if isinstance(below, fa.Shallow):
        convolutions = dict.fromkeys(convolutions)
    if isinstance(below, fa.DFA):
        alone = separately(below, ["act1", "act2"], {name: matrices[name] for name in ("act1", "act2")})
        convolutions = {name: alone[name] for name in convolutions}
    assert_same_gradients(gradients(model), above | convolutions)
    names = [name for name, _ in fa.handle_of(model).store.named_parameters()]
    assert names == (["act3"] if rule != AVERAGED else [])


@pytest.mark.parametrize("rule", [fa.ActivityPerturbed(), fa.FDFA()], **names)
def test_mixtures_with_perturbed_layers_below_and_a_fixed_rule_above(rule: fa.Rule) -> None:
    """The tangent passes the point of the other rule."""
    model = attached(lambda: Convolutional().double(), {"conv*": rule, "fc*": fa.DFA()}, pictures.double())
    with draws_recorded() as drawn:
        step(model, pictures.double(), labels)
    assert [tuple(d.shape) for d in drawn] == [(1, 4, 4, 6, 6), (1, 4, 3, 2, 2)]
    feedback = {name: b for name, b in direct_feedback(model).items() if name != "act3"}
    plain = Convolutional().double()
    expected = gradients_by_hand(plain, rule, feedback, pictures.double(), labels, ["act1", "act2"], drawn)
    found = numbered_gradients(model)
    for name in (n for n in found if n.startswith(("conv", "feedback"))):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_rules_with_other_numbers_of_perturbations_do_not_mix() -> None:
    rules = {"conv*": fa.ActivityPerturbed(num_perturbations=2), "fc*": fa.FDFA()}
    model = Convolutional()
    with left_as_it_was(model), pytest.raises(fa.errors.AttachError, match=r"1 and 2 perturbations.*same"):
        fa.attach(model, rules, example_inputs=pictures)


@pytest.mark.parametrize("rule", [fa.WeightPerturbed(), fa.NoisyBackprop()], **names)
def test_rules_of_parameters_mix_with_no_other(rule: fa.Rule) -> None:
    model = Convolutional()
    with left_as_it_was(model), pytest.raises(fa.errors.AttachError, match=r"mixes with no other rule.*requires_grad_"):
        fa.attach(model, {"conv*": rule, "fc*": fa.DFA()}, example_inputs=pictures)


def test_local_heads_above_frozen_or_shallow_layers() -> None:
    model = attached(Convolutional, {"conv1": fa.Shallow(), "*": fa.LocalGreedy()}, pictures)
    step(model, pictures, labels)
    assert model.conv1.weight.grad is None
    assert model.conv2.weight.grad.any()
    assert list(dict(fa.handle_of(model).store.named_parameters())) == ["act2", "act2_bias"]


def deep(num_layers: int = 24, width: int = 64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [part for _ in range(num_layers) for part in (nn.Linear(width, width), nn.Tanh())]
        return nn.Sequential(*parts, nn.Linear(width, NUM_CLASSES))


def test_perturbed_weights_keep_no_graph() -> None:
    model = attached(deep, fa.WeightPerturbed(), torch.randn(4, 64))
    waiting, seen = [model(torch.randn(4, 64)).grad_fn], set()
    while waiting:
        node = waiting.pop()
        seen.add(node.name())
        waiting += [child for child, _ in node.next_functions if child is not None]
    assert seen == {"BroadcastBackward", "torch::autograd::AccumulateGrad"}


def test_perturbed_weights_need_less_memory_than_backprop() -> None:
    inputs, targets = torch.randn(1024, 64), torch.zeros(1024, dtype=torch.int64)
    plain, model = deep(), attached(deep, fa.WeightPerturbed(), inputs)
    peaks = []
    for one in (plain, model):
        step(one, inputs, targets)
        one.zero_grad(set_to_none=False)
        peaks.append(fa.measure.peak_memory(lambda one=one: F.cross_entropy(one(inputs), targets).backward()))
    activations = 24 * 1024 * 64 * 4
    assert peaks[0] > activations
    assert peaks[1] < peaks[0] / 3
    assert own_gradients(model).keys() == gradients(plain).keys()
