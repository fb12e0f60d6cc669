"""Accelerate around an attached model."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Functional, Perceptron
from integration.gradients import AVERAGED, attached
from integration.plain_loop import (
    BATCH_SIZE,
    BATCHES,
    RULES,
    Run,
    assert_rule_was_on,
    assert_same_run,
    assert_same_state,
    first_layer,
    loader,
    sgd,
    train,
    under,
    x,
)

each_rule = pytest.mark.parametrize("rule", RULES, ids=repr)


@pytest.fixture(autouse=True)
def _nothing_compiled_stays() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def accelerated(**options: Any) -> Accelerator:
    return Accelerator(cpu=True, **options)


def train_with_accelerate(model: nn.Module, *, clip: float | None = None, **options: Any) -> Run:
    """The loop of Accelerate's documentation."""
    accelerator = accelerated(**options)
    run = Run(model)
    prepared, optimizer, batches = accelerator.prepare(model, sgd(model), loader())
    for inputs, labels in batches:
        with accelerator.accumulate(prepared):
            accelerator.backward(F.cross_entropy(prepared(inputs), labels))
            if accelerator.sync_gradients:
                run.note()
                if clip is not None:
                    accelerator.clip_grad_norm_(prepared.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return run


@each_rule
def test_accelerate_trains_as_the_plain_loop_does(rule: fa.Rule) -> None:
    run = train_with_accelerate(under(rule))
    assert_same_run(run, train(under(rule)))
    assert_rule_was_on(run)


@each_rule
def test_clipping_and_accumulation_are_accelerates_own(rule: fa.Rule) -> None:
    run = train_with_accelerate(under(rule), gradient_accumulation_steps=2, clip=0.1)
    assert_same_run(run, train(under(rule), accumulate=2, clip=0.1))


def in_half_precision() -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def at_the_head(rule: fa.Rule) -> nn.Module:
    """The error is taken where the output is made, before Accelerate converts it."""
    return attached(Perceptron, rule, x[:BATCH_SIZE], output="head")


@each_rule
def test_mixed_precision_is_that_of_autocast(rule: fa.Rule) -> None:
    run = train_with_accelerate(at_the_head(rule), mixed_precision="bf16")
    assert_same_run(run, train(at_the_head(rule), precision=in_half_precision))
    assert not torch.equal(first_layer(run), first_layer(train(at_the_head(rule))))


class Converted(Perceptron):
    """What Accelerate makes of a model: half precision within, full precision around."""

    def forward(self, inputs: Tensor) -> Tensor:
        with in_half_precision():
            output = super().forward(inputs)
        return output.float()


BEHIND = [(Perceptron, fa.DFA()), (Perceptron, fa.FA()), (Perceptron, fa.DKP())]
BEHIND += [(Functional, fa.FDFA()), (Functional, AVERAGED), (Functional, fa.WeightPerturbed())]


@pytest.mark.parametrize(("make", "rule"), BEHIND, ids=lambda one: getattr(one, "name", ""))
def test_the_error_may_be_taken_behind_the_conversion(make: type[nn.Module], rule: fa.Rule) -> None:
    run = train_with_accelerate(attached(make, rule, x[:BATCH_SIZE]), mixed_precision="bf16")
    assert_same_run(run, train(attached(Converted, rule, x[:BATCH_SIZE])))


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()], ids=repr)
def test_tangents_carried_by_hand_stop_at_the_conversion_and_say_what_to_do(rule: fa.Rule) -> None:
    with pytest.raises(fa.errors.PointNotFiredError, match=r"mixed precision.*output="):
        train_with_accelerate(under(rule), mixed_precision="bf16")


@each_rule
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_attaching_after_prepare_is_the_same(rule: fa.Rule, precision: str) -> None:
    """On one device `prepare` returns the model itself, with another forward if precision is mixed."""
    accelerator = accelerated(mixed_precision=precision)
    prepared = accelerator.prepare(Perceptron())
    late = attached(lambda: prepared, rule, x[:BATCH_SIZE], output="head")
    early = accelerator.prepare(at_the_head(rule))
    assert_same_run(train(late), train(early))


@each_rule
def test_a_saved_state_is_the_whole_of_a_training(rule: fa.Rule, tmp_path: Path) -> None:
    accelerator = accelerated()
    model, optimizer = accelerator.prepare(*with_optimizer(under(rule)))
    train(model, BATCHES[:3], optimizer=optimizer)
    accelerator.save_state(tmp_path)
    train(model, BATCHES[3:], optimizer=optimizer)
    accelerator.free_memory()
    fresh, resumed = accelerator.prepare(*with_optimizer(under(rule)))
    with torch.no_grad():
        for tensor in [*fresh.parameters(), *fresh.buffers()]:
            tensor.zero_()
    accelerator.load_state(tmp_path)
    train(fresh, BATCHES[3:], optimizer=resumed)
    assert_same_state(fresh, model, tolerance=0)


def with_optimizer(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    return model, sgd(model)


@pytest.mark.parametrize("feedback", [fa.SharedSlice(), fa.SharedSlice(normalisation="largest"), fa.Orthogonal()])
def test_a_saved_model_holds_every_matrix_of_a_shared_draw(feedback: Any, tmp_path: Path) -> None:
    """Tensors that share memory would be saved once, under one name."""
    accelerator = accelerated()
    model = attached(Perceptron, fa.DFA(), x[:BATCH_SIZE], feedback=feedback)
    accelerator.save_model(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


@each_rule
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_an_unwrapped_model_without_its_rule_is_the_plain_one(rule: fa.Rule, precision: str) -> None:
    accelerator = accelerated(mixed_precision=precision)
    prepared = accelerator.prepare(at_the_head(rule))
    train(prepared, BATCHES[:2])
    model = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    outputs = model(x).detach()
    fa.handle_of(model).remove()
    plain = Perceptron()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(x), outputs)


# Dynamo looks at `.grad` of tensors that are no leaves; it hides the warning from all who do not make it an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.DKP()], ids=repr)
def test_a_model_that_prepare_compiles_keeps_its_rule(rule: fa.Rule) -> None:
    """Here `prepare` does wrap; `unwrap_model` gives the attached model back."""
    accelerator = accelerated(dynamo_backend="eager")
    model = under(rule)
    prepared = accelerator.prepare(model)
    assert prepared is not model
    run = Run(model)
    run.gradients = train(prepared).gradients
    run.gradients = [{name.removeprefix("_orig_mod."): g for name, g in step.items()} for step in run.gradients]
    assert_same_run(run, train(under(rule)))
    assert accelerator.unwrap_model(prepared, keep_torch_compile=False) is model
    with pytest.raises(fa.errors.CompiledModelError, match="Attach first"):
        fa.attach(accelerator.prepare(Perceptron()), rule, example_inputs=x)


@pytest.mark.slow
def test_two_processes_under_torchrun_train_as_one_does() -> None:
    """`accelerate_worker` compares the gradients and weights in each of them."""
    tests = Path(__file__).parents[1]
    search_path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "integration.accelerate_worker"],
        env={**os.environ, "PYTHONPATH": search_path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
