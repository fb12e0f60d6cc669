"""`torch.compile(fullgraph=True)`: the same gradients, and no compiled code that skips or outlives the rule."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import (
    Branches,
    Convolutional,
    CutSkip,
    Functional,
    Perceptron,
    Regularised,
    SharedActivation,
    SharedLinear,
    batch,
    images,
    sequential,
)
from attach.sequence_models import Tokens, tokens
from integration.gradients import (
    ALL_RULES,
    AVERAGED,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients,
    gradients_of_step,
    own_gradients,
    step,
)

# Dynamo looks at `.grad` of tensors that are no leaves and makes contexts of autograd functions; it hides the warnings
# from everyone but those who turned warnings into errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),
]
x, y = batch()
names = {"ids": lambda rule: rule.name}
RULES = [fa.DFA(), fa.FA(), fa.Shallow(), fa.FDFA()]


@pytest.fixture(autouse=True)
def from_scratch() -> Iterator[None]:
    """No code compiled by another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiled_learns_alike(
    make: Callable[[], nn.Module], rule: Any, backend: str, inputs: Tensor, labels: Tensor, thorough: bool = True
) -> None:
    """Steps on full and partial batches, in training, evaluation and without gradients, against the plain model."""
    inner, plain = attached(make, rule, inputs), attached(make, rule, inputs)
    model = torch.compile(inner, fullgraph=True, backend=backend)
    for size in (len(inputs), len(inputs), len(inputs) - 1, len(inputs)) if thorough else (len(inputs),) * 2:
        for one in (model, plain):
            step(one, inputs[:size], labels[:size])
        assert_same_gradients(gradients(inner), gradients(plain))
    with torch.no_grad():
        torch.testing.assert_close(model(inputs), plain(inputs), rtol=1e-6, atol=1e-6)
    if thorough:
        for one in (inner, plain):
            one.eval()
        for one in (model, plain):
            step(one, inputs, labels)
        assert_same_gradients(gradients(inner), gradients(plain))
    if isinstance(rule, fa.Rule):
        assert_hidden_layers_learn(gradients(inner), rule)
    assert all(row.fired is not False for row in fa.handle_of(inner).describe().rows)


def test_dfa_compiled_by_inductor_learns_alike() -> None:
    assert_compiled_learns_alike(Perceptron, fa.DFA(), "inductor", x, y, thorough=False)


@pytest.mark.parametrize("rule", [fa.BRSF(), fa.DRTP()], **names)
def test_rules_traced_ahead_of_time_learn_alike(rule: fa.Rule) -> None:
    assert_compiled_learns_alike(Perceptron, rule, "aot_eager", x, y, thorough=False)


DRAWING = [
    fa.FDFA(num_perturbations=2),
    AVERAGED,
    fa.ActivityPerturbed(output="perturbed", distribution="rademacher"),
    fa.LocalGreedy(num_perturbations=2),
    fa.WeightPerturbed(num_perturbations=2),
]
DRAWING_TOO = [
    fa.NoisyBackprop(),
    fa.DKP(),
    fa.ActivityPerturbed(num_perturbations=2),
    fa.WeightPerturbed(per="sample"),
]


@pytest.mark.parametrize(
    "rule", [*DRAWING, *(pytest.param(rule, marks=pytest.mark.slow) for rule in DRAWING_TOO)], ids=repr
)
@pytest.mark.parametrize(("make", "data"), [
    (Perceptron, (x, y)),
    pytest.param(Convolutional, images(), marks=pytest.mark.slow),
    pytest.param(Tokens, tokens(), marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_what_is_drawn_is_the_same_in_compiled_code_over_several_steps(
    make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], rule: fa.Rule, backend: str
) -> None:
    inner, plain = attached(make, rule, data[0]), attached(make, rule, data[0])
    model = torch.compile(inner, fullgraph=True, backend=backend)
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (inner, plain)]
    for _ in range(3):
        for one, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            step(one, *data)
            optimizer.step()
        assert_same_gradients(gradients(inner), gradients(plain))
    for buffer, other in zip(inner.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-6, atol=1e-6)
    assert_hidden_layers_learn(gradients(inner), rule)


def compiled_model(model: nn.Module, **options: Any) -> Callable[[], None]:
    compiled = torch.compile(model, **options)
    return lambda: step(compiled, x, y)


def compiled_in_place(model: nn.Module, **options: Any) -> Callable[[], None]:
    model.compile(**options)
    return lambda: step(model, x, y)


def compiled_loss(model: nn.Module, **options: Any) -> Callable[[], None]:
    loss = torch.compile(lambda: F.cross_entropy(model(x), y), **options)
    return lambda: loss().backward()


def compiled_step(model: nn.Module, **options: Any) -> Callable[[], None]:
    return torch.compile(lambda: step(model, x, y), **options)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin:UserWarning")
@pytest.mark.parametrize("rule", [fa.FDFA(), pytest.param(fa.WeightPerturbed(), marks=pytest.mark.slow)], **names)
@pytest.mark.parametrize(
    "compile_it",
    [compiled_model, compiled_in_place, pytest.param(compiled_loss, marks=pytest.mark.slow), compiled_step],
)
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_dual_tensors_in_compiled_code_are_refused(
    rule: fa.Rule, compile_it: Callable[..., Callable[[], None]], fullgraph: bool, backend: str
) -> None:
    model = attached(Functional, rule, x)
    run = compile_it(model, fullgraph=fullgraph, backend=backend)
    error = torch._dynamo.exc.Unsupported if fullgraph else fa.errors.CompiledModelError
    words = "CompiledModelError" if fullgraph else "dual tensors.*MulBackward0.*without torch.compile"
    for _ in range(2):
        with pytest.raises(error, match=words):
            run()
    assert torch.autograd.forward_ad._current_level == -1


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin:UserWarning")
@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()], **names)
@pytest.mark.parametrize("make", [Perceptron, Functional])
@pytest.mark.parametrize("part", ["fc1", "act1", "act2"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_part_compiled_on_its_own_never_loses_a_tangent_silently(
    rule: fa.Rule, make: type[nn.Module], part: str, backend: str
) -> None:
    model, plain = attached(make, rule, x), attached(make, rule, x)
    model.get_submodule(part).compile(backend=backend)
    for _ in range(2):
        step(plain, x, y)
    try:
        for _ in range(2):
            step(model, x, y)
    except (
        fa.errors.FeedalignError,
        NotImplementedError,
    ):  # the latter is torch's, of compiled code under dual tensors
        pass
    else:
        assert_same_gradients(gradients(model), gradients(plain))
    assert torch.autograd.forward_ad._current_level == -1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize(("make", "data"), [(sequential, (x, y)), (Convolutional, images())])
def test_every_rule_compiled_by_inductor_learns_alike(
    make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], rule: fa.Rule
) -> None:
    assert_compiled_learns_alike(make, rule, "inductor", *data)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", [fa.FA(), fa.DFA(), fa.DRTP()], **names)
@pytest.mark.parametrize(("make", "data"), [
    (SharedActivation, (x, y)),
    (SharedLinear, (x, y)),
    (Branches, (x, y)),
    (CutSkip, (x, y)),
    (Tokens, tokens()),
])  # fmt: skip
def test_awkward_models_compiled_by_inductor_learn_alike(
    make: Callable[[], nn.Module], data: tuple[Tensor, Tensor], rule: fa.Rule
) -> None:
    assert_compiled_learns_alike(make, rule, "inductor", *data)


@pytest.mark.slow
@pytest.mark.parametrize("rules", [
    {"conv*": fa.Shallow(), "fc*": fa.DRTP()},
    {"conv*": fa.Backprop(), "fc*": fa.DFA()},
    {"conv*": fa.FA(), "fc*": fa.SignDFA()},
    {"conv*": fa.Shallow(), "fc*": fa.FDFA(update="ema")},
    {"conv*": fa.DFA(), "fc*": fa.ActivityPerturbed()},
])  # fmt: skip
def test_mixtures_compiled_by_inductor_learn_alike(rules: dict[str, fa.Rule]) -> None:
    assert_compiled_learns_alike(Convolutional, rules, "inductor", *images())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_double_precision_compiled_by_inductor_agrees_to_the_last_digits(rule: fa.Rule) -> None:
    inner, plain = (attached(lambda: Perceptron().double(), rule, x.double()) for _ in range(2))
    model = torch.compile(inner, fullgraph=True)
    for one in (model, plain):
        step(one, x.double(), y)
    assert_same_gradients(gradients(inner), gradients(plain), tolerance=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_compiled_model_with_batch_normalization_learns_alike(rule: fa.Rule) -> None:
    def make() -> nn.Module:
        model = Regularised()
        model.drop.p = 0.0
        return model

    assert_compiled_learns_alike(make, rule, "inductor", x, y)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_two_compiled_forwards_before_one_backward_learn_alike(rule: fa.Rule) -> None:
    inner, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    model = torch.compile(inner, fullgraph=True)
    for one in (model, plain):
        (F.cross_entropy(one(x), y) + F.cross_entropy(one(2 * x), y)).backward()
    assert_same_gradients(gradients(inner), gradients(plain))


@pytest.mark.parametrize("rule", RULES, **names)
def test_a_model_that_ran_compiled_before_attach_follows_the_rule(rule: fa.Rule) -> None:
    inner = Perceptron()
    model = torch.compile(inner, backend="eager")
    step(model, x, y)
    attached(lambda: inner, rule, x)
    assert_rule_is_on(inner, model, rule)


@pytest.mark.parametrize("rule", RULES, **names)
def test_a_function_that_ran_compiled_before_attach_follows_the_rule(rule: fa.Rule) -> None:
    inner = Perceptron()
    compiled = torch.compile(lambda inputs: inner(inputs), backend="eager")
    step(compiled, x, y)
    attached(lambda: inner, rule, x)
    assert_rule_is_on(inner, compiled, rule)


def assert_rule_is_on(inner: nn.Module, model: Callable[[Tensor], Tensor], rule: fa.Rule) -> None:
    """The rule's gradients, or a typed error in the forward."""
    expected = gradients_of_step(attached(Perceptron, rule, x), x, y)
    inner.zero_grad()
    step(model, x, y)
    assert_same_gradients(gradients(inner), expected)


@pytest.mark.parametrize("rule", RULES, **names)
def test_compiled_code_forgets_a_removed_rule(rule: fa.Rule) -> None:
    inner = attached(Perceptron, rule, x)
    model = torch.compile(inner, backend="eager")
    step(model, x, y)
    fa.handle_of(inner).remove()
    inner.zero_grad()
    step(model, x, y)
    assert_same_gradients(gradients(inner), gradients_of_step(Perceptron(), x, y))


@pytest.mark.parametrize("rule", RULES, **names)
def test_a_suspended_rule_is_off_in_compiled_code_too(rule: fa.Rule) -> None:
    inner = attached(Perceptron, rule, x)
    model = torch.compile(inner, fullgraph=True, backend="eager")
    follows = attached(Perceptron, rule, x)
    for suspended in (False, True, False):
        inner.zero_grad()
        if suspended:
            with fa.handle_of(inner).suspended():
                step(model, x, y)
        else:
            step(model, x, y)
        expected = gradients_of_step(Perceptron() if suspended else follows, x, y)
        assert_same_gradients(own_gradients(inner) if suspended else gradients(inner), expected)


@pytest.mark.parametrize("rule", [fa.DRTP(), fa.SignDFA()], **names)
def test_a_loss_of_another_form_is_refused_in_compiled_code_too(rule: fa.Rule) -> None:
    model = torch.compile(attached(Perceptron, rule, x), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"not of this form.*handle\.targets\(y\)"):
        F.mse_loss(model(x), torch.ones(6, 3)).backward()


def test_streaming_works_in_compiled_code_or_is_refused() -> None:
    inner, plain = attached(Perceptron, fa.DRTP(), x), attached(Perceptron, fa.DRTP(), x)
    model = torch.compile(inner, backend="eager")
    fa.handle_of(inner).targets(y)
    step(plain, x, y)
    try:
        step(model, x, y)
    except fa.errors.StreamingError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is None:
        assert_same_gradients(gradients(inner), gradients(plain))
    else:
        assert "compile" in refusal


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.Shallow(), fa.DKP()], **names)
def test_a_part_compiled_after_attach_learns_alike(rule: fa.Rule) -> None:
    model, plain = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    model.fc2.compile(backend="eager")
    model.act2.compile(backend="eager")
    for one in (model, plain):
        step(one, x, y)
    assert_same_gradients(gradients(model), gradients(plain))


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.WeightPerturbed()], **names)
@pytest.mark.parametrize("make", [Perceptron, Functional])
def test_a_model_compiled_before_attach_is_refused(rule: fa.Rule, make: type[nn.Module]) -> None:
    in_place, part = make(), make()
    in_place.compile(backend="eager")
    part.act1.compile(backend="eager")
    for model in (torch.compile(make(), backend="eager"), in_place, part):
        with pytest.raises(fa.errors.CompiledModelError, match="Attach first, then compile"):
            fa.attach(model, rule, example_inputs=x)
