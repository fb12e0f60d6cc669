"""`torch.func`: many models, or the gradient of every sample, in one call."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import feedalign as fa
from attach.models import Convolutional, Perceptron, SharedActivation, batch, images
from integration.gradients import (
    ALL_RULES,
    assert_hidden_layers_learn,
    assert_same_gradients,
    attached,
    gradients_of_step,
)

x, y = batch()
names = {"ids": lambda rule: rule.name}
NUM_MODELS = 3
PERTURBS_ACTIVATIONS = (fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy)
State = dict[str, Tensor]


def ensemble(rule: fa.Rule, make: type[nn.Module], inputs: Tensor, dtype: torch.dtype) -> list[nn.Module]:
    """Models with weights and feedback of their own."""
    return [
        attached(lambda seed=seed: make(seed).to(dtype), rule, inputs, generator=torch.Generator().manual_seed(seed))
        for seed in range(NUM_MODELS)
    ]


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FRSF(), fa.BRSF(), fa.FDFA()], **names)
def test_models_may_share_their_weights_and_differ_in_what_was_drawn(rule: fa.Rule) -> None:
    models = [
        attached(lambda: Perceptron(1), rule, x, generator=torch.Generator().manual_seed(seed)) for seed in range(2)
    ]
    _, buffers = stack_module_state(models)
    parameters = dict(models[0].named_parameters())
    learned = {name: p for name, p in parameters.items() if "feedalign" not in name}
    held = {name: p for name, p in parameters.items() if "feedalign" in name}

    def loss(learned: State, buffers: State) -> Tensor:
        return F.cross_entropy(functional_call(models[0], ({**learned, **held}, buffers), (x,)), y)

    found = vmap(grad(loss), in_dims=(None, 0))({name: p.detach() for name, p in learned.items()}, buffers)
    for lane, model in enumerate(models):
        if held:
            model.load_state_dict({**model.state_dict(), **{name: p.detach() for name, p in held.items()}})
        expected = gradients_of_step(model, x, y)
        own = {name: expected[name] for name in learned}
        assert_same_gradients({name: g[lane] for name, g in found.items()}, own, tolerance=1e-6)


@pytest.mark.parametrize("rule", [fa.FA(), fa.BRSF(), fa.DFA(), fa.FDFA()], **names)
def test_batched_gradients_are_those_of_each_vector(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    outputs = model(x)
    weights = [p for name, p in model.named_parameters() if "feedalign" not in name]
    vectors = torch.eye(outputs.shape[1])[:, None].expand(-1, *outputs.shape)
    batched = torch.autograd.grad(outputs, weights, vectors, is_grads_batched=True, retain_graph=True)
    for number, vector in enumerate(vectors):
        alone = torch.autograd.grad(outputs, weights, vector, retain_graph=True)
        for one, other in zip(batched, alone, strict=True):
            torch.testing.assert_close(one[number], other)


@pytest.mark.parametrize("rule", [fa.BRSF(), fa.WeightPerturbed(), fa.ActivityPerturbed()], **names)
def test_a_program_written_down_draws_anew_by_its_clock(rule: fa.Rule) -> None:
    """What is drawn stands in it as an operation of the clock, not as numbers."""
    model = attached(Perceptron, rule, x)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def step(parameters: State, buffers: State) -> list[Tensor]:
        parameters = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        loss = F.cross_entropy(functional_call(model, (parameters, buffers), (x,)), y)
        return list(torch.autograd.grad(loss, list(parameters.values())))

    program = make_fx(step)(parameters, buffers)
    later = {name: buffer + 3 if name.endswith("counter") else buffer for name, buffer in buffers.items()}
    for state in (buffers, later):
        for one, other in zip(program(parameters, state), step(parameters, state), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("make", [Perceptron, SharedActivation, Convolutional])
def test_stacked_models_get_each_their_own_gradients(
    rule: fa.Rule, make: type[nn.Module], dtype: torch.dtype, tolerance: float
) -> None:
    inputs, targets = images() if make is Convolutional else (x, y)
    inputs = inputs.to(dtype)
    models = ensemble(rule, make, inputs, dtype)
    parameters, buffers = stack_module_state(models)
    has_state = any("feedalign" in name for name in [*parameters, *buffers])
    assert has_state or isinstance(rule, (fa.Backprop, fa.Shallow, fa.USF))

    def loss(parameters: State, buffers: State) -> Tensor:
        return F.cross_entropy(functional_call(models[0], (parameters, buffers), (inputs,)), targets)

    stacked = vmap(grad(loss))(parameters, buffers)
    for number, model in enumerate(models):
        expected = gradients_of_step(model, inputs, targets)
        assert_hidden_layers_learn(expected, rule)
        zeros = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        expected = {n: zeros[n] if g is None else g for n, g in expected.items()}
        assert_same_gradients({n: g[number] for n, g in stacked.items()}, expected, tolerance)


def gradients_of_every_sample(model: nn.Module, inputs: Tensor, targets: Tensor) -> State:
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: State, sample: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (sample[None],)), target[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, targets)


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if not isinstance(rule, PERTURBS_ACTIVATIONS)], **names)
def test_gradients_of_every_sample_add_up_to_the_batchs(rule: fa.Rule) -> None:
    per_sample = gradients_of_every_sample(attached(Perceptron, rule, x), x, y)
    other = attached(Perceptron, rule, x)
    expected = gradients_of_step(other, x, y)
    for name, found in per_sample.items():
        assert found.shape[0] == len(x)
        whole = torch.zeros_like(found[0]) if expected[name] is None else expected[name]
        torch.testing.assert_close(found.mean(0), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if isinstance(rule, PERTURBS_ACTIVATIONS)], **names)
def test_every_sample_is_perturbed_apart_from_the_others(rule: fa.Rule) -> None:
    model = attached(Perceptron, rule, x)
    equal = x[:1].expand(4, -1)
    per_sample = gradients_of_every_sample(model, equal, y[:1].expand(4))
    drawn = per_sample["feedalign.act1" if isinstance(rule, fa.FDFA) else "fc1.weight"]
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))
    plain = gradients_of_step(Perceptron(), x[:1], y[:1])
    for found in per_sample["head.weight"]:
        torch.testing.assert_close(found, plain["head.weight"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_grad_over_parameters_alone_gives_what_backward_gives(rule: fa.Rule) -> None:
    model, other = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    for _ in range(2):
        found = grad(lambda p: F.cross_entropy(functional_call(model, p, (x,)), y))(dict(model.named_parameters()))
        expected = gradients_of_step(other, x, y)
        zeros = {n: torch.zeros_like(p) for n, p in other.named_parameters()}
        assert_same_gradients(found, {n: zeros[n] if g is None else g for n, g in expected.items()})


@pytest.mark.parametrize("rule", ALL_RULES, **names)
def test_a_plain_step_after_a_transform_is_undisturbed(rule: fa.Rule) -> None:
    model, other = attached(Perceptron, rule, x), attached(Perceptron, rule, x)
    parameters, buffers = stack_module_state([model])

    def loss(parameters: State, buffers: State) -> Tensor:
        return F.cross_entropy(functional_call(model, (parameters, buffers), (x,)), y)

    vmap(grad(loss))(parameters, buffers)
    assert_same_gradients(gradients_of_step(model, x, y), gradients_of_step(other, x, y))
