"""skorch, which makes its modules itself: where a rule must be attached to be there."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, GradientNormClipping
from skorch.dataset import ValidSplit
from skorch.hf import AccelerateMixin
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
    train,
    under,
    x,
    y,
)

each_rule = pytest.mark.parametrize("rule", RULES, ids=repr)
inputs, labels = x.numpy(), y.numpy()


def network(rule: fa.Rule, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """A factory: what skorch calls whenever it wants a module."""
    return attached(partial(Perceptron, activation=activation), rule, x[:BATCH_SIZE])


class Notes(Callback):
    """Notes the gradients where skorch shows them; listed before the callback that clips."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor | None]] = []

    def on_grad_computed(self, net: Any, named_parameters: Any, **_: Any) -> None:
        self.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in named_parameters})


class Net(NeuralNetClassifier):
    """The settings of the plain loop."""

    def __init__(self, module: Any, *args: Any, **options: Any) -> None:
        defaults = {
            "criterion": nn.CrossEntropyLoss,
            "optimizer": torch.optim.SGD,
            "optimizer__momentum": 0.9,
            "lr": 0.3,
            "batch_size": BATCH_SIZE,
            "max_epochs": 1,
            "train_split": None,
            "verbose": 0,
        }
        super().__init__(module, *args, **(defaults | options))


def fit(net: NeuralNetClassifier) -> Run:
    """Fit, and return what happened."""
    notes = Notes()
    net.set_params(callbacks=[("notes", notes), *(net.callbacks or [])])
    net.fit(inputs, labels)
    return Run(net.module_, dict(net.callbacks_)["notes"].gradients)


@each_rule
def test_a_module_that_a_factory_attaches_trains_as_in_the_plain_loop(rule: fa.Rule) -> None:
    run = fit(Net(network, module__rule=rule))
    assert_same_run(run, train(under(rule)))
    assert_rule_was_on(run)


class AttachingNet(Net):
    """The other place: behind what skorch makes, before it builds the optimizer."""

    def initialize_module(self) -> "AttachingNet":
        super().initialize_module()
        fa.attach(self.module_, fa.DKP(), example_inputs=x[:BATCH_SIZE], feedback=fa.KaimingUniform())
        return self


def test_initialize_module_is_the_other_place_to_attach() -> None:
    run = fit(AttachingNet(Perceptron))
    assert_same_run(run, train(under(fa.DKP())))
    assert_rule_was_on(run)


@each_rule
def test_an_attached_instance_is_taken_as_it_is(rule: fa.Rule) -> None:
    model = under(rule)
    run = fit(Net(model))
    assert run.model is model
    assert_same_run(run, train(under(rule)))


@each_rule
def test_a_clone_of_an_attached_instance_is_attached_and_apart(rule: fa.Rule) -> None:
    model, untouched = under(rule), under(rule)
    run = fit(clone(Net(model)))
    assert fa.handle_of(run.model) is not fa.handle_of(model)
    assert_same_run(run, train(under(rule)))
    assert_same_state(model, untouched, tolerance=0)


def test_an_instance_with_module_parameters_is_made_anew_without_its_rule() -> None:
    """skorch calls the class again; what tells is that the new module has no handle and the old one never fired."""
    model = under(fa.DFA())
    net = Net(model, module__seed=0).fit(inputs, labels)
    with pytest.raises(fa.errors.AttachError, match="No rule is attached"):
        fa.handle_of(net.module_)
    assert fa.handle_of(model).describe().rows[0].fired is None


def test_what_is_attached_between_initialize_and_fit_is_lost_and_kept_by_partial_fit() -> None:
    net = Net(Perceptron).initialize()
    early = fa.attach(net.module_, fa.DFA(), example_inputs=x[:BATCH_SIZE])
    net.partial_fit(inputs, labels)
    assert early.describe().rows[0].fired
    assert_same_state(net.module_, train(under(fa.DFA())).model)
    net.fit(inputs, labels)
    assert net.module_ is not early.model
    with pytest.raises(fa.errors.AttachError, match="No rule is attached"):
        fa.handle_of(net.module_)


@each_rule
def test_a_second_fit_starts_from_the_same_module_and_feedback(rule: fa.Rule) -> None:
    net = Net(network, module__rule=rule)
    first, second = fit(net), fit(net.set_params(callbacks=None))
    assert first.model is not second.model
    assert_same_run(second, first, tolerance=0)


def test_parameters_of_the_factory_can_be_searched() -> None:
    net = Net(network, module__rule=fa.DFA(), max_epochs=2)
    assert net.get_params()["module__rule"] == fa.DFA()
    grid = {"module__rule": [fa.Backprop(), fa.DFA(), fa.DKP()], "module__activation": [nn.Tanh, nn.Sigmoid]}
    search = GridSearchCV(net, grid, cv=2, scoring="accuracy", error_score="raise").fit(inputs, labels)
    assert len(search.cv_results_["params"]) == 6
    assert fa.handle_of(search.best_estimator_.module_).rules == (search.best_params_["module__rule"],)


@each_rule
def test_clipping_is_skorchs_own(rule: fa.Rule) -> None:
    run = fit(Net(network, module__rule=rule, callbacks=[("clip", GradientNormClipping(0.1))]))
    assert_same_run(run, train(under(rule), clip=0.1))


class AccumulatingNet(Net):
    """As skorch's documentation has it: two batches to a step."""

    def initialize(self) -> "AccumulatingNet":
        super().initialize()
        self.num_batches = 0
        return self

    def get_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().get_loss(*args, **kwargs) / 2

    def train_step(self, batch: Any, **fit_params: Any) -> Any:
        step = self.train_step_single(batch, **fit_params)
        self.num_batches += 1
        if self.num_batches % 2 == 0:
            self.notify("on_grad_computed", named_parameters=list(self.module_.named_parameters()), batch=batch)
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


@each_rule
def test_accumulation(rule: fa.Rule) -> None:
    assert_same_run(fit(AccumulatingNet(network, module__rule=rule)), train(under(rule), accumulate=2))


@each_rule
def test_validation_and_prediction_teach_nothing(rule: fa.Rule) -> None:
    net = Net(network, module__rule=rule, train_split=ValidSplit(3))
    net.initialize()
    net.predict(inputs)
    kept, _ = net.get_split_datasets(inputs, labels)
    rows = torch.as_tensor(kept.indices)
    run = fit(net)
    batches = list(zip(x[rows].split(BATCH_SIZE), y[rows].split(BATCH_SIZE), strict=True))
    assert_same_run(run, train(under(rule), batches))
    assert "valid_loss" in net.history[-1]


@each_rule
def test_saved_parameters_resume_a_training(rule: fa.Rule, tmp_path: Path) -> None:
    files = {"f_params": tmp_path / "params.pt", "f_optimizer": tmp_path / "optimizer.pt"}
    net = Net(network, module__rule=rule).fit(inputs, labels)
    net.save_params(**files)
    net.partial_fit(inputs, labels)
    resumed = Net(network, module__rule=rule).initialize()
    with torch.no_grad():
        for tensor in [*resumed.module_.parameters(), *resumed.module_.buffers()]:
            tensor.zero_()
    resumed.load_params(**files)
    resumed.partial_fit(inputs, labels)
    assert_same_state(resumed.module_, net.module_, tolerance=0)
    assert_same_state(net.module_, train(under(rule), [*BATCHES, *BATCHES]).model)


@each_rule
def test_a_pickled_net_keeps_its_rule(rule: fa.Rule) -> None:
    net = Net(network, module__rule=rule).fit(inputs, labels)
    again = pickle.loads(pickle.dumps(net))
    for one in (net, again):
        one.partial_fit(inputs, labels)
    assert_same_state(again.module_, net.module_, tolerance=0)
    assert fa.handle_of(again.module_).describe().rows[-1].fired is not False


class Probable(Perceptron):
    """Probabilities, as skorch's default criterion expects."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.softmax(super().forward(inputs))

    def build(self, **options: Any) -> None:
        super().build(**options)
        self.softmax = nn.Softmax(dim=-1)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DRTP(), fa.SignDFA()], ids=repr)
def test_probabilities_under_the_default_criterion(rule: fa.Rule) -> None:
    """skorch takes their logarithm, and the error is taken before the softmax."""
    run = fit(Net(lambda: attached(Probable, rule, x[:BATCH_SIZE]), criterion=nn.NLLLoss))
    first = {name: gradient for name, gradient in run.gradients[0].items() if gradient is not None}
    model = attached(Perceptron, rule, x[:BATCH_SIZE])
    expected = train(model, BATCHES[:1]).gradients[0]
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)


class AcceleratedNet(AccelerateMixin, Net):
    """Prepares the module with Accelerate."""


@pytest.mark.parametrize("precision", ["no", "bf16"])
@each_rule
def test_with_accelerate(rule: fa.Rule, precision: str) -> None:
    def make() -> nn.Module:
        return attached(Perceptron, rule, x[:BATCH_SIZE], output="head")

    try:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        run = fit(AcceleratedNet(make, accelerator=accelerator))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    half: Callable[[], Any] = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    # skorch runs the backward under autocast too, and learned feedback gets its gradient in half precision there.
    assert_same_run(run, train(make(), precision=half), tolerance=1e-6 if precision == "no" else 1e-2)


def test_outputs_are_those_of_the_plain_loop() -> None:
    net = Net(network, module__rule=fa.DFA()).fit(inputs, labels)
    expected = F.softmax(train(under(fa.DFA())).model(x), dim=-1).detach()
    np.testing.assert_allclose(net.predict_proba(inputs), expected.numpy(), rtol=1e-5, atol=1e-6)
