"""One step of an attached model, and its comparison with the equations by hand."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from unittest import mock

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.perturbation import perturbations
from feedalign.rules import DirectRule, LayerwiseRule, PointRule, WeightRule
from problems import Problem, TimesOne, by_hand
from reference import brsf, fdfa, perceptron
from reference.losses import error_at_output, one_hot
from reference.perceptron import Case, Draws, Head

Gradients = Mapping[str, Tensor | None]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}

# Where the numbers of places begin at which perturbations are drawn: points from 1, parameters from here.
FIRST_PARAMETER = 2048


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """What every parameter holds in `.grad`."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def gradients_after(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Gradients of this loss alone, through the backward that a user calls."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return gradients(model)


def assert_agree(found: Gradients, expected: Gradients, tolerance: float | None = None) -> None:
    """Raise AssertionError unless every gradient is there where one is expected, and equal."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        have = found[name]
        if wanted is None or have is None:
            assert have is None, f"{name} has a gradient and should have none"
            assert wanted is None, f"{name} has no gradient"
            continue
        allowed = TOLERANCE[have.dtype] if tolerance is None else tolerance
        torch.testing.assert_close(
            have.double(), wanted.double(), rtol=allowed, atol=allowed, msg=lambda text, name=name: f"{name}: {text}"
        )


def rule_for(rule: type[fa.Rule], problem: Problem) -> fa.Rule:
    """The rule, told what nothing in a network with a linear last layer tells: that its loss is a sigmoid's."""
    if not reads_targets(rule):
        return rule()
    options = {"link": "sigmoid"} if problem.loss == "binary_cross_entropy" else {}
    if rule is fa.DRTP and problem.nonlinearity == "relu":
        options["allow_unbounded"] = True
    return rule(**options)


def reads_targets(rule: type[fa.Rule]) -> bool:
    """Whether the rule reads targets and scale from the error, which the losses of classification allow."""
    return getattr(rule, "reads_output", False)


def fits(rule: type[fa.Rule], problem: Problem) -> bool:
    """Whether the rule can learn this problem at all."""
    if rule is fa.LocalGreedy and problem.num_hidden < 2:
        return False
    # A softmax over one class is 1: there is no error to read a target from.
    has_targets = problem.loss == "binary_cross_entropy" or (problem.loss == "cross_entropy" and problem.widths[-1] > 1)
    return has_targets or not reads_targets(rule)


def feedback_for(rule: fa.Rule, problem: Problem) -> dict[str, Tensor] | None:
    """Feedback to give to `attach`; None for rules that draw none, or draw it at every forward."""
    if isinstance(rule, DirectRule):
        return problem.direct_feedback()
    if isinstance(rule, fa.LocalGreedy):
        return dict(list(problem.direct_feedback().items())[:-1])
    if isinstance(rule, LayerwiseRule) and rule.draws_feedback and not rule.redraws:
        return problem.layerwise_feedback()
    return None


@contextmanager
def recorded(chosen: Mapping[int, Tensor] | None = None) -> Iterator[dict[int, Tensor]]:
    """Gather what forwards draw, `[K, *shape]` by the number of the place; chosen directions come in their place."""
    drawn: dict[int, Tensor] = {}

    def draw(likes: Sequence[Tensor], num: int, clock: Tensor, first: int, distribution: str) -> list[Tensor]:
        made = dict(enumerate(perturbations(likes, num, clock, first, distribution), first))
        if chosen is not None:
            assert all(chosen[place].shape == one.shape for place, one in made.items())
            made = {place: chosen[place].to(one.dtype) for place, one in made.items()}
        drawn.update(made)
        return list(made.values())

    with mock.patch("feedalign.perturber.perturbations", draw):
        yield drawn


def basis(rule: fa.Rule, problem: Problem) -> dict[int, Tensor]:
    """Every unit vector of all that a rule perturbs, times the square root of their number: `[K, *shape]` by place.

    The mean of `v v^T` over these K directions is the identity, so that the mean of an estimate over them is what the
    estimate is on average. Where each sample has directions of its own, each takes them in another order.
    """
    shapes = _perturbed_shapes(rule, problem)
    sizes = [shape.numel() for shape in shapes.values()]
    directions = torch.eye(sum(sizes), dtype=torch.float64) * sum(sizes) ** 0.5
    parts = dict(zip(shapes, directions.split(sizes, dim=1), strict=True))
    has_samples = not isinstance(rule, WeightRule) or getattr(rule, "per", "batch") == "sample"
    repeats = problem.num_samples if has_samples else 0
    return {stream: _repeated(part.reshape(-1, *shapes[stream]), repeats) for stream, part in parts.items()}


def _perturbed_shapes(rule: fa.Rule, problem: Problem) -> dict[int, torch.Size]:
    if isinstance(rule, WeightRule):
        return {stream: p.shape for stream, p in enumerate(problem.model().parameters(), start=FIRST_PARAMETER)}
    widths = problem.widths[1:-1]
    shapes = {layer: torch.Size([width]) for layer, width in enumerate(widths, start=1)}
    at_output = {0: torch.Size([problem.widths[-1]])} if getattr(rule, "output", "exact") == "perturbed" else {}
    return shapes | at_output


def _repeated(directions: Tensor, num_samples: int) -> Tensor:
    if num_samples == 0:
        return directions
    return torch.stack([directions.roll(sample, 0) for sample in range(num_samples)], 1)


def as_draws(rule: fa.Rule, problem: Problem, drawn: Mapping[int, Tensor]) -> Draws:
    """What was drawn, as the equations have it: a direction of a parameter that all samples share is repeated."""
    numbers = {stream: directions.double() for stream, directions in drawn.items()}
    hidden = [numbers[layer] for layer in range(1, problem.num_hidden + 1) if layer in numbers]
    parameters = [numbers[stream] for stream in sorted(numbers) if stream >= FIRST_PARAMETER]
    if isinstance(rule, fa.NoisyBackprop):
        parameters = [noise[0] for noise in parameters]
    elif isinstance(rule, fa.WeightPerturbed) and rule.per == "batch":
        parameters = [v[:, None].expand(v.shape[0], problem.num_samples, *v.shape[1:]) for v in parameters]
    wanted = problem.num_hidden if isinstance(rule, PointRule) else 2 * len(problem.widths) - 2
    is_perturbed = isinstance(rule, (fa.FDFA, fa.ActivityPerturbed, fa.LocalGreedy, WeightRule))
    assert len(hidden) + len(parameters) == (wanted if is_perturbed else 0), "nothing was perturbed"
    return Draws(hidden, numbers.get(0), parameters[::2], parameters[1::2])


def heads_of(handle: fa.Handle) -> list[Head]:
    """The heads, their biases moved away from zero where they start."""
    held = dict(handle.store.named_parameters())
    biases = [name for name in held if name.endswith("_bias")]
    with torch.no_grad():
        for name in biases:
            held[name].copy_(torch.linspace(-0.5, 0.7, len(held[name])))
    return [Head(held[b.removesuffix("_bias")].detach().double().clone(), held[b].detach().double()) for b in biases]


def expected_gradients(rule: fa.Rule, case: Case) -> Gradients:
    """Gradients by the equations of the rule's own file under `reference`."""
    equations = import_module(f"reference.{rule.name.replace('-', '_')}")
    if hasattr(equations, "gradients"):
        found = equations.gradients(case)
    else:
        found = perceptron.gradients(case, equations.signals(case))
    learned = equations.learned(case) if hasattr(equations, "learned") else {}
    return found | {f"fc{len(case.net.weights)}.feedalign.{name}": gradient for name, gradient in learned.items()}


def case_for(
    rule: fa.Rule, problem: Problem, model: nn.Module, feedback: list[Tensor], scale: Tensor | None = None
) -> Case:
    """What the equations need of a network, its data and its loss, as they stand now."""
    net = by_hand(model, problem.nonlinearity)
    passed = perceptron.forward(net, problem.inputs().double())
    if scale is None:
        scale = torch.full((problem.num_samples, 1), problem.scale(), dtype=torch.float64)
    error = error_at_output(problem.loss, passed.output, problem.target_rows(), scale)
    options = dataclasses.asdict(rule)
    return Case(net, passed, error, problem.target_rows(), scale, feedback, loss=problem.loss, options=options)


def case_of_rows(
    rule: fa.Rule,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    feedback: Mapping[str, Tensor],
    drawn: Mapping[int, Tensor],
) -> Case:
    """Every position of every sample as a row of its own, under the mean cross-entropy over all of them."""
    net, rows = by_hand(model, "tanh"), x.reshape(-1, x.shape[-1])
    passed = perceptron.forward(net, rows)
    targets = one_hot(labels.flatten(), passed.output.shape[1])
    scale = torch.full((len(rows), 1), 1 / len(rows), dtype=torch.float64)
    error = error_at_output("cross_entropy", passed.output, targets, scale)
    directions = {place: v.reshape(len(v), len(rows), -1) for place, v in sorted(drawn.items())}
    at_output = directions.pop(0, None)
    return Case(
        net,
        passed,
        error,
        targets,
        scale,
        list(feedback.values()),
        Draws(list(directions.values()), at_output),
        loss="cross_entropy",
        num_positions=len(rows) // len(x),
        options=dataclasses.asdict(rule),
    )


def compare(
    rule: fa.Rule,
    problem: Problem,
    *,
    num_samples: int | None = None,
    weights: Tensor | None = None,
    factor: float = 1.0,
    streaming: bool = False,
) -> None:
    """Take one step and raise AssertionError unless its gradients are those of the equations.

    Args:
        rule: The rule.
        problem: Network, data and loss.
        num_samples: Samples in the step, where they differ from those on which the rule is attached.
        weights: A weight for each sample's loss.
        factor: A factor on the whole loss.
        streaming: Give the targets before the forward.
    """
    model, given = problem.model(), feedback_for(rule, problem)
    handle = fa.attach(model, rule, example_inputs=problem.inputs(), feedback=given)
    step = problem if num_samples is None else problem.with_samples(num_samples)
    scale = torch.full((step.num_samples, 1), factor * step.scale(), dtype=torch.float64)
    scale = scale if weights is None else scale * weights[:, None]
    feedback = [matrix.double() for matrix in (given or {}).values()]
    if isinstance(rule, LayerwiseRule):
        feedback = [brsf.NONE, *feedback]
    if isinstance(rule, fa.BRSF):
        feedback = brsf.magnitudes(by_hand(model, "").weights, int(handle.store.seed), num_forwards=1)
    if streaming:
        handle.targets(step.targets(), scale=scale.flatten())
    case = case_for(rule, step, model, feedback, scale)._replace(heads=heads_of(handle))
    with recorded() as drawn:
        found = gradients_after_step(model, step, weights, factor, keep=streaming)
    case = case._replace(draws=as_draws(rule, step, drawn))
    assert_agree(found, expected_gradients(rule, case))
    if isinstance(rule, fa.FDFA):
        moved = fdfa.averaged(case) if rule.update == "ema" else case.feedback
        held = {name: handle.store.feedback(name) for name in given or {}}
        assert_agree(held, dict(zip(held, moved, strict=True)))


def compare_carriers(rule: fa.Rule, problem: Problem) -> None:
    """Raise AssertionError unless tangents carried by hand and as dual tensors make one gradient."""
    plain, wrapped = problem.model(), TimesOne(problem.model())
    given = feedback_for(rule, problem)
    prefixed = None if given is None else {f"body.{name}": matrix for name, matrix in given.items()}
    by_hand_ = fa.attach(plain, rule, example_inputs=problem.inputs(), feedback=given)
    as_dual = fa.attach(wrapped, rule, example_inputs=problem.inputs(), feedback=prefixed)
    assert not by_hand_.uses_dual_tensors
    assert as_dual.uses_dual_tensors
    for _ in range(2):
        expected = {_name(name): g for name, g in gradients_after_step(plain, problem).items()}
        assert_agree({_name(name): g for name, g in gradients_after_step(wrapped, problem).items()}, expected)
    found, wanted = as_dual.store.state_dict(), by_hand_.store.state_dict()
    assert_agree({_name(name): found[name].double() for name in found}, {_name(n): wanted[n] for n in wanted})


def _name(name: str) -> str:
    """The name in the plain network of what stands in the wrapped one."""
    return name.rpartition("feedalign.")[2].removeprefix("body.").removeprefix("body_")


def gradients_after_step(
    model: nn.Module, problem: Problem, weights: Tensor | None = None, factor: float = 1.0, keep: bool = False
) -> dict[str, Tensor | None]:
    """Forward and backward on the problem's data; `keep` leaves alone what the forward itself put into `.grad`."""
    output = model(problem.inputs())
    loss = factor * problem.loss_of(output, weights)
    if not keep:
        return gradients_after(model, loss)
    loss.backward()
    return gradients(model)
