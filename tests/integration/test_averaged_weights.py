"""Averages of weights beside a training: torch's AveragedModel, SWALR, update_bn, and Lightning's callbacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, update_bn

import feedalign as fa
from attach.models import Perceptron, Regularised
from integration.gradients import AVERAGED, attached
from integration.plain_loop import (
    BATCH_SIZE,
    BATCHES,
    RULES,
    Run,
    assert_rule_was_on,
    assert_same_run,
    assert_same_state,
    loader,
    sgd,
    train,
    under,
    x,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]

DECAY = 0.9
MEANS: dict[str, dict[str, Any]] = {
    "swa": {},
    "ema": {"avg_fn": get_ema_avg_fn(DECAY)},
    "ema over lists": {"multi_avg_fn": get_ema_multi_avg_fn(DECAY)},
}
DRAWING = [fa.BRSF(), fa.WeightPerturbed()]

each_rule = pytest.mark.parametrize("rule", [*RULES, *DRAWING], ids=repr)
State = dict[str, Tensor]


def normalised() -> nn.Module:
    """Batch normalization, and no dropout: nothing here draws from the global random state."""
    model = Regularised()
    model.drop.p = 0.0
    return model


def state_of(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def averaged_by_hand(states: list[State], mean: str) -> State:
    """The average of the states of a training, one after each step."""
    average = dict(states[0])
    for number, state in enumerate(states[1:], start=1):
        rate = 1 / (number + 1) if mean == "swa" else 1 - DECAY
        average = {name: (1 - rate) * average[name] + rate * state[name] for name in average}
    return average


def train_with_average(model: nn.Module, **options: Any) -> tuple[Run, AveragedModel, list[State]]:
    """Train, and after each step average and look at the outputs of the average."""
    average, optimizer = AveragedModel(model, **options), sgd(model)
    run, states = Run(model), []
    for one in BATCHES:
        run.gradients += train(model, [one], optimizer=optimizer).gradients
        average.update_parameters(model)
        states.append(state_of(model))
        average(one[0])
        with torch.inference_mode():
            average(one[0])
    return run, average, states


@each_rule
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_beside_it_changes_nothing_of_a_training(rule: fa.Rule, mean: str, use_buffers: bool) -> None:
    run, average, states = train_with_average(under(rule), **MEANS[mean], use_buffers=use_buffers)
    assert_same_run(run, train(under(rule)))
    expected = averaged_by_hand(states, mean)
    parameters = dict(average.module.named_parameters())
    assert parameters.keys() == dict(run.model.named_parameters()).keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.FRSF(), fa.SignDFA()], ids=repr)
def test_feedback_that_is_fixed_has_itself_for_an_average(rule: fa.Rule, mean: str) -> None:
    for use_buffers, tolerance in ((False, 0.0), (True, 1e-6)):
        run, average, _ = train_with_average(under(rule), **MEANS[mean], use_buffers=use_buffers)
        assert_same_state(fa.handle_of(average).store, fa.handle_of(run.model).store, tolerance)
    assert_rule_was_on(run)


@each_rule
def test_without_averaged_buffers_the_average_holds_the_clock_and_the_matrices_of_the_training(rule: fa.Rule) -> None:
    run, average, _ = train_with_average(under(rule))
    average(x)  # with gradients: its own clock goes on, and a matrix that is an average in the forward moves
    average.update_parameters(run.model)
    mine, theirs = fa.handle_of(run.model).store, fa.handle_of(average).store
    assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), theirs.buffers(), strict=True))


@each_rule
def test_the_average_without_its_rule_is_a_plain_model(rule: fa.Rule) -> None:
    run, average, states = train_with_average(under(rule))
    outputs = average(x).detach()
    fa.handle_of(average).remove()
    plain = Perceptron()
    plain.load_state_dict(average.module.state_dict())
    torch.testing.assert_close(plain(x), outputs, rtol=1e-6, atol=1e-6)
    assert fa.handle_of(run.model).describe().rows
    expected = averaged_by_hand(states, "swa")
    torch.testing.assert_close(plain.fc1.weight, expected["fc1.weight"], rtol=1e-6, atol=1e-6)


@each_rule
def test_an_average_can_be_trained_on_by_its_rule(rule: fa.Rule) -> None:
    for use_buffers in (False, True):
        _, average, _ = train_with_average(under(rule), use_buffers=use_buffers)
        run = train(average.module, BATCHES[:2])
        assert all(row.fired is not False for row in fa.handle_of(average).describe().rows)
        assert all(g is not None and g.isfinite().all() for step in run.gradients for g in step.values())


def test_an_average_made_before_attach_does_not_fit() -> None:
    model = Perceptron()
    average = AveragedModel(model)
    fa.attach(model, fa.DFA(), example_inputs=x)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        average.update_parameters(model)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.DKP()], ids=repr)
def test_swalr_and_update_bn_find_what_they_would_without_a_rule(rule: fa.Rule) -> None:
    model = attached(normalised, rule, x[:BATCH_SIZE])
    average, optimizer = AveragedModel(model), sgd(model)
    schedule = SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    for one in BATCHES:
        train(model, [one], optimizer=optimizer)
        average.update_parameters(model)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    plain = normalised()
    plain.load_state_dict(average.module.state_dict(), strict=False)
    held = state_of(fa.handle_of(average).store)
    update_bn(loader(), average)
    update_bn(loader(), plain)
    assert torch.equal(average.module.norm.running_mean, plain.norm.running_mean)
    assert torch.equal(average.module.norm.running_var, plain.norm.running_var)
    assert torch.equal(average.eval()(x), plain.eval()(x))
    assert all(torch.equal(tensor, held[name]) for name, tensor in fa.handle_of(average).store.state_dict().items())


@pytest.mark.parametrize("rule", [AVERAGED, *DRAWING], ids=repr)
def test_update_bn_draws_nothing_and_moves_nothing(rule: fa.Rule) -> None:
    average = AveragedModel(attached(normalised, rule, x[:BATCH_SIZE]))
    held = state_of(fa.handle_of(average).store)
    update_bn(loader(), average)
    assert all(torch.equal(tensor, held[name]) for name, tensor in fa.handle_of(average).store.state_dict().items())


class Classifier(lightning.LightningModule):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        self.model(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


class Notes(lightning.Callback):
    def __init__(self, model: nn.Module, path: Path | None = None) -> None:
        self.run, self.path = Run(model), path

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.run.note()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.path is not None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def fit(
    model: nn.Module, callback: lightning.Callback, *, epochs: int = 1, path: Path | None = None, resume: Any = None
) -> Run:
    """Train with Lightning, validating with the average after each epoch; `path` keeps the first epoch's checkpoint."""
    notes = Notes(model, path)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        enable_checkpointing=False,
        callbacks=[notes, callback],
        **silent,
    )
    trainer.fit(Classifier(model), loader(), loader(), ckpt_path=resume)
    return notes.run


@each_rule
@pytest.mark.parametrize("use_buffers", [False, True])
def test_lightnings_moving_average_leaves_the_training_alone_and_the_average_at_its_end(
    rule: fa.Rule, use_buffers: bool
) -> None:
    run = fit(under(rule), EMAWeightAveraging(decay=DECAY, use_buffers=use_buffers))
    options = MEANS["ema"] | {"use_buffers": use_buffers}
    plain, average, _ = train_with_average(under(rule), **options)
    for mine, wanted in zip(run.gradients, plain.gradients, strict=True):
        assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
    mine = dict(run.model.named_parameters())
    assert all(torch.equal(mine[name], parameter) for name, parameter in average.module.named_parameters())


@each_rule
def test_lightnings_moving_average_resumes(rule: fa.Rule, tmp_path: Path) -> None:
    """The checkpoint has the average in the place of the weights, and the weights beside it."""
    whole = fit(under(rule), EMAWeightAveraging(decay=DECAY), epochs=2, path=tmp_path / "first.ckpt")
    fresh = under(rule)
    with torch.no_grad():
        for tensor in [*fresh.parameters(), *fresh.buffers()]:
            tensor.zero_()
    resumed = fit(fresh, EMAWeightAveraging(decay=DECAY), epochs=2, resume=tmp_path / "first.ckpt")
    whole.gradients = whole.gradients[len(BATCHES) :]
    assert_same_run(resumed, whole, tolerance=0)


@pytest.mark.parametrize("make", [Perceptron, normalised])
@each_rule
def test_lightnings_swa_leaves_the_mean_of_the_epochs(rule: fa.Rule, make: Callable[[], nn.Module]) -> None:
    """It averages what each epoch starts with; under batch normalization an epoch without lessons follows."""
    swa = StochasticWeightAveraging(swa_lrs=0.3, swa_epoch_start=1, annealing_epochs=1)
    run = fit(attached(make, rule, x[:BATCH_SIZE]), swa, epochs=3)
    model = attached(make, rule, x[:BATCH_SIZE])
    optimizer, states, gradients = sgd(model), [], []
    for _ in range(3):
        states.append(state_of(model))
        gradients += train(model, BATCHES, optimizer=optimizer).gradients
    for mine, wanted in zip(run.gradients[: len(gradients)], gradients, strict=True):
        for name, gradient in wanted.items():
            torch.testing.assert_close(mine[name], gradient, rtol=1e-6, atol=1e-6)
    expected = averaged_by_hand(states, "swa")
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-6)
