"""Lightning's Trainer around an attached model."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import NUM_CLASSES, Perceptron, Seeded
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
    loader,
    sgd,
    train,
    under,
    x,
)

pytestmark = [
    # Lightning's advice: more processes for reading data, a missing validation set, a folder that is not empty.
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    # Lightning's own use of torch's trees.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]

each_rule = pytest.mark.parametrize("rule", RULES, ids=repr)


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """Lightning leaves the process group, and where to find it, to the end of the process."""
    with mock.patch.dict(os.environ):
        yield
    if dist.is_initialized():
        dist.destroy_process_group()


class Classifier(lightning.LightningModule):
    """A network as an attribute; the loss is made in `training_step`."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = Perceptron() if model is None else model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


class Notes(lightning.Callback):
    """Notes the gradients where Lightning shows them: after accumulation, before clipping."""

    def __init__(self, model: nn.Module) -> None:
        self.run = Run(model)

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.run.note()


def on_the_network(rule: fa.Rule) -> Classifier:
    return Classifier(under(rule))


def on_the_lightning_module(rule: fa.Rule) -> Classifier:
    return attached(Classifier, rule, x[:BATCH_SIZE])


places = pytest.mark.parametrize("make", [on_the_network, on_the_lightning_module])


def whole(module: Classifier) -> nn.Module:
    """The attached model: the LightningModule or what is in it."""
    return fa.handle_of(module).model


def trainer_for(*callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    """A trainer that prints and writes nothing."""
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = silent | {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1}
    return lightning.Trainer(callbacks=list(callbacks), **(defaults | options))


def fit(module: Classifier, *, validation: bool = False, resume: Path | None = None, **options: Any) -> Run:
    """Train with Lightning."""
    notes = Notes(whole(module))
    val = loader() if validation else None
    trainer_for(notes, **options).fit(module, loader(), val, ckpt_path=resume)
    return notes.run


@each_rule
@places
def test_the_trainer_trains_as_the_plain_loop_does(make: Callable[[fa.Rule], Classifier], rule: fa.Rule) -> None:
    run = fit(make(rule))
    assert_same_run(run, train(whole(make(rule))))
    assert_rule_was_on(run)


@each_rule
def test_clipping_and_accumulation_are_the_trainers_own(rule: fa.Rule) -> None:
    run = fit(on_the_network(rule), accumulate_grad_batches=2, gradient_clip_val=0.1)
    assert_same_run(run, train(under(rule), accumulate=2, clip=0.1))
    assert any(nn.utils.get_total_norm([g for g in step.values() if g is not None]) > 0.1 for step in run.gradients)


@pytest.mark.parametrize("inference_mode", [True, False])
@each_rule
def test_validation_before_and_between_teaches_nothing(rule: fa.Rule, inference_mode: bool) -> None:
    run = fit(
        on_the_network(rule),
        validation=True,
        num_sanity_val_steps=2,
        val_check_interval=2,
        inference_mode=inference_mode,
    )
    assert_same_run(run, train(under(rule)))
    assert_rule_was_on(run)


@each_rule
@places
def test_mixed_precision_is_that_of_autocast(make: Callable[[fa.Rule], Classifier], rule: fa.Rule) -> None:
    run = fit(make(rule), precision="bf16-mixed")
    plain = train(whole(make(rule)), precision=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert_same_run(run, plain)
    assert not torch.equal(first_layer(run), first_layer(train(whole(make(rule)))))


@each_rule
@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_true_precision_takes_the_feedback_along(rule: fa.Rule, precision: str) -> None:
    module = on_the_network(rule)
    fit(module, precision=precision)
    wanted = {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    held = fa.handle_of(module).store.state_dict().values()
    assert {tensor.dtype for tensor in held if tensor.is_floating_point()} <= {wanted}


@each_rule
@places
def test_a_resumed_training_goes_on_as_if_it_had_not_been_interrupted(
    make: Callable[[fa.Rule], Classifier], rule: fa.Rule, tmp_path: Path
) -> None:
    trainer = trainer_for()
    trainer.fit(make(rule), loader())
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    fresh = make(rule)
    with torch.no_grad():
        for tensor in [*fresh.parameters(), *fresh.buffers()]:
            tensor.zero_()
    resumed = fit(fresh, max_epochs=2, resume=tmp_path / "first.ckpt")
    expected = train(whole(make(rule)), [*BATCHES, *BATCHES])
    expected.gradients = expected.gradients[len(BATCHES) :]
    assert_same_run(resumed, expected)


@pytest.mark.parametrize("rule", [*RULES, fa.BRSF(), fa.WeightPerturbed(), fa.NoisyBackprop()], ids=repr)
@places
def test_a_strategy_that_wraps_runs_one_forward_a_step(make: Callable[[fa.Rule], Classifier], rule: fa.Rule) -> None:
    """DDP runs `training_step` in the place of the LightningModule's forward, and that calls the model: still one."""
    run = fit(make(rule), strategy="ddp", use_distributed_sampler=False)
    assert_same_run(run, train(whole(make(rule))))
    assert_rule_was_on(run)


class Padded(Classifier):
    """Sequences of which only the first two steps count, said before the step or within it."""

    def __init__(self, said: str = "within") -> None:
        super().__init__(Unrolled())
        self.said = said

    def on_train_batch_start(self, batch: list[Tensor], number: int) -> None:
        if self.said == "before":
            self.say(batch)

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        if self.said == "within":
            self.say(batch)
        return super().training_step(batch, number)

    def say(self, batch: list[Tensor]) -> None:
        fa.handle_of(self).lengths(torch.full((len(batch[0]),), 2))


class Unrolled(Seeded):
    """The five features are five steps; every step makes an output, and their mean is the model's."""

    def build(self) -> None:
        self.rnn, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rnn(inputs.unsqueeze(-1))[0]).mean(1)


@pytest.mark.parametrize("said", ["before", "within"])
def test_lengths_reach_the_model_through_a_strategy_that_wraps(said: str) -> None:
    def gradients(**options: Any) -> list[Any]:
        module = attached(partial(Padded, options.pop("said", said)), fa.DFA(), x[:BATCH_SIZE])
        return [step["model.rnn.weight_hh_l0"] for step in fit(module, **options).gradients]

    wrapped, plain = gradients(strategy="ddp", use_distributed_sampler=False), gradients()
    for mine, wanted, untold in zip(wrapped, plain, gradients(said="never"), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(mine, untold, rtol=1e-3)


# Dynamo looks at `.grad` of tensors that are no leaves; it hides the warning from all who do not make it an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@places
def test_compiled_code_keeps_the_rule(make: Callable[[fa.Rule], Classifier]) -> None:
    module = make(fa.DFA())
    notes = Notes(whole(module))
    trainer_for(notes).fit(torch.compile(module, backend="eager"), loader())
    assert_same_run(notes.run, train(whole(make(fa.DFA()))))


class PastItsForward(Classifier):
    """Attached as a whole, it trains the network inside without its own forward."""

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FDFA(), fa.BRSF(), fa.WeightPerturbed(), fa.NoisyBackprop()], ids=repr)
def test_a_training_step_past_the_attached_forward_is_refused(rule: fa.Rule) -> None:
    module = attached(PastItsForward, rule, x[:BATCH_SIZE])
    with pytest.raises(fa.errors.OutsideForwardError, match="Call the model itself"):
        fit(module)


class AsADict(PastItsForward):
    def training_step(self, batch: list[Tensor], number: int) -> dict[str, Tensor]:
        return {"loss": super().training_step(batch, number)}


@pytest.mark.parametrize("make", [PastItsForward, AsADict])
@pytest.mark.parametrize("rule", [fa.DFA(), fa.FDFA(), fa.WeightPerturbed(), fa.NoisyBackprop()], ids=repr)
def test_a_wrapped_training_step_past_the_attached_forward_is_refused(
    rule: fa.Rule, make: Callable[[], Classifier]
) -> None:
    """There the loss comes back where the output should."""
    module = attached(make, rule, x[:BATCH_SIZE])
    with pytest.raises(fa.errors.OutsideForwardError, match="most likely its loss"):
        fit(module, strategy="ddp")


class Streaming(Classifier):
    """Streams; Lightning zeroes gradients between forward and backward, which would throw the streamed ones away."""

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        fa.handle_of(self).targets(batch[1])
        return super().training_step(batch, number)


class StreamingWell(Streaming):
    def optimizer_zero_grad(self, *_: Any) -> None:
        """Too early here; zeroed after the step instead."""

    def optimizer_step(self, epoch: int, number: int, optimizer: Any, closure: Any = None) -> None:
        super().optimizer_step(epoch, number, optimizer, closure)
        optimizer.zero_grad()


def test_gradients_streamed_before_lightnings_zero_grad_are_missed() -> None:
    with pytest.raises(fa.errors.StreamingError, match="before the forward"):
        fit(Streaming(under(fa.DRTP())))


def test_streaming_works_where_gradients_are_zeroed_after_the_step() -> None:
    run = fit(StreamingWell(under(fa.DRTP())), validation=True)
    assert_same_run(run, train(under(fa.DRTP())))
    assert_rule_was_on(run)


class AttachedInside(Classifier):
    """Attached where it is made, as `load_from_checkpoint` needs."""

    def __init__(self) -> None:
        super().__init__()
        fa.attach(self.model, fa.DFA(), example_inputs=x[:BATCH_SIZE])


def test_a_checkpoint_is_loaded_by_a_module_that_attaches_and_refused_by_one_that_does_not(tmp_path: Path) -> None:
    module, path = AttachedInside(), tmp_path / "attached.ckpt"
    fa.handle_of(module).store.feedback("act1").mul_(2)
    trainer = trainer_for()
    trainer.fit(module, loader())
    trainer.save_checkpoint(path)
    assert_same_state(AttachedInside.load_from_checkpoint(path), module, tolerance=0)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*feedalign"):
        Classifier.load_from_checkpoint(path)
    fa.handle_of(module).remove()
    trainer.save_checkpoint(path)
    assert_same_state(Classifier.load_from_checkpoint(path), module, tolerance=0)
