"""What is timed: one training step of a network under a rule, forward and backward noted apart."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.measure import Cost
from feedalign.rules.base import LayerwiseRule, WeightRule
from feedalign_lab.bench.architectures import Architecture, Problem, Size
from feedalign_lab.bench.peers import PEERS, converted
from feedalign_lab.cost import synchronize
from feedalign_lab.errors import UnknownNameError

BASELINE = "backprop"
STREAMING = "drtp-streaming"
# Perturbed by signs, which cost next to nothing to draw, where the rules' own normal numbers do not.
_BY_SIGNS: dict[str, Callable[[], fa.Rule]] = {
    f"{rule.name}-rademacher": partial(rule, distribution="rademacher")
    for rule in (fa.ActivityPerturbed, fa.WeightPerturbed)
}
_RULES: dict[str, Callable[[], fa.Rule]] = {
    **{rule.name: rule for rule in fa.ALL_RULES},
    STREAMING: fa.DRTP,
    **_BY_SIGNS,
}
# On GPUs: how torch.compile is told to run what it has made.
_COMPILED = {"-compiled": "default", "-graphs": "reduce-overhead"}
_COMPILED_RULES = (BASELINE, "dfa")
ON_GPU = tuple(f"{rule}{mode}" for rule in _COMPILED_RULES for mode in _COMPILED)
NAMES = (*_RULES, *PEERS, *ON_GPU)
"""All contestants there may be."""


@dataclass
class Contestant:
    """A network that takes training steps on one batch.

    Attributes:
        problem: Network and batch.
        model: What is called: the network, or what stands for it.
        device: Where it runs.
        before: Called before each forward.
        call: How the model is called.
        cost: What a step costs by counting; None where nobody counted.
        forward: Seconds of the forward and the loss, step by step.
        backward: Seconds of the backward.
    """

    problem: Problem
    model: nn.Module
    device: torch.device
    before: Callable[[], None] | None = None
    call: Callable[..., Tensor] | None = None
    cost: Cost | None = None
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Small steps: what is learned is not looked at, and must not blow up in the time of a measurement.
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-6)

    def step(self) -> None:
        """Take a whole training step, and note what forward and backward took."""
        self.optimizer.zero_grad()
        began = time.perf_counter()
        loss = self._loss()
        synchronize(self.device)
        turned = time.perf_counter()
        loss.backward()
        synchronize(self.device)
        self.forward.append(turned - began)
        self.backward.append(time.perf_counter() - turned)
        self.optimizer.step()

    def settle(self) -> None:
        """Take a step and note nothing: whoever had the turn before has left the caches full of its own."""
        self.step()
        self.forward.pop()
        self.backward.pop()

    def pass_once(self) -> None:
        """Run forward and backward into the gradients that are there."""
        self._loss().backward()

    def forget(self) -> None:
        """Forget what was noted."""
        self.forward.clear()
        self.backward.clear()

    def _loss(self) -> Tensor:
        if self.before is not None:
            self.before()
        output = (self.call or self.model)(self.problem.inputs)
        return self.problem.loss(output, self.problem.targets)


def contestant(name: str, architecture: Architecture, size: Size, device: torch.device) -> Contestant:
    """Build one contestant.

    Args:
        name: One of `NAMES`.
        architecture: What network.
        size: How large.
        device: Where it runs.

    Returns:
        The contestant.

    Raises:
        FeedalignError: The rule cannot teach this network, with the reason.
    """
    problem = _on(architecture.build(size), device)
    if name in PEERS:
        model, call = converted(name, problem)
        return Contestant(problem, model, device, call=call)
    mode = next((end for end in _COMPILED if name.endswith(end)), "")
    rule = rule_named(name.removesuffix(mode), architecture)
    if rule is None:
        found = Contestant(problem, problem.model, device, cost=fa.measure.cost(problem.model, problem.inputs))
    else:
        found = _ruled(name, problem, rule, device)
    if mode:
        found.call = torch.compile(found.model, mode=_COMPILED[mode])
    return found


def _ruled(name: str, problem: Problem, rule: fa.Rule, device: torch.device) -> Contestant:
    """With a rule attached."""
    cuts = not isinstance(rule, (LayerwiseRule, WeightRule))
    points: Any = {"points": problem.points} if cuts and problem.points else {}
    handle = fa.attach(problem.model, rule, example_inputs=problem.inputs, **points)
    before = (lambda: handle.targets(problem.targets)) if name == STREAMING else None
    if before is not None:
        before()
    return Contestant(problem, problem.model, device, before, cost=fa.measure.cost(handle, problem.inputs))


def rule_named(name: str, architecture: Architecture) -> fa.Rule | None:
    """Return the rule of a contestant as a network needs it; None for plain torch.

    Args:
        name: Of the contestant, without what it is compiled with.
        architecture: What network.
    """
    if name == BASELINE:
        return None
    rule = _RULES[name]()
    options: dict[str, Any] = {}
    if architecture.is_binary and "link" in {one.name for one in fields(rule)}:
        options["link"] = "sigmoid"
    if isinstance(rule, fa.DRTP):
        # Nothing is learned here, so that nothing grows.
        options["allow_unbounded"] = True
    return replace(rule, **options)


def _on(problem: Problem, device: torch.device) -> Problem:
    return replace(
        problem,
        model=problem.model.to(device),
        inputs=problem.inputs.to(device),
        targets=problem.targets.to(device),
    )


def parse_names(text: str, valid: Sequence[str], kind: str, everything: Sequence[str] | None = None) -> list[str]:
    """Return names from a comma-separated list.

    Args:
        text: What the user typed, or "all".
        valid: Names that are right.
        kind: What they stand for, in errors.
        everything: What "all" stands for; None: all that are right.

    Returns:
        The names, each once.

    Raises:
        UnknownNameError: One of them is wrong.
    """
    if text == "all":
        return list(valid if everything is None else everything)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in valid:
            raise UnknownNameError(kind, name, valid)
    if not names:
        raise UnknownNameError(kind, text, valid)
    return list(dict.fromkeys(names))
