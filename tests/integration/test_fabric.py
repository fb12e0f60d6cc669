"""Lightning Fabric around an attached model."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import pytest
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron
from integration.gradients import attached
from integration.plain_loop import (
    BATCH_SIZE,
    BATCHES,
    RULES,
    Run,
    assert_rule_was_on,
    assert_same_run,
    assert_same_state,
    first_layer,
    sgd,
    train,
    under,
    x,
)

each_rule = pytest.mark.parametrize("rule", RULES, ids=repr)


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """Lightning leaves the process group, and where to find it, to the end of the process."""
    with mock.patch.dict(os.environ):
        yield
    if dist.is_initialized():
        dist.destroy_process_group()


def train_with_fabric(
    model: nn.Module, *, batches: Any = BATCHES, accumulate: int = 1, clip: float | None = None, **options: Any
) -> Run:
    """The loop of Fabric's documentation."""
    fabric = Fabric(accelerator="cpu", devices=1, **options)
    fabric.launch()
    run = Run(model)
    wrapped, optimizer = fabric.setup(model, sgd(model))
    for number, (inputs, labels) in enumerate(batches, start=1):
        is_last = number % accumulate == 0
        with fabric.no_backward_sync(wrapped, enabled=not is_last):
            fabric.backward(F.cross_entropy(wrapped(inputs), labels) / accumulate)
        if is_last:
            run.note()
            if clip is not None:
                fabric.clip_gradients(wrapped, optimizer, max_norm=clip)
            optimizer.step()
            optimizer.zero_grad()
    return run


# With one process there is nothing that no_backward_sync could hold back, and Fabric says so.
no_sync_warning = pytest.mark.filterwarnings("ignore:The `SingleDeviceStrategy` does not support skipping")


@no_sync_warning
@pytest.mark.parametrize("strategy", ["auto", "ddp"])
@each_rule
def test_fabric_trains_as_the_plain_loop_does(rule: fa.Rule, strategy: str) -> None:
    run = train_with_fabric(under(rule), strategy=strategy)
    assert_same_run(run, train(under(rule)))
    assert_rule_was_on(run)
    accumulated = train_with_fabric(under(rule), strategy=strategy, accumulate=2, clip=0.1)
    assert_same_run(accumulated, train(under(rule), accumulate=2, clip=0.1))


@no_sync_warning
@each_rule
def test_fabrics_mixed_precision_is_that_of_autocast(rule: fa.Rule) -> None:
    run = train_with_fabric(under(rule), precision="bf16-mixed")
    plain = train(under(rule), precision=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert_same_run(run, plain)
    assert not torch.equal(first_layer(run), first_layer(train(under(rule))))


@each_rule
def test_fabrics_checkpoints_hold_the_feedback(rule: fa.Rule, tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    model = train(under(rule), BATCHES[:3]).model
    optimizer = sgd(model)
    train(model, BATCHES[3:4], optimizer=optimizer)
    fabric.save(tmp_path / "first.ckpt", {"model": fabric.setup_module(model), "optimizer": optimizer})
    train(model, BATCHES[4:], optimizer=optimizer)
    fresh = under(rule)
    with torch.no_grad():
        for tensor in [*fresh.parameters(), *fresh.buffers()]:
            tensor.zero_()
    wrapped, resumed = fabric.setup(fresh, sgd(fresh))
    fabric.load(tmp_path / "first.ckpt", {"model": wrapped, "optimizer": resumed})
    train(fresh, BATCHES[4:], optimizer=resumed)
    assert_same_state(fresh, model, tolerance=0)


def test_attaching_after_fabrics_setup_goes_to_the_model_inside() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped = fabric.setup_module(Perceptron())
    with pytest.raises(fa.errors.WrappedModelError, match=r"would lose the feedback.*wrapper\.module"):
        fa.attach(wrapped, fa.DFA(), example_inputs=x[:BATCH_SIZE])
    fa.attach(wrapped.module, fa.DFA(), example_inputs=x[:BATCH_SIZE])
    assert any(name.startswith("feedalign.") for name in wrapped.state_dict())
    fabric.backward(F.cross_entropy(wrapped(BATCHES[0][0]), BATCHES[0][1]))
    expected = first_layer(train(under(fa.DFA()), BATCHES[:1]))
    torch.testing.assert_close(wrapped.module.fc1.weight.grad, expected, rtol=1e-6, atol=1e-6)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Perceptron()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.FDFA(), fa.WeightPerturbed()], ids=repr)
def test_the_training_step_of_a_lightning_module_is_one_forward(rule: fa.Rule, strategy: str) -> None:
    """Under DDP Fabric runs it in the place of the module's forward, which it calls."""
    fabric = Fabric(accelerator="cpu", devices=1, strategy=strategy)
    fabric.launch()
    run = Run(attached(Classifier, rule, x[:BATCH_SIZE]))
    module, optimizer = fabric.setup(run.model, sgd(run.model))
    for batch in BATCHES:
        fabric.backward(module.training_step(batch))
        run.note()
        optimizer.step()
        optimizer.zero_grad()
    assert_same_run(run, train(attached(Classifier, rule, x[:BATCH_SIZE])))
