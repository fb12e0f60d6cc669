"""Tangents as dual tensors, on models with operations outside the modules: nothing of them is left behind, ever."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from attach.model_state import left_as_it_was
from attach.models import Functional, Perceptron, Residual, Seeded, batch
from attach.refusal import assert_refused, assert_says
from attach.sequence_models import Attentive, TiedWeights, tokens
from integration.by_hand import gradients_by_hand
from integration.gradients import (
    PERTURBING,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    draws_recorded,
    gradients,
    gradients_of_step,
    own_gradients,
    set_clock,
    step,
)

x, y = batch()
names = {"ids": lambda rule: rule.name}


@pytest.fixture(autouse=True)
def no_level_is_left() -> Iterator[None]:
    yield
    level, forward_ad._current_level = forward_ad._current_level, -1
    assert level == -1, "a dual level is still entered"


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_the_description_says_why(rule: fa.Rule) -> None:
    handle = fa.attach(Functional(), rule, example_inputs=x)
    assert handle.uses_dual_tensors
    notes = "\n".join(handle.describe().notes)
    assert "dual tensors" in notes
    assert "torch.compile" in notes
    assert "the model's output is made by an operation outside the modules (MulBackward0)" in notes
    by_hand = fa.attach(Perceptron(), rule, example_inputs=x)
    assert not by_hand.uses_dual_tensors
    assert by_hand.describe().notes == ()


@pytest.mark.parametrize("rule", [
    fa.FDFA(num_perturbations=2),
    fa.ActivityPerturbed(num_perturbations=2),
    fa.LocalGreedy(num_perturbations=2),
    fa.WeightPerturbed(num_perturbations=2),
    fa.WeightPerturbed(per="sample"),
], ids=repr)  # fmt: skip
def test_more_than_one_direction_is_refused(rule: fa.Rule) -> None:
    option = 'per="sample"' if rule.num_perturbations == 1 else "num_perturbations=2"
    way_out = 'Use per="batch"' if rule.num_perturbations == 1 else "forward and backward several times"
    words = (option, "carried by hand", "MulBackward0", way_out)
    assert_refused(Functional(), fa.errors.AttachError, *words, rule=rule, example_inputs=x)


class Bag(Seeded):
    """A sum of embeddings, which has no forward-mode derivative."""

    def build(self) -> None:
        self.bag, self.act, self.head = nn.EmbeddingBag(11, 5, mode="sum"), nn.Tanh(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.bag(x)))


class LongShort(Seeded):
    """An LSTM between two activations."""

    def build(self) -> None:
        self.embedding, self.act1 = nn.Embedding(11, 5), nn.Tanh()
        self.rnn, self.act2, self.head = nn.LSTM(5, 6, batch_first=True), nn.Tanh(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.rnn(self.act1(self.embedding(x)))[0]))


class Failing(nn.Module):
    """An operation of the user's without a derivative of the kind."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, error: Tensor) -> Tensor:
            return error

    def forward(self, x: Tensor) -> Tensor:
        return self.Identity.apply(x)


class WithAFunction(Perceptron):
    """A custom autograd.Function in a module of its own."""

    def build(self) -> None:
        super().build()
        self.own = Failing()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.own(self.fc2(self.act1(self.fc1(x))))))


@pytest.mark.parametrize(("make", "rule", "inputs", "words"), [
    (Bag, fa.WeightPerturbed(), tokens()[0], ("'bag' (EmbeddingBag)",)),
    (WithAFunction, fa.FDFA(), x, ("'own' (Failing)",)),
    (WithAFunction, fa.WeightPerturbed(), x, ("'own' (Failing)",)),
    (Attentive, fa.WeightPerturbed(), tokens()[0], ("'attention' (MultiheadAttention)", "SDPBackend.MATH")),
])  # fmt: skip
def test_an_operation_without_forward_mode_is_refused_and_the_model_left_as_it_was(
    make: type[nn.Module], rule: fa.Rule, inputs: Tensor, words: tuple[str, ...]
) -> None:
    model = make()
    words = (*words, "cannot carry a directional derivative", "fa.DKP()")
    assert_refused(model, fa.errors.ForwardModeError, *words, rule=rule, example_inputs=inputs)
    fa.attach(model, fa.DKP(), example_inputs=inputs)


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()], **names)
def test_an_lstm_is_refused_or_learns(rule: fa.Rule) -> None:
    inputs, targets = tokens()
    model = LongShort()
    try:
        with left_as_it_was(model):
            handle = fa.attach(model, rule, example_inputs=inputs)
            handle.remove()
    except fa.errors.ForwardModeError as error:
        assert_says(error, fa.errors.ForwardModeError, "'rnn' (LSTM)", "cannot carry a directional derivative")
        return
    model = attached(LongShort, rule, inputs)
    step(model, inputs, targets)
    assert_hidden_layers_learn(gradients(model), rule)


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()], **names)
def test_attention_under_a_kernel_without_forward_mode_is_noticed_in_the_forward_too(rule: fa.Rule) -> None:
    inputs, targets = tokens()
    with sdpa_kernel(SDPBackend.MATH):
        model, plain = attached(Attentive, rule, inputs), attached(Attentive, rule, inputs)
        step(plain, inputs, targets)
    if not isinstance(rule, fa.WeightPerturbed):  # the attention lies below all points
        step(model, inputs, targets)
        assert_same_gradients(gradients(model), gradients(plain))
        return
    with parameters_kept(model), pytest.raises((fa.errors.ForwardModeError, NotImplementedError), match="forward AD"):
        step(model, inputs, targets)


class Breaks(Functional):
    """Its forward fails in the middle when told to."""

    broken = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc2(self.act1(self.fc1(x)))
        if self.broken:
            raise ConnectionError("in the middle")
        return self.head(self.act2(h)) * 1.0


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_a_forward_that_fails_midway_leaves_no_level_and_no_replaced_parameter(rule: fa.Rule) -> None:
    model, plain = attached(Breaks, rule, x), attached(Breaks, rule, x)
    with parameters_kept(model):
        model.broken = True
        with pytest.raises(ConnectionError, match="in the middle"):
            model(x)
        model.broken = False
    assert forward_ad._current_level == -1
    set_clock(plain, like=model)
    for one in (model, plain):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(plain), tolerance=0)


@contextmanager
def parameters_kept(model: nn.Module) -> Iterator[None]:
    """Every parameter is the same object in the same place afterwards."""
    before = _places(model)
    yield
    assert _places(model) == before


def _places(model: nn.Module) -> list[tuple[int, str, int]]:
    return [(id(m), name, id(p)) for m in model.modules() for name, p in m._parameters.items()]


class TiedAndFunctional(TiedWeights):
    """Tied weights under dual tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.0


@pytest.mark.parametrize("make", [Functional, Residual, TiedAndFunctional])
def test_parameters_are_themselves_after_every_forward(make: type[nn.Module]) -> None:
    inputs, targets = (tokens()[0], tokens()[0]) if make is TiedAndFunctional else (x, y)
    model = attached(make, fa.WeightPerturbed(), inputs)
    assert fa.handle_of(model).uses_dual_tensors
    with parameters_kept(model):
        output = model(inputs)
    assert forward_ad._current_level == -1
    assert forward_ad.unpack_dual(output.detach()).tangent is None
    with parameters_kept(model):
        step(model, inputs, targets)
    if make is TiedAndFunctional:
        assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_forwards_without_gradients_carry_nothing(rule: fa.Rule) -> None:
    model, plain = attached(Functional, rule, x), Functional()
    levels = []
    model.act1.register_forward_hook(lambda module, args, output: levels.append(forward_ad._current_level))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(model(x), plain(x))
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    with fa.handle_of(model).suspended():
        assert_same_gradients(own_gradients_of_step(model), gradients_of_step(plain, x, y), tolerance=0)
    assert levels == [-1] * 4
    assert fa.handle_of(model).store.counter == 0
    step(model, x, y)
    assert levels[-1] == 0


def own_gradients_of_step(model: nn.Module) -> dict[str, Tensor | None]:
    step(model, x, y)
    found = own_gradients(model)
    model.zero_grad()
    return found


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_a_step_in_eval_mode_learns_alike(rule: fa.Rule) -> None:
    model, plain = attached(Functional, rule, x), attached(Perceptron, rule, x)
    for one in (model, plain):
        one.eval()
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_inside_another_derivative_it_is_refused(rule: fa.Rule) -> None:
    model = attached(Functional, rule, x)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (x,)), y)

    attempts: list[Callable[[], Any]] = [
        lambda: jvp(model, (x,), (torch.ones_like(x),)),
        lambda: grad(loss)(parameters),
        lambda: vmap(model)(x[None]),
    ]
    for attempt in attempts:
        with parameters_kept(model), pytest.raises(fa.errors.ForwardModeError, match=r"dual tensors.*MulBackward0"):
            attempt()
    with forward_ad.dual_level():
        with pytest.raises(fa.errors.ForwardModeError, match="another forward-mode derivative"):
            model(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad._current_level == 0, "the user's own level stays"
    plain = attached(Functional, rule, x)
    set_clock(plain, like=model)
    assert_same_gradients(gradients_of_step(model, x, y), gradients_of_step(plain, x, y), tolerance=0)


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_two_models_take_turns(rule: fa.Rule) -> None:
    """Forward, forward, backward, backward."""
    first, second, alone = (attached(Functional, rule, x) for _ in range(3))
    losses = [F.cross_entropy(first(x), y), F.cross_entropy(second(x), y)]
    losses[0].backward()
    losses[1].backward()
    step(alone, x, y)
    for model in (first, second):
        assert_same_gradients(gradients(model), gradients(alone), tolerance=0)


class Outer(Seeded):
    """Asks another model, which is no part of it, in the middle of its forward."""

    def build(self, inner: nn.Module | None = None, functional: bool = True) -> None:
        self.fc1, self.act1, self.fc2, self.act2 = nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh()
        self.head = nn.Linear(7, 3)
        self.others, self.functional = [inner], functional

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.fc1(x))
        hint = self.others[0](x).detach().mean() if self.others[0] is not None else 0.0
        y = self.head(self.act2(self.fc2(h)))
        return y + hint if self.functional else y


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()], **names)
@pytest.mark.parametrize("make", [Functional, Perceptron])
@pytest.mark.parametrize("functional", [True, False])
def test_a_model_asked_in_the_forward_of_another_is_harmless_or_refused(
    rule: fa.Rule, make: type[nn.Module], functional: bool
) -> None:
    inner = attached(make, rule, x)
    outer = attached(lambda: Outer(functional=functional), rule, x)
    alone = attached(lambda: Outer(functional=functional), rule, x)
    outer.others[0] = inner
    with parameters_kept(inner), parameters_kept(outer):
        if functional and make is Functional:
            with pytest.raises(fa.errors.ForwardModeError, match="another forward-mode derivative"):
                outer(x)
        else:
            alone.others[0] = Perceptron()
            step(outer, x, y)
            step(alone, x, y)
            assert_same_gradients(gradients(outer), gradients(alone))
    assert forward_ad._current_level == -1
    fresh = attached(make, rule, x)
    set_clock(fresh, like=inner)
    assert_same_gradients(gradients_of_step(inner, x, y), gradients_of_step(fresh, x, y), tolerance=0)


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_removal_and_a_second_attach(rule: fa.Rule) -> None:
    model = Functional()
    with left_as_it_was(model):
        fa.attach(model, rule, example_inputs=x).remove()
    first = attached(lambda: model, rule, x)
    other = attached(Functional, rule, x)
    assert_same_gradients(gradients_of_step(first, x, y), gradients_of_step(other, x, y), tolerance=0)


def test_a_tangent_that_is_lost_on_the_way_is_noticed() -> None:
    class Detaches(Functional):
        off = False

        def forward(self, x: Tensor) -> Tensor:
            h = self.act2(self.fc2(self.act1(self.fc1(x))))
            return self.head(h.detach() if self.off else h) * 1.0

    model, plain = attached(Detaches, fa.FDFA(), x), attached(Detaches, fa.FDFA(), x)
    model.off = True
    with pytest.raises(fa.errors.TangentLostError, match=r"No tangent arrived.*detach\(\)"):
        model(x)
    model.off = False
    set_clock(plain, like=model)
    assert_same_gradients(gradients_of_step(model, x, y), gradients_of_step(plain, x, y), tolerance=0)


class CheckpointedAndFunctional(Perceptron):
    """The second hidden layer is recomputed in the backward."""

    is_recomputed = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.fc1(x))
        h = checkpoint(self.fc2, h, use_reentrant=False) if self.is_recomputed else self.fc2(h)
        return self.head(self.act2(h)) * 1.0


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_checkpointed_parts_learn_alike_or_are_refused(rule: fa.Rule) -> None:
    model, plain = (attached(CheckpointedAndFunctional, rule, x) for _ in range(2))
    model.is_recomputed = True
    for _ in range(2):
        step(plain, x, y)
    if isinstance(rule, (fa.FDFA, fa.ActivityPerturbed)):
        with pytest.raises(fa.errors.CheckpointingError, match=r"dual tensors.*'fc2' more is saved"):
            step(model, x, y)
        return
    for _ in range(2):
        step(model, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("rule", PERTURBING, **names)
def test_autocast_gives_what_it_gives_by_hand(rule: fa.Rule) -> None:
    """Also after a forward without gradients, in which autocast could have kept other copies of the weights."""
    model, by_hand = attached(Functional, rule, x), attached(Perceptron, rule, x)
    for one in (model, by_hand):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                one(x)
            losses = [F.cross_entropy(one(x), y) for _ in range(2)]
        sum(losses).backward()
    for name, found in gradients(model).items():
        expected = gradients(by_hand)[name]
        assert torch.linalg.vector_norm(found - expected) <= 0.05 * torch.linalg.vector_norm(expected), name


class BareParameters(Functional):
    """Parameters of the model's own and in a list."""

    def build(self) -> None:
        super().build()
        self.scale, self.offsets = nn.Parameter(torch.ones(6)), nn.ParameterList([torch.zeros(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(x))) * self.scale)) + self.offsets[0]


def test_weights_that_belong_to_no_layer_are_perturbed_too() -> None:
    def make() -> nn.Module:
        return BareParameters().double()

    model = attached(make, fa.WeightPerturbed(), x.double())
    with draws_recorded() as drawn, parameters_kept(model):
        step(model, x.double(), y)
    expected = gradients_by_hand(make(), fa.WeightPerturbed(), {}, x.double(), y, [], drawn)
    assert_same_gradients(gradients(model), expected, tolerance=1e-12)
    assert model.scale.grad.any()
    assert model.offsets[0].grad.any()
