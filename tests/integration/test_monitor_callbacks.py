"""A Monitor in Lightning's Trainer and in that of transformers, and imported by itself."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lightning
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments

import feedalign as fa
from feedalign.callbacks.lightning import MonitorCallback as LightningMonitor
from feedalign.callbacks.transformers import MonitorCallback as TransformersMonitor
from feedalign.errors import AttachError, MonitorError
from feedalign.measure import Monitor, MonitorRecord, read_records
from integration.plain_loop import BATCH_SIZE, BATCHES, assert_same_state, loader, sgd, under, x
from integration.transformers_models import GPT2_BLOCKS, Batch, tokens, untied_gpt2

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield
    if dist.is_initialized():
        dist.destroy_process_group()


def by_hand(model: nn.Module, batches: Any, folder: Path, *, every: int, accumulate: int = 1) -> list[MonitorRecord]:
    """The plain loop with a Monitor on the first batch of each step."""
    monitor, optimizer = Monitor(model, every=every, folder=folder), sgd(model)
    for number, (inputs, labels) in enumerate(batches):
        if number % accumulate == 0:
            monitor.begin()
        (F.cross_entropy(model(inputs), labels) / accumulate).backward()
        monitor.end()
        if (number + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return read_records(folder)


def assert_same_records(found: list[MonitorRecord], expected: list[MonitorRecord]) -> None:
    assert [record.step for record in found] == [record.step for record in expected]
    for mine, wanted in zip(found, expected, strict=True):
        numbers = dict(wanted.scalars())
        # Adding up in another order makes tiny angles.
        close = {name: pytest.approx(value, rel=1e-4, abs=1e-2) for name, value in numbers.items()}
        assert {in_plain(name, numbers): value for name, value in mine.scalars()} == close


def in_plain(name: str, numbers: dict[str, float]) -> str:
    """A module's name is longer where the rule is on the LightningModule around it."""
    return name if name in numbers else name.replace("/model.", "/")


class Classifier(lightning.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def training_step(self, batch: list[Tensor], number: int) -> Tensor | None:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


def fit(module: Classifier, *callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    resume = options.pop("resume", None)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1}
    trainer = lightning.Trainer(callbacks=list(callbacks), **(quiet | options))
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"strategy": "ddp", "use_distributed_sampler": False},
    ],
    ids=["plain", "accumulation", "ddp"],
)
def test_lightning_records_what_a_loop_does(tmp_path: Path, options: dict[str, Any]) -> None:
    module, alone = Classifier(under(fa.DFA())), Classifier(under(fa.DFA()))
    callback = LightningMonitor(every=2, folder=tmp_path / "lightning")
    fit(module, callback, **options)
    fit(alone, **options)
    assert_same_state(module, alone, tolerance=0)
    if "gradient_clip_val" not in options:
        expected = by_hand(under(fa.DFA()), BATCHES, tmp_path / "loop", every=2)
        assert_same_records(read_records(tmp_path / "lightning"), expected)
        assert [record.step for record in expected] == [1, 3, 5]
    else:
        assert [record.step for record in read_records(tmp_path / "lightning")] == [1, 3]
    assert callback.monitor is not None
    assert callback.monitor.last is not None


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_a_rule_on_the_lightning_module_itself_is_watched(tmp_path: Path, strategy: str) -> None:
    """Under DDP the Trainer runs `training_step` in the place of the module's forward."""
    module = Classifier(under(fa.DFA()))
    fa.handle_of(module).remove()
    fa.attach(module, fa.DFA(), example_inputs=x[:BATCH_SIZE])
    callback = LightningMonitor(every=3, folder=tmp_path / "whole")
    fit(module, callback, strategy=strategy, use_distributed_sampler=False)
    expected = by_hand(under(fa.DFA()), BATCHES, tmp_path / "loop", every=3)
    assert_same_records(read_records(tmp_path / "whole"), expected)


def test_a_resumed_lightning_run_goes_on(tmp_path: Path) -> None:
    whole, first, resumed = (Classifier(under(fa.DFA())) for _ in range(3))
    fit(whole, LightningMonitor(every=4, folder=tmp_path / "whole"), max_epochs=2)
    trainer = fit(first, LightningMonitor(every=4, folder=tmp_path / "resumed"))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    callback = LightningMonitor(every=4, folder=tmp_path / "resumed")
    fit(resumed, callback, max_epochs=2, resume=tmp_path / "first.ckpt")
    assert [record.step for record in read_records(tmp_path / "resumed")] == [1, 5, 9]
    assert read_records(tmp_path / "resumed") == read_records(tmp_path / "whole")


class Skipping(Classifier):
    """Makes no loss of its first batch, and fails at its third."""

    fails = False

    def training_step(self, batch: list[Tensor], number: int) -> Tensor | None:
        if self.fails and number == 2:
            raise ZeroDivisionError
        return None if number == 0 else super().training_step(batch, number)


def num_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_batch_without_a_loss_is_passed_over_and_one_that_fails_leaves_no_hooks(tmp_path: Path) -> None:
    module = Skipping(under(fa.DFA()))
    before = num_hooks(module)
    callback = LightningMonitor(every=1, folder=tmp_path)
    fit(module, callback)
    assert num_hooks(module) == before
    assert [record.step for record in read_records(tmp_path)] == [2, 3, 4, 5, 6]
    module.fails = True
    with pytest.raises(ZeroDivisionError):
        fit(module, LightningMonitor(every=1))
    assert num_hooks(module) == before


class Scalars(Logger):
    """A logger of Lightning's with a TensorBoard writer in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, float, int]] = []

    @property
    def experiment(self) -> Any:
        return self

    @property
    def name(self) -> str:
        return "scalars"

    @property
    def version(self) -> str:
        return "0"

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.found.append((tag, scalar_value, global_step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...


def test_lightnings_own_writer_gets_the_numbers() -> None:
    logger = Scalars()
    callback = LightningMonitor(every=4, tensorboard=logger.experiment)
    fit(Classifier(under(fa.DFA())), callback, logger=logger)
    assert callback.monitor is not None
    assert callback.monitor.last is not None
    assert ("angle/fc1", callback.monitor.last["fc1"].angle, 5) in logger.found


class Rows(Dataset[Batch]):
    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def __getitem__(self, index: int) -> Batch:
        return {name: value[index] for name, value in self.batch.items()}


class InOrder(Trainer):
    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


DATA = tokens(16)


def gpt2() -> nn.Module:
    model = untied_gpt2()
    fa.attach(model, fa.DFA(), example_inputs=tokens(2), points=GPT2_BLOCKS, output="lm_head")
    return model


def train(model: nn.Module, folder: Path, *callbacks: Any, resume: str | None = None, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_strategy": "no"}
    defaults |= {"save_strategy": "no", "max_steps": 4, "per_device_train_batch_size": 4, "output_dir": str(folder)}
    defaults |= {"learning_rate": 0.1, "lr_scheduler_type": "constant", "optim": "sgd", "optim_args": "momentum=0.9"}
    arguments = TrainingArguments(**(defaults | options))
    trainer = InOrder(model=model, args=arguments, train_dataset=Rows(DATA), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"bf16": True},
    ],
    ids=["plain", "accumulation", "bf16"],
)
def test_the_trainer_of_transformers_records_and_trains_as_without(tmp_path: Path, options: dict[str, Any]) -> None:
    model, alone = gpt2(), gpt2()
    callback = TransformersMonitor(every=2, folder=tmp_path / "run")
    train(model, tmp_path, callback, **options)
    train(alone, tmp_path, **options)
    assert_same_state(model, alone, tolerance=0)
    records = read_records(tmp_path / "run")
    assert [record.step for record in records] == [1, 3]
    for record in records:
        assert record.replay_error == 0
        assert record.error_norm == 1, "that of the loss, which the model itself returns"
        assert record["transformer.h.0.mlp.c_proj"].signal_norm
        block = record["transformer.h.0.mlp.c_fc"]
        assert block.angle is not None
        assert block.angle > 20
        assert record["lm_head"].angle == pytest.approx(0, abs=0.5 if options.get("bf16") else 1e-3)


def test_its_numbers_are_those_of_the_gradients(tmp_path: Path) -> None:
    model, exact = gpt2(), untied_gpt2()
    callback = TransformersMonitor(every=1)
    train(model, tmp_path, callback, max_steps=1, learning_rate=0.0, max_grad_norm=0.0)
    batch = {name: value[:4] for name, value in DATA.items()}
    for one in (model, exact):
        one.train()
        one.zero_grad()
        one(**batch, num_items_in_batch=batch["labels"][:, 1:].numel()).loss.backward()
    name = "transformer.h.1.attn.c_attn"
    ruled, wanted = (one.get_submodule(name).weight.grad for one in (model, exact))
    assert callback.monitor is not None
    assert callback.monitor.last is not None
    row = callback.monitor.last[name]
    cosine = F.cosine_similarity(ruled.flatten(), wanted.flatten(), dim=0)
    assert row.angle == pytest.approx(float(torch.rad2deg(torch.acos(cosine))), abs=0.01)
    assert row.ratio == pytest.approx(float(ruled.norm() / wanted.norm()), rel=1e-3)


def test_a_resumed_trainer_goes_on(tmp_path: Path) -> None:
    train(gpt2(), tmp_path / "whole", TransformersMonitor(every=2, folder=tmp_path / "whole"))
    folder = tmp_path / "resumed"
    callback = TransformersMonitor(every=2, folder=folder)
    train(gpt2(), folder, callback, save_strategy="steps", save_steps=2, max_steps=3)
    train(gpt2(), folder, callback, resume=str(folder / "checkpoint-2"))
    assert read_records(folder) == read_records(tmp_path / "whole")


def test_a_model_without_a_rule_is_refused_by_both(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="No rule is attached"):
        train(untied_gpt2(), tmp_path, TransformersMonitor(every=1))
    plain = under(fa.DFA())
    fa.handle_of(plain).remove()
    with pytest.raises(AttachError, match="No rule is attached"):
        fit(Classifier(plain), LightningMonitor(every=1))


def test_a_trainer_that_leaves_the_model_aside_is_refused() -> None:
    class Aside(Classifier):
        def __init__(self) -> None:
            super().__init__(under(fa.DFA()))
            self.other = nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.other(inputs)

    with pytest.raises(MonitorError, match="did not run"):
        fit(Aside(), LightningMonitor(every=1))


def test_no_framework_is_imported_before_its_callback_is() -> None:
    code = "import sys, feedalign.callbacks; feedalign.measure.Monitor; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "feedalign.measure.monitor" in found
    assert not {"lightning", "transformers", "tensorboard", "matplotlib", "torch.utils.tensorboard"} & set(found)


@pytest.mark.parametrize("make", [LightningMonitor, TransformersMonitor])
def test_options_of_the_callbacks_are_the_monitors_and_a_second_training_closes_that_of_the_first(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    model, trainer = under(fa.DFA()), mock.Mock(global_step=4)
    callback = make(every=7, folder=tmp_path, tensorboard=mock.Mock(), momentum=0.5)
    for _ in range(2):
        with mock.patch.object(Monitor, "close", autospec=True) as closed, mock.patch.object(Monitor, "begin") as begun:
            before = callback.monitor
            if make is LightningMonitor:
                callback.on_train_start(trainer, model)
                callback.on_train_batch_start(trainer, model, None, 0)
            else:
                callback.on_train_begin(None, trainer, None, model=model)
                callback.on_step_begin(None, trainer, None)
        begun.assert_called_once_with(5)
        assert [call.args[0] for call in closed.call_args_list] == ([] if before is None else [before])
        assert (callback.monitor.every, callback.monitor.momentum, callback.monitor.steps) == (7, 0.5, 4)
        assert callback.monitor._file.path == tmp_path.resolve() / "monitor.jsonl"
        assert callback.monitor._writer is callback._tensorboard
