"""Conformance checks for anyone's own learning rule: what a rule must do for `attach` to do what it says.

    from feedalign.testing import check_rule

    def test_my_rule() -> None:
        check_rule(MyRule())

They cannot see whether the mathematics is the right one; that takes a comparison with the equations.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from feedalign.attach import attach
from feedalign.handle import Handle, handle_of
from feedalign.limits import UNLIMITED, Limits
from feedalign.rules.activity_perturbed import ActivityPerturbed
from feedalign.rules.base import DirectRule, EstimatingRule, LayerwiseRule, LearnedRule, Perturbing, Rule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.rules.weight_perturbed import WeightPerturbed
from feedalign.store import CHILD_NAME

LossFunction = Callable[[Tensor, Tensor], Tensor]
Gradients = dict[str, Tensor | None]

# Of the largest entry; all models are float64, so that only a rule's own float32 could come near it.
TOLERANCE = 1e-6
NUM_CLASSES = 3

_WORDS = ("name", "paper", "signal")
_FACTS = ("needs_targets", "learns_feedback", "update_locked", "weight_transport", "unbiased")
_LAST = slice(4, 6)


def check_rule(rule: Rule, *, loss: LossFunction = functional.cross_entropy) -> None:
    """Check on small built-in models that a rule keeps the promises that every rule of the library keeps.

    Attaching, stepping and removing leave alone what is not theirs (parameters, state_dict keys, buffers, gradients,
    the global random state, what the model returns); gradients are linear in the loss's scale, add up over samples and
    over backward passes, fit a partial batch, and are the same in every run, in a deep copy and after a state_dict was
    loaded into a fresh model; feedback is learned where that is declared; streaming gives the gradients of the error.

    What is promised less of, and by whom: the output layer's gradient is exact unless the rule perturbs it, or sends
    every parameter a vector of its own. A rule that sends such vectors without a slope, and one that estimates its
    feedback, may add to those gradients what no loss scales. Samples are compared with the perturbations that they
    have in the whole batch, and not at all where a batch's signals are made with feedback that it has itself moved, or
    have a full scale or a gain that all its samples share (`fa.Limits`). Where an error is late by a number of backward
    passes, two forwards under one backward count as one pass, and are not compared with two.

    Args:
        rule: The rule, with the options to check it with.
        loss: A loss that the rule can learn from: of the output `[rows, 3]` and class indices `[rows]`, averaged
            over rows, a scalar.

    Raises:
        AssertionError: The rule breaks a promise; the sentence says which, and on which model.
    """
    _run(f"{rule!r}", lambda: _check_declared(rule))
    _run(f"{rule!r}", lambda: _check_pure(rule))
    for setting in _settings():
        trial = _Trial(rule, setting, loss)
        for check in _CHECKS:
            _run(f"{rule!r} on {setting.name}", lambda check=check, trial=trial: check(trial))  # type: ignore[misc]


def _run(where: str, check: Callable[[], None]) -> None:
    """Say where a check failed, and turn an exception of the rule's into a failure."""
    try:
        check()
    except AssertionError as failure:
        raise AssertionError(f"{where}: {failure}") from None
    except Exception as error:
        raise AssertionError(f"{where}: it raised {type(error).__name__}: {error}") from error


def _require(is_kept: bool, sentence: str) -> None:
    if not is_kept:
        raise AssertionError(sentence)


@dataclass(frozen=True)
class _Setting:
    """A model and its data: six samples, class indices for every row of the output."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, NUM_CLASSES))


def _convolutional() -> nn.Module:
    first = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 3, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(12, NUM_CLASSES))


def _settings() -> list[_Setting]:
    draws = torch.Generator().manual_seed(0)
    rows, images, tokens = (
        torch.randn(shape, generator=draws, dtype=torch.float64) for shape in [(6, 5), (6, 2, 6, 6), (6, 4, 5)]
    )
    labels = torch.arange(6) % NUM_CLASSES
    of_tokens = torch.arange(24).reshape(6, 4) % NUM_CLASSES
    return [
        _Setting("a perceptron", _perceptron, rows, labels),
        _Setting("a convolutional network", _convolutional, images, labels),
        _Setting("a perceptron at every token", _perceptron, tokens, of_tokens),
    ]


@dataclass(frozen=True)
class _Trial:
    """One rule in one setting; whatever is made here is the same every time."""

    rule: Rule
    setting: _Setting
    loss: LossFunction

    def model(self, seed: int = 1) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.setting.make().double()

    def attached(self, model: nn.Module | None = None, seed: int = 2) -> tuple[nn.Module, Handle]:
        model = self.model() if model is None else model
        draws = Generator().manual_seed(seed)
        return model, attach(model, self.rule, example_inputs=self.setting.inputs, generator=draws)

    def apart(self, samples: slice) -> Gradients:
        """Gradients of the first step of a fresh model on a part of the batch, perturbed as it is in the whole."""
        model, handle = self.attached()
        _perturb_as_in_the_whole(handle, samples, len(self.setting.inputs))
        return self.step(model, samples)

    def loss_of(self, model: nn.Module, samples: slice = slice(None), factor: float = 1.0) -> Tensor:
        targets = self.setting.targets[samples]
        if self.rule.needs_targets and _is_attached(model):
            handle_of(model).targets(targets, scale=factor / targets.numel())
        output: Tensor = model(self.setting.inputs[samples])
        return factor * self.loss(output.flatten(0, -2), targets.flatten())

    def step(self, model: nn.Module, samples: slice = slice(None), factor: float = 1.0) -> Gradients:
        model.zero_grad(set_to_none=True)
        self.loss_of(model, samples, factor).backward()
        return _gradients(model)

    def fresh(self, samples: slice = slice(None), factor: float = 1.0) -> Gradients:
        """Gradients of the first step of a fresh model."""
        return self.step(self.attached()[0], samples, factor)


def _perturb_as_in_the_whole(handle: Handle, samples: slice, num_samples: int) -> None:
    """Let the rule draw for some samples what it draws for them as a part of the whole batch."""
    perturber = handle._circuit.perturber
    if perturber is None:
        return
    draw, parameters = perturber._draw, set(perturber.parameters)

    def draw_part(likes: Sequence[Tensor], first_stream: int, distribution: str) -> list[Tensor]:
        if parameters and not perturber.per_sample:
            return draw(likes, first_stream, distribution)
        whole = [like.new_empty(num_samples, *like.shape[1:]) for like in likes]
        return [drawn[:, samples] for drawn in draw(whole, first_stream, distribution)]

    perturber._draw = draw_part  # type: ignore[method-assign]


def _is_attached(model: nn.Module) -> bool:
    return any(name.endswith(CHILD_NAME) for name, _ in model.named_modules())


def _gradients(model: nn.Module) -> Gradients:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def _differing(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> str | None:
    """The first name under which two sets of gradients differ by more than the tolerance."""
    return next((name for name, wanted in expected.items() if not _are_close(found.get(name), wanted)), None)


def _are_close(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None:
        return found is expected
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    allowed = TOLERANCE * float(expected.abs().max()) + 1e-12
    return float((found - expected).abs().max()) <= allowed


def _require_equal(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None], sentence: str) -> None:
    name = _differing(found, expected)
    _require(name is None, f"{sentence} ({name})")


def _require_same(found: Gradients, expected: Gradients, sentence: str) -> None:
    """Equal in every bit."""
    pairs = [(found.get(name), wanted) for name, wanted in expected.items()]
    _require(all(torch.equal(a, b) if a is not None and b is not None else a is b for a, b in pairs), sentence)


def _sum(*terms: Gradients) -> Gradients:
    """Sum by name; None where every term has None."""
    total: Gradients = {}
    for name in terms[0]:
        held = [grad for term in terms if (grad := term[name]) is not None]
        total[name] = torch.stack(held).sum(0) if held else None
    return total


def _times(factor: float, gradients: Gradients) -> Gradients:
    return {name: None if grad is None else factor * grad for name, grad in gradients.items()}


def _check_declared(rule: Rule) -> None:
    _require(isinstance(rule, Rule), "it is no feedalign.Rule")
    for word in _WORDS:
        held = getattr(type(rule), word, None)
        _require(isinstance(held, str) and bool(held), f"its class does not declare {word!r}, a word for tables")
    for fact in _FACTS:
        held = getattr(type(rule), fact, None)
        _require(isinstance(held, bool), f"its class declares {fact} = {held!r}; it is True or False")
    options = vars(type(rule)).get("__dataclass_params__")
    _require(options is not None and options.frozen, "its class is no @dataclass(frozen=True)")
    for made, how in ((copy.deepcopy(rule), "a deep copy"), (pickle.loads(pickle.dumps(rule)), "a pickled copy")):
        _require(made == rule and hash(made) == hash(rule), f"{how} of it is not equal to it, or has another hash")
    if isinstance(rule, DirectRule) and rule.streams:
        _require(not rule.update_locked, "it declares that it streams and that its updates are locked")


def _check_pure(rule: Rule) -> None:
    """The rule's mathematics is a function of its arguments, of the right shape and dtype."""
    generator = torch.Generator().manual_seed(3)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    num = rule.num_perturbations if isinstance(rule, Perturbing) else 1
    if isinstance(rule, DirectRule):
        output = some(4, NUM_CLASSES)
        error = (output.softmax(-1) - torch.eye(NUM_CLASSES, dtype=torch.float64)[[0, 2, 1, 0]]) / 4
        given = output if rule.reads_output else None
        _check_function("broadcast", lambda: rule.broadcast(error, given), error, [error, output])
    if isinstance(rule, LearnedRule):
        feedback, evidence = some(NUM_CLASSES, 5), some(4 if rule.reads_activations else NUM_CLASSES, 5)
        made = lambda: rule.feedback_gradient(feedback, error, evidence)  # noqa: E731
        _check_function("feedback_gradient", made, feedback, [feedback, error, evidence])
    if isinstance(rule, EstimatingRule):
        tangent, perturbation = some(4, NUM_CLASSES), some(4, 5)
        estimated = lambda: rule.estimate(tangent, perturbation, 4)  # noqa: E731
        _check_function("estimate", estimated, feedback, [tangent, perturbation])
        _check_function("averaged", lambda: rule.averaged(feedback, evidence), feedback, [feedback, evidence])
    if isinstance(rule, LayerwiseRule):
        weight, drawn = some(4, 3), some(4, 3)
        given = drawn if rule.draws_feedback or rule.redraws else None
        _check_function("feedback_weight", lambda: rule.feedback_weight(weight, given), weight, [weight, drawn])
    if isinstance(rule, SlopeRule):
        slope, perturbation = some(num, 4), some(num * 4, 5)
        _check_function("teach", lambda: rule.teach(slope, perturbation), perturbation[:4], [slope, perturbation])
    if isinstance(rule, WeightRule):
        slope, direction = some(num, 4), some(num, 4, 3, 5) if _is_per_sample(rule) else some(num, 3, 5)
        given = slope if isinstance(rule, Perturbing) else None
        _check_function("update", lambda: rule.update(given, direction), some(3, 5), [slope, direction])


def _is_per_sample(rule: Rule) -> bool:
    return isinstance(rule, WeightPerturbed) and rule.per == "sample"


def _check_function(name: str, call: Callable[[], Tensor], like: Tensor, arguments: list[Tensor]) -> None:
    before = [argument.clone() for argument in arguments]
    random_state = torch.get_rng_state()
    first, second = call(), call()
    _require(isinstance(first, Tensor), f"{name} returns {type(first).__name__}, not a tensor")
    _require(first.shape == like.shape, f"{name} returns shape {tuple(first.shape)}; it is to be {tuple(like.shape)}")
    _require(first.dtype == like.dtype, f"{name} returns {first.dtype} for arguments of {like.dtype}")
    _require(all(map(torch.equal, arguments, before)), f"{name} changes its arguments")
    _require(torch.equal(torch.get_rng_state(), random_state), f"{name} draws from the global random state")
    _require(torch.equal(first, second), f"{name} returns other numbers for the same arguments")


def _check_leaves_the_model(trial: _Trial) -> None:
    model = trial.model()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number)
    held, grads = dict(model.named_parameters()), _gradients(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    _, handle = trial.attached(model)
    _require(torch.equal(torch.get_rng_state(), random_state), "attaching draws from the global random state")
    after = model.state_dict()
    _require([k for k in after if k in state] == list(state), "attaching renames entries of the state_dict")
    _require(all(torch.equal(after[k], state[k]) for k in state), "attaching changes parameters or buffers")
    now = dict(model.named_parameters())
    _require(all(now.get(name) is p for name, p in held.items()), "attaching replaces parameters by others")
    _require_equal(_gradients(model), grads, "attaching changes .grad")
    handle.remove()
    _require(list(model.state_dict()) == list(state), "removing leaves entries in the state_dict")
    now = dict(model.named_parameters())
    _require(now.keys() == held.keys() and all(now[k] is held[k] for k in held), "removing leaves other parameters")
    _require_equal(trial.step(model), trial.step(trial.model()), "after removing, gradients are not backprop's")


def _check_step(trial: _Trial) -> None:
    model, _ = trial.attached()
    plain = trial.model()
    random_state = torch.get_rng_state()
    found = trial.step(model)
    _require(torch.equal(torch.get_rng_state(), random_state), "a step draws from the global random state")
    exact = trial.step(plain)
    last = list(exact)[-2:] if _has_exact_output(trial.rule) else []
    _require_equal(
        {name: found[name] for name in last},
        {name: exact[name] for name in last},
        "the output layer's gradient is not exact",
    )
    for name, grad in found.items():
        _require(grad is None or bool(grad.isfinite().all()), f"the gradient of {name} is not finite")
    inputs = trial.setting.inputs
    with torch.no_grad():
        _require(torch.equal(trial.attached()[0](inputs), trial.model()(inputs)), "it changes the model's output")
    losses = trial.loss_of(trial.attached()[0]), trial.loss_of(trial.model())
    _require(torch.equal(*losses), "it changes the model's output in training")


def _has_exact_output(rule: Rule) -> bool:
    is_perturbed = isinstance(rule, ActivityPerturbed) and rule.output == "perturbed"
    return not is_perturbed and not isinstance(rule, WeightRule)


def _check_feedback(trial: _Trial) -> None:
    """Learned feedback has a gradient of its own, or the forward moves it."""
    model, handle = trial.attached()
    late = handle._circuit.late
    others = {"counter"} | (set() if late is None else late.buffers())
    before = {name: buffer.clone() for name, buffer in handle.store.named_buffers() if name not in others}
    trial.step(model)
    learns = any(p.grad is not None for p in handle.store.parameters())
    learns |= any(not torch.equal(handle.store.get_buffer(name), buffer) for name, buffer in before.items())
    _require(learns == trial.rule.learns_feedback, f"it declares learns_feedback = {trial.rule.learns_feedback}")


def _check_loss_scale(trial: _Trial) -> None:
    once, twice = trial.fresh(), trial.fresh(factor=2.0)
    # Of gradients that may have one, the part that no loss scales: what remains at a loss of nothing.
    constant = _sum(_times(2.0, once), _times(-1.0, twice))
    free = {name for name in once if _may_add_a_constant(trial.rule, name)}
    constant = {name: part for name, part in constant.items() if name in free}
    for factor in (100.0, 2.0**-12):
        expected = _times(factor, once)
        expected |= _sum({name: expected[name] for name in constant}, _times(1 - factor, constant))
        sentence = f"{factor} times the loss does not give {factor} times the gradient"
        _require_equal(trial.fresh(factor=factor), expected, sentence)


def _may_add_a_constant(rule: Rule, name: str) -> bool:
    if isinstance(rule, WeightRule):
        return not isinstance(rule, Perturbing)
    return isinstance(rule, EstimatingRule) and CHILD_NAME in name.split(".")


def _check_partial_batch(trial: _Trial) -> None:
    """Two of six samples; the mean over a batch is the mean of the means over its thirds."""
    alone = trial.fresh(_LAST)
    shapes = {name: p.shape for name, p in trial.attached()[0].named_parameters()}
    for name, grad in alone.items():
        _require(
            grad is None or grad.shape == shapes[name], f"a partial batch gives {name} a gradient of another shape"
        )
    has_norm = any(isinstance(module, nn.BatchNorm2d) for module in trial.model().modules())
    if has_norm or _uses_new_feedback(trial.rule) or _limits(trial.rule).mixes_samples:
        return
    thirds = [trial.apart(slice(start, start + 2)) for start in (0, 2, 4)]
    sentence = (
        "the gradient of a mean over the batch is not the mean over its samples: a factor of 1/N is lost or added"
    )
    _require_equal(trial.fresh(), _times(1 / 3, _sum(*thirds)), sentence)


def _uses_new_feedback(rule: Rule) -> bool:
    """Whether the signals of a batch are made with feedback that this batch has moved."""
    return isinstance(rule, EstimatingRule) and rule.projects_average


def _limits(rule: Rule) -> Limits:
    return rule.limits if isinstance(rule, DirectRule) else UNLIMITED


def _check_accumulation(trial: _Trial) -> None:
    first, last = slice(0, 3), slice(3, 6)
    model, _ = trial.attached()
    total = _sum(trial.step(model, first), trial.step(model, last))
    model, _ = trial.attached()
    trial.loss_of(model, first).backward()
    trial.loss_of(model, last).backward()
    _require_equal(_gradients(model), total, "gradients of two backward passes do not add up in .grad")
    if not trial.rule.needs_targets and not _limits(trial.rule).delay:
        model, _ = trial.attached()
        losses = [trial.loss_of(model, first), trial.loss_of(model, last)]
        torch.stack(losses).sum().backward()
        _require_equal(_gradients(model), total, "a second forward before the backward changes the gradients")


def _check_copies(trial: _Trial) -> None:
    """After a first step, so that feedback that moves, and the clock that perturbations are drawn by, have moved."""
    model, _ = trial.attached()
    trial.step(model)
    copied = copy.deepcopy(model)
    resumed, _ = trial.attached(trial.model(seed=11), seed=12)
    resumed.load_state_dict(model.state_dict())
    expected = trial.step(model)
    before = _gradients(model)
    _require_same(trial.step(copied), expected, "a deep copy has other gradients")
    _require_same(_gradients(model), before, "a step of a deep copy changes gradients of the original")
    _require_same(trial.step(resumed), expected, "after load_state_dict into a fresh model the gradients are others")


def _check_determinism(trial: _Trial) -> None:
    once = trial.fresh()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        again = trial.fresh()
    _require_same(again, once, "two runs from the same seed have other gradients")


def _check_streaming(trial: _Trial) -> None:
    if not (isinstance(trial.rule, DirectRule) and trial.rule.streams):
        return
    expected = trial.fresh()
    model, handle = trial.attached()
    handle.targets(trial.setting.targets)
    trial.loss_of(model).backward()
    _require_equal(_gradients(model), expected, "streaming gives other gradients than the error does")


_CHECKS = (
    _check_leaves_the_model,
    _check_step,
    _check_feedback,
    _check_loss_scale,
    _check_partial_batch,
    _check_accumulation,
    _check_copies,
    _check_determinism,
    _check_streaming,
)
