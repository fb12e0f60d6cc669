"""A Transformer compiled whole, block by block, and with what spreads it over processes."""

from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from integration.gradients import Gradients, assert_same_gradients, gradients, gradients_of_step, step
from integration.sharded_models import full_gradients
from integration.transformer_blocks import MACRO, Transformer, by_plain_attention, language_model, text

pytestmark = [
    # Torch's own use of gradients, contexts and profilers, shown to those who turned warnings into errors.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor:UserWarning"),
]
x, y = text()
names = {"ids": lambda rule: rule.name}
SMALL_BUCKET = 2048
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def from_scratch() -> Iterator[None]:
    """No code compiled by another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def second_step(model: nn.Module, run: Callable[..., torch.Tensor] | None = None) -> Gradients:
    """Gradients of a step from zero that is not the first."""
    for _ in range(2):
        model.zero_grad()
        step(model if run is None else run, x, y)
    return full_gradients(model) if dist.is_initialized() else gradients(model)


def compile_blocks(model: nn.Module, **options: object) -> nn.Module:
    for block in model.blocks:
        block.compile(backend="aot_eager", **options)
    return model


def assert_compiled_learns_alike(rule: fa.Rule, norm: str, level: str, backend: str) -> None:
    model = language_model(rule, norm, level)
    found = second_step(model, torch.compile(model, fullgraph=True, backend=backend))
    assert_same_gradients(found, second_step(language_model(rule, norm, level)))


@pytest.mark.parametrize(("rule", "norm", "level"), [
    (fa.DFA(), "pre", "micro"),
    (fa.DKP(), "post", "macro"),
    *(pytest.param(rule, "post", "micro", marks=slow) for rule in (fa.FA(), fa.DRTP(), fa.SignDFA(), fa.Shallow())),
    pytest.param(fa.LocalGreedy(), "post", "micro", marks=slow),
])  # fmt: skip
def test_the_whole_model_in_one_graph_learns_alike(rule: fa.Rule, norm: str, level: str) -> None:
    with by_plain_attention(rule):
        assert_compiled_learns_alike(rule, norm, level, "aot_eager")


@slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.DRTP(), fa.FA()], **names)
@pytest.mark.parametrize("level", ["macro", "micro"])
def test_the_whole_model_compiled_by_inductor_learns_alike(rule: fa.Rule, level: str) -> None:
    assert_compiled_learns_alike(rule, "pre", level, "inductor")


@pytest.mark.parametrize(("rule", "norm", "level"), [
    (fa.DFA(), "pre", "macro"),
    (fa.DFA(), "post", "micro"),
    *(pytest.param(rule, "pre", "micro", marks=slow) for rule in (fa.FA(), fa.DKP(), fa.DRTP())),
])  # fmt: skip
@pytest.mark.parametrize("fullgraph", [False, pytest.param(True, marks=slow)])
def test_blocks_compiled_on_their_own_learn_alike(rule: fa.Rule, norm: str, level: str, fullgraph: bool) -> None:
    model = compile_blocks(language_model(rule, norm, level), fullgraph=fullgraph)
    assert_same_gradients(second_step(model), second_step(language_model(rule, norm, level)))


@slow
def test_more_compiled_blocks_than_torch_compiles_hooks_for_learn_alike() -> None:
    num_blocks = torch._dynamo.config.recompile_limit + 2

    def make() -> nn.Module:
        model = Transformer(num_blocks=num_blocks)
        fa.attach(model, fa.DFA(), example_inputs=x, points=MACRO)
        return model

    expected = second_step(make())
    assert_same_gradients(second_step(compile_blocks(make())), expected)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        second_step(compile_blocks(make(), fullgraph=True))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=num_blocks):
        assert_same_gradients(second_step(compile_blocks(make(), fullgraph=True)), expected)


def test_blocks_compiled_before_attach_are_refused() -> None:
    with pytest.raises(fa.errors.CompiledModelError, match="Attach first, then compile"):
        fa.attach(compile_blocks(Transformer()), fa.DFA(), example_inputs=x, points=MACRO)


@pytest.mark.parametrize("rule", [fa.FDFA(), fa.ActivityPerturbed()], **names)
def test_blocks_compiled_under_tangents_that_cannot_be_are_refused(rule: fa.Rule) -> None:
    model = compile_blocks(language_model(rule))
    with by_plain_attention(rule), pytest.raises(fa.errors.CompiledModelError, match=r"without torch\.compile"):
        step(model, x, y)


def inside(model: nn.Module) -> nn.Module:
    code = torch.compile(model, backend="aot_eager", fullgraph=True)
    return DistributedDataParallel(code, bucket_cap_mb=SMALL_BUCKET / 2**20)


def around(model: nn.Module) -> nn.Module:
    return torch.compile(DistributedDataParallel(model, bucket_cap_mb=SMALL_BUCKET / 2**20), backend="aot_eager")


def blockwise(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(compile_blocks(model), bucket_cap_mb=SMALL_BUCKET / 2**20)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("wrap", [pytest.param(inside, marks=slow), around, pytest.param(blockwise, marks=slow)])
def test_compiled_and_distributed_learns_alike_in_several_buckets(wrap: Callable[[nn.Module], nn.Module]) -> None:
    expected = second_step_of_plain()
    model = language_model(fa.DFA(), "pre", "micro")
    # Torch splits what it compiles where a bucket of gradients ends, and makes the first one a megabyte.
    with mock.patch.object(dist, "_DEFAULT_FIRST_BUCKET_BYTES", SMALL_BUCKET):
        found = second_step(model, wrap(model))
    assert_same_gradients(found, expected)


def second_step_of_plain() -> Gradients:
    model = language_model(fa.DFA(), "pre", "micro")
    gradients_of_step(model, x, y)
    return gradients_of_step(model, x, y)


def sharded(model: nn.Module) -> nn.Module:
    for part in [*model.blocks, model]:
        fully_shard(part, mesh=init_device_mesh("cpu", (1,)))
    return model


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("order", ["around", pytest.param("blocks", marks=slow), pytest.param("later", marks=slow)])
def test_compiled_and_sharded_learns_alike(order: str) -> None:
    model = language_model(fa.DFA(), "pre", "micro")
    if order == "blocks":
        compile_blocks(model)
    sharded(model)
    if order == "later":
        compile_blocks(model)
    run = torch.compile(model, backend="aot_eager") if order == "around" else None
    assert_same_gradients(second_step(model, run), second_step_of_plain())


@pytest.mark.usefixtures("one_rank")
def test_a_sharded_model_in_one_graph_is_refused() -> None:
    model = sharded(language_model(fa.DFA()))
    with pytest.raises(RuntimeError, match="no single graph"):
        step(torch.compile(model, backend="aot_eager", fullgraph=True), x, y)
