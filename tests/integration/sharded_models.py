"""What one of two processes sees of models sharded by `fully_shard`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from attach.models import Perceptron, batch, sequential
from attach.sequence_models import Recurrent, tokens
from integration.gradients import ALL_RULES, AVERAGED, Gradients, attached, draws_recorded, step
from integration.transformer_blocks import by_plain_attention, language_model, text
from integration.worlds import refusal_of, shard

IN_FULL = (fa.NoisyBackprop, fa.WeightPerturbed)
"""Rules that are refused, since they need every parameter in full."""
RULES = [rule for rule in ALL_RULES if not isinstance(rule, IN_FULL)]
SHAPES = [("pre", "macro"), ("post", "micro")]
RECURRENT = [fa.DFA(), fa.DRTP(), fa.DKP(), fa.FDFA(), fa.Backprop()]
TRAINED = [fa.DFA(), fa.DKP(), AVERAGED]
NUM_STEPS, NUM_SAMPLES = 5, 8
ON_CPU = {"full_state_dict": True, "cpu_offload": True}


def sharded(model: nn.Module, parts: Iterable[nn.Module] = (), **options: Any) -> nn.Module:
    """Shard each part on its own, then what is left of the model."""
    options.setdefault("mesh", init_device_mesh("cpu", (dist.get_world_size(),)))
    for part in [*parts, model]:
        fully_shard(part, **options)
    return model


def by_block(model: nn.Module, **options: Any) -> nn.Module:
    """As one shards a Transformer."""
    return sharded(model, model.blocks, **options)


def by_layer(model: nn.Module) -> nn.Module:
    """Every layer and activation on its own."""
    kinds = (nn.Linear, nn.Tanh, nn.GRU, nn.Embedding)
    return sharded(model, [module for module in model.children() if isinstance(module, kinds)])


def full_gradients(model: nn.Module) -> Gradients:
    """Gradients put together from all ranks; what is not sharded is averaged, as its user would have to."""
    return {name: None if p.grad is None else in_full(p.grad) for name, p in model.named_parameters()}


def in_full(grad: Tensor) -> Tensor:
    """One gradient."""
    if isinstance(grad, DTensor):
        return grad.full_tensor()
    total = grad.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """The state put together on rank 0; nothing on others."""
    return get_model_state_dict(model, options=StateDictOptions(**ON_CPU))


def twice(model: nn.Module, data: tuple[Tensor, Tensor], run: Callable[..., None] = step) -> Gradients:
    """Gradients of a step's second run, from zero."""
    x, y = (shard(part, dist.get_rank()) for part in data)
    for _ in range(2):
        model.zero_grad()
        run(model, x, y)
    return full_gradients(model)


def at_different_places(rule: fa.Rule) -> dict[str, Gradients]:
    """The Transformer sharded as a whole and by block; a perceptron by layer."""
    seen = {}
    with by_plain_attention(rule):
        for norm, level in SHAPES:
            model = by_block(language_model(rule, norm, level))
            seen[f"{rule.name} {norm} {level}"] = twice(model, text(NUM_SAMPLES))
        seen[f"{rule.name} whole"] = twice(sharded(language_model(rule, "post", "micro")), text(NUM_SAMPLES))
    seen[f"{rule.name} perceptron"] = twice(by_layer(attached(Perceptron, rule, batch()[0])), batch(NUM_SAMPLES))
    return seen


def accumulated(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Two micro-batches, the first without reduction."""
    for number, (inputs, labels) in enumerate(zip(x.chunk(2), y.chunk(2), strict=True)):
        model.set_requires_gradient_sync(number == 1)
        step(model, inputs, labels, scale=0.5)


def two_forwards(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Two forwards before one backward."""
    losses = [nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten()) for _ in range(2)]
    sum(losses).backward()


class Recomputed(nn.Module):
    """A block that runs again in the backward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


def recomputed(model: nn.Module, inside: bool) -> nn.Module:
    """Checkpointing outside of what is sharded, as torch's own wrapper does it, or inside."""
    blocks = list(model.blocks)
    model.blocks = nn.ModuleList(Recomputed(block) for block in blocks)
    return sharded(model, model.blocks if inside else blocks)


def in_many_ways() -> dict[str, Gradients]:
    """DFA under what else people do."""

    def model(level: str = "micro") -> nn.Module:
        return language_model(fa.DFA(), "pre", level)

    data = text(NUM_SAMPLES)
    seen = {
        "accumulated": twice(by_block(model()), data, accumulated),
        "two forwards": twice(by_block(model()), data, two_forwards),
        "recomputed": twice(recomputed(model(), inside=False), data),
        "recomputed inside": twice(recomputed(model("macro"), inside=True), data),
        "kept": twice(by_block(model(), reshard_after_forward=False), data),
        "freed": twice(by_block(model(), reshard_after_forward=True), data),
        "without a root": twice(without_root(model("macro")), data),
        "hybrid": twice(by_block(model(), mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("all", "one"))), data),
        "between others": between_others(by_block(model()), data),
        "removed": after_removal(by_block(model()), data),
    }
    for rule in (fa.DFA(), fa.DKP(), fa.SignDFA()):
        seen[f"bfloat16 {rule.name}"] = twice(in_bfloat16(language_model(rule, "pre", "micro")), data)
    return seen


def between_others(model: nn.Module, data: tuple[Tensor, Tensor]) -> Gradients:
    """A step after forwards without a backward."""
    with torch.no_grad():
        model(data[0])
    model.eval()
    model(data[0])
    model.train()
    return twice(model, data)


def after_removal(model: nn.Module, data: tuple[Tensor, Tensor]) -> Gradients:
    """Steps of the plain model that is left."""
    twice(model, data)
    fa.handle_of(model).remove()
    return twice(model, data)


def in_bfloat16(model: nn.Module) -> nn.Module:
    """Parameters and activations in bfloat16, reduction and the output in float32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=dataclasses.replace(policy, output_dtype=torch.float32))
    return model


def without_root(model: nn.Module) -> nn.Module:
    """Blocks alone are sharded; the rest is every rank's own and averaged by hand."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return model


def trained(rule: fa.Rule) -> dict[str, Any]:
    """The state after some steps of Adam, what was drawn first, and what a fresh model makes of the state."""
    with by_plain_attention(rule):
        model, fresh = (by_block(language_model(rule, "post", "macro")) for _ in range(2))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, y = (shard(part, dist.get_rank()) for part in text(NUM_SAMPLES))
        with draws_recorded() as drawn:
            for _ in range(NUM_STEPS):
                optimizer.zero_grad()
                step(model, x, y)
                optimizer.step()
        own = {name: buffer.clone() for name, buffer in model.named_buffers()}
        state = full_state(model)
        set_model_state_dict(fresh, dict(state), options=StateDictOptions(**ON_CPU, broadcast_from_rank0=True))
        after = [twice(one, text(NUM_SAMPLES)) for one in (model, fresh)]
    return {"state": state, "buffers": own, "drawn": drawn[:2], "goes on": after[0], "loaded": after[1]}


def train_without_feedback(x: Tensor, y: Tensor) -> None:
    """An optimizer that was not given what the rule learns."""
    model = sharded(attached(Perceptron, fa.DKP(), x))
    weights = [parameter for name, parameter in model.named_parameters() if "feedalign" not in name]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        step(model, x, y)
        optimizer.step()


def refusals(rank: int) -> dict[str, str]:
    """What is refused."""
    x, y = (shard(part, rank) for part in batch(NUM_SAMPLES))
    already = sharded(Perceptron())
    part = Perceptron()
    fully_shard(part.fc1, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    streaming = sharded(attached(Perceptron, fa.DRTP(), x))
    fa.handle_of(streaming).targets(y)
    uneven = attached(Perceptron, fa.DFA(), x, generator=torch.Generator().manual_seed(rank))
    drawn_apart = attached(Perceptron, fa.BRSF(), x, generator=torch.Generator().manual_seed(rank))
    stored_apart = attached(Perceptron, fa.DKP(), x)
    sharded(stored_apart, [fa.handle_of(stored_apart).store])
    at_the_end = attached(sequential, fa.DKP(), x)
    sharded(at_the_end, [at_the_end[-1]])
    measured = sharded(attached(Perceptron, fa.DFA(), x))
    older = FullyShardedDataParallel(Perceptron(), device_id=torch.device("cpu"))
    older_after = FullyShardedDataParallel(attached(Perceptron, fa.DFA(), x), device_id=torch.device("cpu"))
    seen = {
        "measured": refusal_of(lambda: fa.measure.alignment(measured, nn.functional.cross_entropy, (x, y))),
        "older": refusal_of(lambda: fa.attach(older, fa.DFA(), example_inputs=x)),
        "older inside": refusal_of(lambda: fa.attach(older.module, fa.DFA(), example_inputs=x)),
        "older after": refusal_of(lambda: older_after(x)),
        "left out": refusal_of(lambda: train_without_feedback(x, y)),
        "already": refusal_of(lambda: fa.attach(already, fa.DFA(), example_inputs=x)),
        "part": refusal_of(lambda: fa.attach(part, fa.DFA(), example_inputs=x)),
        "streaming": refusal_of(lambda: streaming(x)),
        "uneven": refusal_of(lambda: sharded(uneven)(x)),
        "drawn apart": refusal_of(lambda: sharded(drawn_apart)(x)),
        "stored apart": refusal_of(lambda: stored_apart(x)),
        "at the end": refusal_of(lambda: at_the_end(x)),
    }
    for rule in IN_FULL:
        model = sharded(attached(Perceptron, rule(), x))
        seen[rule.name] = refusal_of(lambda model=model: model(x))
    return seen


def seen_by(rank: int) -> dict[str, Any]:
    """Run everything."""
    seen: dict[str, Any] = {"refusals": refusals(rank)}
    for rule in RULES:
        seen |= at_different_places(rule)
    seen |= in_many_ways()
    for rule in RECURRENT:
        seen[f"{rule.name} recurrent"] = twice(by_layer(attached(Recurrent, rule, tokens()[0])), tokens(NUM_SAMPLES))
    for rule in TRAINED:
        seen[f"trained {rule!r}"] = trained(rule)
    return seen
