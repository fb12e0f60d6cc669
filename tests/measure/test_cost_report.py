"""Cost: what moves, what feedback weighs, what comes back, and that the model is left alone."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.errors import AttachError
from measure.cost_models import CONVOLUTIONAL, PERCEPTRON, WIDTHS, Counted, counted_by_torch, perceptron


def test_movement_of_two_layers_by_hand() -> None:
    """Float32, 2 samples, 3 inputs, 4 hidden units, 5 outputs: every operand in once, every result out once."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))
    x = torch.ones(2, 3)
    first, second, hidden, error = 3 * 4, 4 * 5, 2 * 4, 2 * 5
    updates_read, updates_written = 2 * (first + 4 + second + 5), first + 4 + second + 5
    plain = fa.measure.cost(model, x).moved
    forward_activations, gradients_activations = (6 + hidden, hidden + error), 6 + hidden
    assert (plain.activations_read, plain.activations_written) == (
        4 * (forward_activations[0] + gradients_activations),
        4 * forward_activations[1],
    )
    # Forward, and the second layer's once more for the gradient of its input.
    assert plain.weights_read == 4 * (first + 2 * second + updates_read)
    assert plain.weights_written == 4 * (first + second + updates_written)
    assert (plain.errors_read, plain.errors_written) == (4 * (hidden + 2 * error), 4 * hidden)
    assert (plain.feedback_read, plain.feedback_written) == (0, 0)
    with fa.attach(model, fa.DFA(), example_inputs=x) as handle:
        direct = fa.measure.cost(handle, x).moved
    assert direct.weights_read == plain.weights_read - 4 * second
    assert direct.feedback_read == 4 * 5 * 4
    assert (direct.errors_read, direct.errors_written) == (4 * (hidden + 2 * error), 4 * hidden)
    assert direct.total == plain.total  # at these widths B is as large as the weight that is not read again


def test_feedback_is_weighed_where_it_is_held() -> None:
    handle, x, _ = PERCEPTRON.attach(fa.FA())
    # No signal goes to the inputs, so that the first layer has none.
    assert fa.measure.cost(handle, x).feedback_bytes == 4 * (20 * 16 + 16 * 14 + 14 * 5)
    shared, x, _ = (lambda m, x, y: (fa.attach(m, fa.DFA(), example_inputs=x, feedback="launay2020"), x, y))(
        *perceptron()
    )
    assert fa.measure.cost(shared, x).feedback_bytes == 4 * 5 * max(WIDTHS[1:-1])


@pytest.mark.parametrize("rule", [fa.BRSF(), fa.FDFA(update="ema"), fa.DRTP(), fa.WeightPerturbed()], ids=repr)
def test_the_model_is_left_as_it_was(rule: fa.Rule) -> None:
    handle, x, labels = CONVOLUTIONAL.attach(rule)
    model = handle.model
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    random, told = torch.get_rng_state(), str(handle.describe())
    fa.measure.cost(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert torch.equal(torch.get_rng_state(), random)
    assert str(handle.describe()) == told


def test_what_is_given_and_what_comes_back() -> None:
    model, x, _ = perceptron()
    plain = fa.measure.cost(model, x)
    handle = fa.attach(model, fa.DFA(), example_inputs=x)
    assert fa.measure.cost(handle, (x,)) == fa.measure.cost(model, x)
    assert plain.limit == 1
    assert plain["0"].rule is None
    found = fa.measure.cost(handle, x)
    assert [row.rule for row in found.layers] == ["dfa", "dfa", "dfa", None]
    plain_data = found.as_dict()
    assert json.loads(json.dumps(plain_data))["macs"] == found.macs
    assert plain_data["moved"]["total"] == found.moved.total
    assert math.isclose(plain_data["limit"], found.limit)
    assert str(found).splitlines()[0].split()[:5] == ["layer", "rule", "forward", "backward", "feedback"]
    handle.remove()
    assert fa.measure.cost(model, x) == plain
    with pytest.raises(AttachError, match="was removed"):
        fa.measure.cost(handle, x)
    with pytest.raises(AttachError, match="was given int"):
        fa.measure.cost(3, x)  # type: ignore[arg-type]


class Boxed(nn.Linear):
    """Returns its result in something."""

    def __init__(self, box: Callable[[Tensor], object]) -> None:
        super().__init__(4, 3)
        self.box = box

    def forward(self, x: Tensor) -> object:
        return self.box(super().forward(x))


def test_results_are_found_in_what_models_return_and_missed_nowhere_in_silence() -> None:
    x = torch.ones(2, 4)
    boxes: list[Callable[[Tensor], object]] = [lambda y: {"logits": y, "cache": (y, 3)}, lambda y: [y], lambda y: y]
    for box in boxes:
        assert fa.measure.cost(Boxed(box), {"x": x}).backward == 2 * 4 * 3
    for box in (lambda y: object(), lambda y: y.detach()):
        with pytest.raises(AttachError, match="Nothing in what the model returned has a graph"):
            fa.measure.cost(Boxed(box), x)
    assert fa.measure.cost(nn.Flatten(), x).macs == 0


@pytest.mark.parametrize("rule", [fa.DFA, fa.DKP])
def test_gradients_under_way_are_kept_and_nothing_else_of_limits_is_counted(rule: type[fa.DFA | fa.DKP]) -> None:
    free, x, _ = PERCEPTRON.attach(rule())
    late, _, _ = PERCEPTRON.attach(rule(limits=fa.Limits(delay=3, error=fa.Quantized(4), feedback=fa.Quantized(4))))
    without, found = fa.measure.cost(free, x), fa.measure.cost(late, x)
    held = [b for name, b in late.store.named_buffers() if name.startswith("late_") and b.is_floating_point()]
    *taught, _ = (m for m in late.model.modules() if isinstance(m, nn.Linear))
    learned = 0 if rule is fa.DFA else found.feedback_bytes
    weights = 4 * sum(p.numel() for m in taught for p in m.parameters())
    assert found.kept_bytes - without.kept_bytes == 3 * (weights + learned) == sum(b.nbytes for b in held)
    assert (found.macs, found.feedback_bytes) == (without.macs, without.feedback_bytes)
    assert found.moved.total - without.moved.total == 2 * (weights + learned)
    assert [row.layer for row in found.layers] == [row.layer for row in without.layers]


def test_a_step_without_products_has_a_dash_for_its_limit() -> None:
    found = fa.measure.cost(nn.Linear(4, 3), torch.ones(0, 4))
    assert math.isnan(found.limit)
    assert "; - of backprop's 0" in str(found)


def test_frozen_layers_have_neither_gradients_nor_input_gradients_below() -> None:
    counted = Counted(frozen)
    for rule in (fa.Backprop(), fa.DFA(), fa.FA()):
        handle, x, labels = counted.attach(rule)
        assert fa.measure.cost(handle, x).macs == counted_by_torch(handle.model, x, labels)
        assert fa.measure.cost(handle, x)["0"].backward == 0


def frozen() -> tuple[nn.Module, Tensor, Tensor]:
    model, x, labels = perceptron()
    model[0].requires_grad_(False)
    return model, x, labels
