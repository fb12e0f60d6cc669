"""A Monitor in loops of all kinds: each works, or raises a sentence that says what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron, Regularised, SharedLinear, TakesBranch, batch
from feedalign.errors import AttachError, MonitorError, PointNotFiredError
from feedalign.measure import Monitor, MonitorRecord

x, y = batch(8)


def under(rule: fa.Rule | None = None, make: Callable[[], nn.Module] = Perceptron) -> nn.Module:
    model = make()
    fa.attach(model, rule or fa.DFA(), example_inputs=x)
    return model


def backward(model: nn.Module, inputs: Tensor = x, labels: Tensor = y) -> None:
    F.cross_entropy(model(inputs), labels).backward()


def angles(record: MonitorRecord | None) -> list[float | None]:
    assert record is not None
    return [row.angle for row in record.layers]


def observed(model: nn.Module) -> MonitorRecord:
    monitor = Monitor(model, every=1)
    with monitor.step():
        backward(model)
    assert monitor.last is not None
    return monitor.last


def steps_of(monitor: Monitor, numbers: list[int | None], model: nn.Module) -> list[int]:
    """Which of the steps are measured."""
    measured = []
    for number in numbers:
        with monitor.step(number):
            backward(model)
        if monitor.last is not None and (not measured or measured[-1] != monitor.last.step):
            measured.append(monitor.last.step)
    return measured


def test_the_first_step_is_measured_and_every_so_many_after_it() -> None:
    model = under()
    assert steps_of(Monitor(model, every=3), [None] * 8, model) == [1, 4, 7]
    assert steps_of(Monitor(model, every=1), [None] * 3, model) == [1, 2, 3]
    assert steps_of(Monitor(model, every=3, start=4), [None] * 5, model) == [7]
    assert steps_of(Monitor(model, every=3), [1, 1, 2, 2, 4, 4, 9], model) == [1, 4, 9]


def test_accumulated_micro_batches_in_one_step_are_the_whole_batch() -> None:
    model = under()
    whole = observed(model)
    monitor = Monitor(model, every=1)
    with monitor.step():
        for inputs, labels in zip(x.split(2), y.split(2), strict=True):
            (F.cross_entropy(model(inputs), labels) / 4).backward()
    assert angles(monitor.last) == pytest.approx(angles(whole), abs=1e-3)
    assert monitor.last is not None
    row, wanted = monitor.last["fc1"], whole["fc1"]
    assert row.signal_angle == pytest.approx(wanted.signal_angle, abs=1e-3)
    assert (row.norm, row.signal_norm) == (pytest.approx(wanted.norm), pytest.approx(wanted.signal_norm))
    with monitor.step():
        outputs = [model(inputs) for inputs in x.split(2)]
        F.cross_entropy(torch.cat(outputs), y).backward()
    assert angles(monitor.last) == pytest.approx(angles(whole), abs=1e-3)


def test_only_what_was_given_an_error_counts() -> None:
    """A forward without gradients, and one that no loss is made of."""
    model = under()
    whole, monitor = observed(model), Monitor(model, every=1)
    with monitor.step():
        with torch.no_grad():
            model(3 * x)
        model(2 * x)
        backward(model)
    assert angles(monitor.last) == angles(whole)


def test_gradients_are_noted_before_anybody_changes_them_in_place() -> None:
    """As clipping inside the block does, and DistributedDataParallel when it averages over processes."""
    model = under()
    plain, monitor = observed(model), Monitor(model, every=1)
    model.zero_grad()
    with monitor.step():
        output = model(x)
        output.register_hook(lambda error: error.mul_(1))
        F.cross_entropy(output, y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        model.get_parameter("fc1.weight").grad.zero_()
    assert monitor.last == plain


def test_a_gradscaler_scales_the_norms_and_nothing_else() -> None:
    model = under()
    plain, scaler = observed(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
    monitor, optimizer = Monitor(model, every=1), torch.optim.SGD(model.parameters(), lr=0.1)
    with monitor.step():
        scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert angles(monitor.last) == angles(plain)
    assert monitor.last is not None
    assert monitor.last["fc1"].norm == 1024 * (plain["fc1"].norm or 0)
    assert monitor.last["fc1"].ratio == plain["fc1"].ratio


def test_mixed_precision_is_that_of_the_forward() -> None:
    model = under(fa.Backprop(), Regularised)
    monitor = Monitor(model, every=1)
    with monitor.step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x)
        assert output.dtype == torch.bfloat16
        F.cross_entropy(output.float(), y).backward()
    assert angles(monitor.last) == [0, 0, 0]
    assert monitor.last is not None
    assert monitor.last.replay_error == 0


def test_numbers_that_are_not_finite_are_told_and_spoil_no_average() -> None:
    model = under()
    monitor, first = Monitor(model, every=1), observed(model)
    for factor in (1.0, float("inf"), 1.0):
        with monitor.step():
            (F.cross_entropy(model(x), y) * factor).backward()
        assert monitor.last is not None
        row = monitor.last["fc1"]
        if factor > 1:
            assert row.norm != row.norm
            assert row.angle != row.angle
            assert row.angle_ewma is None
    assert row.angle_ewma == pytest.approx(first["fc1"].angle)


def test_two_monitors_see_what_each_alone_would_see() -> None:
    model = under(make=Regularised)
    torch.manual_seed(0)
    alone = observed(model)
    first, second = Monitor(model, every=1), Monitor(model, every=2)
    torch.manual_seed(0)
    with first.step(), second.step():
        backward(model)
    assert first.last == second.last == alone
    torch.manual_seed(0)
    with first.step(), second.step():
        backward(model)
    assert first.last is not None
    assert (first.last.step, second.last) == (2, alone)
    assert angles(first.last) == angles(alone)


def test_frozen_layers_have_no_row_and_those_thawed_again_have() -> None:
    model = under(make=SharedLinear)
    monitor = Monitor(model, every=1)
    names = []
    for is_frozen in (False, True, False):
        model.get_submodule("fc2").requires_grad_(not is_frozen)
        with monitor.step():
            backward(model)
        assert monitor.last is not None
        names.append([row.layer for row in monitor.last.layers])
    assert names == [["fc1", "fc2", "head"], ["fc1", "head"], ["fc1", "fc2", "head"]]


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_point_that_does_not_fire_raises_as_ever_and_the_next_step_is_measured() -> None:
    model = under(make=TakesBranch)
    monitor, before = Monitor(model, every=10), hooks(model)
    model.short = True
    with pytest.raises(PointNotFiredError), monitor.step():
        backward(model)
    assert hooks(model) == before
    assert monitor.last is None
    model.short = False
    assert steps_of(monitor, [None, None], model) == [2]
    fa.handle_of(model).remove()
    model.short = True
    with monitor.step(11):
        backward(model)
    assert monitor.last is not None
    row = monitor.last["fc2"]
    assert (row.norm, row.signal_norm, row.density, row.dead) == (0, None, None, None), "the branch was not taken"


def test_another_rule_attached_meanwhile_is_the_one_that_is_measured() -> None:
    model = under()
    monitor = Monitor(model, every=1)
    fa.handle_of(model).remove()
    fa.attach(model, fa.FA(), example_inputs=x)
    with monitor.step():
        backward(model)
    assert monitor.last is not None
    assert monitor.last.rule == repr(fa.FA())
    assert angles(monitor.last) == angles(observed(model))


# Dynamo looks at `.grad` of tensors that are no leaves; it hides the warning from all who do not make it an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("kind", ["whole", "in place"])
def test_compiled_code_runs_eagerly_in_a_measured_step(kind: str) -> None:
    model, other = under(), under()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    if kind == "in place":
        model.compile(backend="eager", fullgraph=True)
        compiled = model
    monitor = Monitor(model, every=2)
    for _ in range(3):
        model.zero_grad()
        with monitor.step():
            backward(compiled)
    assert monitor.last is not None
    assert monitor.last.step == 3
    assert angles(monitor.last) == angles(observed(other))
    assert torch.equal(model.fc1.weight.grad, other.fc1.weight.grad)


def test_a_monitor_of_a_trainers_wrapper_is_one_of_the_model_inside() -> None:
    inner = under()
    monitor = Monitor(nn.Sequential(inner), every=1)
    with monitor.step():
        backward(inner)
    assert monitor.model is inner


@contextmanager
def refused(words: str, kind: type[Exception] = MonitorError) -> Iterator[None]:
    with pytest.raises(kind, match=words):
        yield


def test_a_step_without_the_model_or_without_its_backward_is_refused_at_first_and_passed_over_later() -> None:
    model, monitor = under(), Monitor(under(), every=1)
    with refused("did not run"), monitor.step():
        backward(model)
    with refused("with gradients"), Monitor(model, every=1).step(), torch.no_grad():
        model(x)
    monitor = Monitor(model, every=1)
    with refused("No error came back"), monitor.step():
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    assert steps_of(monitor, [None], model) == [2]
    monitor = Monitor(model, every=3)
    with monitor.step():
        backward(model)
    for _ in range(3):
        with monitor.step():
            pass
    assert monitor.last is not None
    assert monitor.last.step == 1
    assert steps_of(monitor, [None, None], model) == [5], "the first in which the model ran"


def test_weights_that_change_in_the_step_are_refused() -> None:
    model = under()
    for fused in (False, True):
        monitor, optimizer = Monitor(model, every=1), torch.optim.Adam(model.parameters(), fused=fused)
        with refused("optimizer.step"), monitor.step():
            backward(model)
            optimizer.step()
    assert hooks(model) == hooks(under())


def test_what_is_no_context_is_noticed() -> None:
    model = under()
    monitor = Monitor(model)
    monitor.step()
    with refused("was called and not entered"):
        monitor.step()
    monitor = Monitor(model)
    with refused("open already"), monitor.step(), monitor.step():
        pass
    with refused("step's number is 0"):
        monitor.begin(0)
    assert not monitor.is_open
    monitor.end()


def test_function_transforms_are_refused() -> None:
    model = under()
    monitor = Monitor(model, every=1)

    def loss_of(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (x,)), y)

    with refused(r"torch\.func"), monitor.step():
        grad(loss_of)({name: p.detach() for name, p in model.named_parameters()})


def test_arguments_are_looked_at() -> None:
    model = under()
    for options in ({"every": -1}, {"every": 2.5}, {"start": -1}, {"momentum": 1.0}, {"tensorboard": "runs"}):
        with refused(next(iter(options)), AttachError):
            Monitor(model, **options)
    with refused("folder=", AttachError):
        Monitor(model, tensorboard=True)
    with refused("No rule is attached", AttachError):
        Monitor(Perceptron())
    handle = fa.handle_of(model)
    handle.remove()
    with refused("rule of this handle was removed", AttachError):
        Monitor(handle)
