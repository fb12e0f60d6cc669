"""What one of two processes sees of small models under DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from attach.models import Convolutional, Functional, Perceptron, SharedActivation, Wrapper, batch, images
from attach.sequence_models import Recurrent, tokens
from integration.gradients import ALL_RULES, AVERAGED, PERTURBING, attached, draws_recorded, gradients, step
from integration.worlds import refusal_of, shard

LIMITED = fa.DFA(limits=fa.Limits(error=fa.Quantized(bits=3, rounding="stochastic"), noise=0.3))
TRAINED = [fa.DKP(), *PERTURBING, fa.FDFA(update="ema"), AVERAGED]


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "perceptron": Perceptron,
    "shared activation": SharedActivation,
    "convolutional": Convolutional,
    "functional": Functional,
    "recurrent": Recurrent,
}


def data_for(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch."""
    if name == "recurrent":
        return tokens(8)
    return images(8) if name == "convolutional" else batch(8)


def seeded_model(name: str, rule: fa.Rule, seed: int) -> nn.Module:
    """Weights and feedback that depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    return attached(lambda: MODELS[name](seed), rule, data_for(name)[0], generator=generator)


def distributed(name: str, rule: fa.Rule, rank: int) -> DistributedDataParallel:
    """Each rank starts from another seed; the wrapper sends rank 0's state to all."""
    model = seeded_model(name, rule, seed=rank)
    return DistributedDataParallel(model, find_unused_parameters=isinstance(rule, fa.Shallow))


def one_and_two_steps(name: str, rule: fa.Rule, rank: int) -> dict[str, Any]:
    """Gradients of a step, then of a second one from zero."""
    model = distributed(name, rule, rank)
    x, y = data_for(name)
    seen: dict[str, Any] = {"state": {k: v.clone() for k, v in model.module.state_dict().items()}}
    for key in ("first", "second"):
        model.zero_grad()
        step(model, shard(x, rank), shard(y, rank))
        seen[key] = gradients(model.module)
    return seen


def two_forwards(rule: fa.Rule, rank: int) -> dict[str, Any]:
    """Two forwards, then one backward."""
    model = distributed("perceptron", rule, rank)
    x, y = (shard(part, rank) for part in data_for("perceptron"))
    (F.cross_entropy(model(x), y) + F.cross_entropy(model(2 * x), y)).backward()
    return gradients(model.module)


def several_steps(name: str, rule: fa.Rule, rank: int) -> dict[str, Any]:
    """What was drawn in the first step, and the state after three steps of an optimizer."""
    model = distributed(name, rule, rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = (shard(part, rank) for part in data_for(name))
    drawn: list[torch.Tensor] = []
    for _ in range(3):
        optimizer.zero_grad()
        with draws_recorded() as last:
            step(model, x, y)
        drawn = drawn or last
        optimizer.step()
    return {"drawn": drawn, "state": {k: v.clone() for k, v in model.module.state_dict().items()}}


def accumulated(rule: fa.Rule, rank: int) -> dict[str, Any]:
    """Two micro-batches, the first without synchronisation."""
    model = distributed("perceptron", rule, rank)
    x, y = (shard(part, rank) for part in data_for("perceptron"))
    for number, (inputs, labels) in enumerate(zip(x.chunk(2), y.chunk(2), strict=True)):
        with model.no_sync() if number == 0 else nullcontext():
            step(model, inputs, labels, scale=0.5)
    return gradients(model.module)


def refusals(rank: int) -> dict[str, str]:
    """What is refused under DistributedDataParallel."""
    x, y = (shard(part, rank) for part in data_for("perceptron"))
    streaming = distributed("perceptron", fa.DRTP(), rank)
    fa.handle_of(streaming).targets(y)
    plain = DistributedDataParallel(Perceptron())
    return {
        "streaming": refusal_of(lambda: streaming(x)),
        "wrapped": refusal_of(lambda: fa.attach(plain, fa.DFA(), example_inputs=x)),
        "wrapped inside": refusal_of(lambda: fa.attach(Wrapper(inner=plain), fa.DFA(), example_inputs=x)),
    }


def seen_by(rank: int) -> dict[str, Any]:
    """Run everything."""
    seen: dict[str, Any] = {"refusals": refusals(rank)}
    for rule in ALL_RULES:
        seen[f"perceptron {rule.name}"] = one_and_two_steps("perceptron", rule, rank)
        seen[f"accumulated {rule.name}"] = accumulated(rule, rank)
        if not isinstance(rule, fa.Shallow):  # find_unused_parameters allows one forward for a backward
            seen[f"two forwards {rule.name}"] = two_forwards(rule, rank)
    for rule in (fa.FA(), fa.DFA(), fa.DRTP()):
        for name in ("shared activation", "convolutional", "recurrent"):
            seen[f"{name} {rule.name}"] = one_and_two_steps(name, rule, rank)
    for rule in (fa.FDFA(), fa.ActivityPerturbed(), fa.WeightPerturbed()):
        for name in ("functional", "recurrent"):
            seen[f"{name} {rule.name}"] = one_and_two_steps(name, rule, rank)
    seen["limited"] = one_and_two_steps("perceptron", LIMITED, rank)
    seen["limited, twice"] = [several_steps("perceptron", LIMITED, rank) for _ in range(2)]
    for rule in TRAINED:
        seen[f"trained {rule!r}"] = several_steps("perceptron", rule, rank)
    return seen
