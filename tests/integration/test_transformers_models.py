"""Unmodified models of the transformers library: their layers, their loss made in the forward, their tied weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BatchEncoding, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.t5.modeling_t5 import T5Block, T5LayerFF
from transformers.pytorch_utils import Conv1D

import feedalign as fa
from feedalign import errors
from feedalign.linear_like import is_transformers_conv1d
from feedalign.points import is_nonlinearity
from feedalign.rules import LearnedRule
from integration.gradients import ALL_RULES, Gradients, assert_same_gradients, own_gradients
from integration.transformers_models import (
    BERT_POINTS,
    GPT2_BLOCKS,
    VIT_POINTS,
    Batch,
    bert,
    dfa_by_hand,
    gpt2,
    padded,
    pictures,
    points_of,
    sentences,
    tokens,
    untied_gpt2,
    vit,
)

MICRO = ["transformer.drop", nn.LayerNorm, "*.act"]

CASES: list[Any] = [
    pytest.param(gpt2, tokens, GPT2_BLOCKS, "lm_head", id="gpt2, error behind the vocabulary projection"),
    pytest.param(gpt2, tokens, GPT2_BLOCKS, "transformer.ln_f", id="gpt2, error before it"),
    pytest.param(gpt2, tokens, MICRO, "lm_head", id="gpt2, micro"),
    pytest.param(bert, sentences, BERT_POINTS, "classifier", id="bert"),
    pytest.param(bert, lambda: padded(sentences()), BERT_POINTS, "classifier", id="bert, padded"),
    pytest.param(vit, pictures, VIT_POINTS, "classifier", id="vit"),
]
"""Model, batch, points and output."""


def teach(model: nn.Module, batch: Batch) -> Gradients:
    """Gradients of the loss that the model makes itself."""
    model.zero_grad()
    model(**batch).loss.backward()
    return own_gradients(model)


def in_double(batch: Batch) -> Batch:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


@pytest.mark.parametrize(("make", "batch", "points", "output"), CASES)
def test_gradients_are_those_of_the_equations_by_hand(
    make: Callable[[], nn.Module], batch: Callable[[], Batch], points: list[Any], output: str
) -> None:
    model, plain, data = make().double(), make().double(), in_double(batch())
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=points, output=output)
    found = teach(model, data)
    assert_same_gradients(found, dfa_by_hand(plain, data, output, handle), tolerance=1e-12)
    assert all(row.fired for row in handle.describe().rows if row.point not in {"-", "output"})
    exact = teach(plain, data)
    hidden = next(name for name in found if name.endswith(("c_attn.weight", "query.weight", "q_proj.weight")))
    assert F.cosine_similarity(found[hidden].flatten(), exact[hidden].flatten(), dim=0).abs() < 0.9


def test_blocks_of_gpt2_are_taught_as_the_equations_say_without_a_hook() -> None:
    """Blocks called one by one; the tied embedding is taught at the bottom and as the output layer."""
    model, plain, data = gpt2().double(), gpt2().double(), tokens()
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=GPT2_BLOCKS, output="lm_head")
    body, ids = plain.transformer, data["input_ids"]
    embedded = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
    first = body.h[0](embedded)
    second = body.h[1](first.detach())
    logits = plain.lm_head(body.ln_f(second.detach()))
    # The library computes its loss in single precision.
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
    (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
    signals = [error @ handle.feedback_at(point) for point in GPT2_BLOCKS]
    named = dict(plain.named_parameters())
    by_hand = torch.autograd.grad([logits, first, second], list(named.values()), [error, *signals])
    assert_same_gradients(teach(model, data), dict(zip(named, by_hand, strict=True)), tolerance=1e-12)


def losses(handle: fa.Handle, data: Batch, num_steps: int = 40) -> list[float]:
    """Those before each step of Adam."""
    model, found = handle.model, []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = model(**data).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    ("make", "batch", "points", "output"),
    [
        pytest.param(untied_gpt2, tokens, GPT2_BLOCKS, "lm_head", id="gpt2"),
        pytest.param(bert, sentences, BERT_POINTS, "classifier", id="bert"),
        pytest.param(vit, pictures, VIT_POINTS, "classifier", id="vit"),
    ],
)
def test_the_loss_falls(
    make: Callable[[], nn.Module], batch: Callable[..., Batch], points: list[str], output: str
) -> None:
    data = batch(24)
    handle = fa.attach(make(), fa.DFA(), example_inputs=data, points=points, output=output)
    first, *_, last = losses(handle, data)
    assert last < 0.6 * first
    assert all(row.fired for row in handle.describe().rows if row.point not in {"-", "output"})


@pytest.mark.parametrize("output", ["lm_head", "transformer.ln_f"])
def test_tied_embeddings_learn_less(output: str) -> None:
    """What the table warns of."""
    data = tokens(24)
    found = {}
    for make in (gpt2, untied_gpt2):
        handle = fa.attach(make(), fa.DFA(), example_inputs=data, points=[GPT2Block], output=output)
        found[make] = losses(handle, data, 100)[-1]
    assert found[gpt2] > 1.2 * found[untied_gpt2]


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_every_rule_teaches_gpt2(rule: fa.Rule) -> None:
    """Fused attention has no directional derivatives; the library's own, `eager`, does."""
    model, plain, data = (*(gpt2(attn_implementation="eager") for _ in range(2)), tokens())
    if isinstance(rule, fa.DRTP):
        rule = fa.DRTP(allow_unbounded=True)
    points = None if isinstance(rule, (fa.FA, fa.USF, fa.BRSF, fa.FRSF)) else GPT2_BLOCKS
    start = {"feedback": fa.KaimingUniform()} if isinstance(rule, LearnedRule) else {}
    handle = fa.attach(model, rule, example_inputs=data, points=points, output="lm_head", **start)
    found, exact = teach(model, data), teach(plain, data)
    hidden = "transformer.h.0.attn.c_attn.weight"
    if isinstance(rule, fa.Shallow):
        assert found[hidden] is None
    else:
        assert found[hidden].any()
        assert torch.equal(found[hidden], exact[hidden]) == isinstance(rule, fa.Backprop)
    assert all(row.fired for row in handle.describe().rows if row.fired is not None)


def test_the_librarys_own_layers_are_known() -> None:
    """They are told by name, without importing the library."""
    block = gpt2().transformer.h[0]
    assert all(is_transformers_conv1d(m) for m in [block.attn.c_attn, block.mlp.c_fc])
    assert isinstance(block.mlp.c_fc, Conv1D)
    assert is_nonlinearity(block.mlp.act)
    handle = fa.attach(gpt2(), fa.FA(), example_inputs=tokens(), output="lm_head")
    gates = {row.feedback.rpartition(" at ")[2] for row in handle.describe().rows if "fixed, at" in row.feedback}
    assert {"lm_head", "transformer.h.1.mlp.c_proj", "transformer.h.0.attn.c_proj"} <= gates


def test_the_table_names_what_teaches_each_layer() -> None:
    handle = fa.attach(gpt2(), fa.DFA(), example_inputs=tokens(), points=[GPT2Block], output="lm_head")
    description = handle.describe()
    assert description.output == "the output of 'lm_head'"
    found = {(row.layer, row.point) for row in description.rows}
    assert {("transformer.wte", "transformer.h.0"), ("transformer.wte", "output")} <= found
    assert {("transformer.h.1.mlp.c_fc", "transformer.h.1"), ("transformer.ln_f", "-")} <= found
    assert [row.layer for row in description.rows if row.uncut] == ["transformer.ln_f"]
    assert "transformer.wte.weight is also lm_head.weight" in str(description)


@pytest.mark.parametrize(("make", "output"), [(gpt2, "lm_head"), (gpt2, "transformer.ln_f"), (untied_gpt2, "lm_head")])
def test_tied_embeddings_are_told_of(make: Callable[[], nn.Module], output: str) -> None:
    handle = fa.attach(make(), fa.DFA(), example_inputs=tokens(), points=[GPT2Block], output=output)
    assert ("tie_word_embeddings=False" in str(handle.describe())) == (make is gpt2)


@pytest.mark.parametrize(
    ("points", "output"),
    [
        pytest.param([GPT2Block, "transformer.ln_f"], "lm_head", id="the last norm is a point"),
        pytest.param([GPT2Block], "transformer.ln_f", id="the error is taken before the projection"),
        pytest.param(MICRO, "lm_head", id="micro"),
    ],
)
def test_these_points_leave_nothing_to_backprop(points: list[Any], output: str) -> None:
    fa.attach(gpt2(), fa.DFA(), example_inputs=tokens(), points=points, output=output, strict=True)


@pytest.mark.parametrize("points", [None, [GPT2Block]], ids=["by default", "macro"])
def test_these_points_leave_something_and_strict_says_so(points: Any) -> None:
    with pytest.raises(errors.UncutPathError, match=r"still reaches transformer\."):
        fa.attach(gpt2(), fa.DFA(), example_inputs=tokens(), points=points, output="lm_head", strict=True)


class Returning(nn.Module):
    """Hands on what the model returned as something else."""

    def __init__(self, how: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.how = gpt2(), how

    def forward(self, **batch: Tensor) -> Any:
        return self.how(self.model(**batch))


RETURNED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Tensor]]] = {
    "dataclass": (lambda made: made, lambda made: made.loss),
    "dict": (dict, lambda made: made["loss"]),
    "tuple": (lambda made: made.to_tuple(), lambda made: made[0]),
    "loss alone": (lambda made: made.loss, lambda made: made),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_what_the_model_returns_does_not_matter_once_the_output_is_named(kind: str) -> None:
    how, loss_of = RETURNED[kind]
    model, whole, data = gpt2(), Returning(how), tokens()
    with pytest.raises(errors.OutputError, match="name the module whose output the loss is computed from"):
        fa.attach(whole, fa.DFA(), example_inputs=data, points=[GPT2Block])
    fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    fa.attach(whole, fa.DFA(), example_inputs=data, points=[GPT2Block], output="model.lm_head")
    loss_of(whole(**data)).backward()
    found = {name.removeprefix("model."): gradient for name, gradient in own_gradients(whole).items()}
    assert_same_gradients(found, teach(model, data), tolerance=0)


def test_example_inputs_may_be_what_a_tokenizer_returns() -> None:
    model, plain, data = gpt2(), gpt2(), tokens()
    fa.attach(model, fa.DFA(), example_inputs=BatchEncoding(data), points=[GPT2Block], output="lm_head")
    fa.attach(plain, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    assert_same_gradients(teach(model, data), teach(plain, data), tolerance=0)


@pytest.mark.parametrize(
    ("output", "points", "kind", "words"),
    [
        pytest.param("transformer", [GPT2Block], errors.OutputError, "returns BaseModelOutput.*name the module inside"),
        pytest.param("lm_head", "transformer.h.0.attn", errors.NoFeedbackPointError, "returns tuple.*name the module"),
        pytest.param("lm_heads", [GPT2Block], errors.OutputError, "Near names: lm_head"),
        pytest.param("lm_head", [BertLayer], errors.NoFeedbackPointError, "type BertLayer, of which the model"),
    ],
)
def test_points_and_outputs_that_do_not_fit_are_refused(
    output: str, points: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        fa.attach(gpt2(), fa.DFA(), example_inputs=tokens(), points=points, output=output)


def test_blocks_that_return_tuples_are_refused_and_their_last_part_serves() -> None:
    sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 24, "num_layers": 2}
    model, data = T5ForConditionalGeneration(T5Config(**sizes, vocab_size=31, decoder_start_token_id=0)), tokens()
    with pytest.raises(errors.NoFeedbackPointError, match=r"'encoder\.block\.0' .*returns tuple.*name the module"):
        fa.attach(model, fa.DFA(), example_inputs=data, points=[T5Block], output="lm_head")
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=[T5LayerFF], output="lm_head")
    teach(model, data)
    assert len(points_of(handle)) == 4
    assert all(row.fired for row in handle.describe().rows if row.point in points_of(handle))


def test_a_vocabulary_resized_after_attach_is_refused() -> None:
    model, data = gpt2(), tokens()
    fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    model.resize_token_embeddings(40, mean_resizing=False)
    with pytest.raises(errors.FeedbackShapeError, match=r"40 outputs.*remove the rule and attach it again"):
        model(**data)


def test_a_forward_replaced_by_one_that_never_calls_the_output_is_refused() -> None:
    """As fused losses do, which take the weight of the vocabulary projection and not the module."""
    model, data = gpt2(), tokens()
    fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    model.forward = lambda input_ids, labels: F.linear(model.transformer(input_ids)[0], model.lm_head.weight)
    with pytest.raises(errors.PointNotFiredError, match="named as output= did not fire"):
        model(**data)


def test_fused_attention_without_tangents_is_refused_with_the_option_that_has_them() -> None:
    with pytest.raises(errors.ForwardModeError, match="attn_implementation='eager'"):
        fa.attach(gpt2(), fa.FDFA(), example_inputs=tokens(), points=[GPT2Block], output="lm_head")


def test_generating_and_evaluating_are_those_of_the_plain_model() -> None:
    model, plain, data = gpt2().eval(), gpt2().eval(), tokens()
    fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    prompt = {"input_ids": data["input_ids"][:2, :3], "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    written = [m.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=0) for m in (model, plain)]
    assert torch.equal(*written)
    with torch.no_grad():
        assert torch.equal(model(**data).logits, plain(**data).logits)


@pytest.mark.parametrize("points", [GPT2_BLOCKS, MICRO], ids=["macro", "micro"])
def test_checkpointed_activations_give_the_same_gradients(points: list[Any]) -> None:
    model, plain, data = gpt2(dropout=0.1), gpt2(dropout=0.1), tokens()
    for one in (model, plain):
        fa.attach(one, fa.DFA(), example_inputs=data, points=points, output="lm_head")
    model.activation_checkpointing_enable()
    found = []
    for one in (model, plain):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            found.append(teach(one, data))
    assert_same_gradients(*found)


@pytest.mark.parametrize("points", [GPT2_BLOCKS, MICRO], ids=["macro", "micro"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpointing_is_refused(points: list[Any]) -> None:
    model, data = gpt2(), tokens()
    fa.attach(model, fa.DFA(), example_inputs=data, points=points, output="lm_head")
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises((errors.UntaughtLayerError, errors.CheckpointingError), match="use_reentrant=False"):
        teach(model, data)


def test_a_model_saved_after_remove_is_the_plain_one(tmp_path: Path) -> None:
    model, data = gpt2(), tokens()
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    teach(model, data)
    handle.remove()
    model.save_pretrained(tmp_path)
    loaded, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(loaded(**data).logits, model.eval()(**data).logits)


@pytest.mark.parametrize("size", ["1GB", "4KB"], ids=["whole", "in shards"])
def test_a_model_saved_with_its_rule_loads_as_a_plain_one_and_goes_on_as_an_attached_one(
    tmp_path: Path, size: str
) -> None:
    model, data = gpt2(), tokens()
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head")
    model.save_pretrained(tmp_path, max_shard_size=size)
    loaded, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report.pop("unexpected_keys") == {f"feedalign.{name}" for name, _ in handle.store.named_buffers()}
    assert not any(report.values())
    assert list(loaded.state_dict()) == list(gpt2().state_dict())
    assert torch.equal(loaded(**data).logits, model.eval()(**data).logits)
    other = torch.Generator().manual_seed(1)
    fa.attach(loaded, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head", generator=other)
    for file in tmp_path.glob("*.safetensors"):
        loaded.load_state_dict(load_file(file), strict=False)
    assert_same_gradients(teach(loaded, data), teach(model, data), tolerance=0)


@pytest.mark.parametrize(
    "draw", [fa.SharedSlice(), fa.Orthogonal(), fa.Sparse(), fa.Ternary()], ids=lambda draw: type(draw).__name__
)
def test_feedback_of_every_draw_can_be_saved(draw: fa.Draw, tmp_path: Path) -> None:
    """The files hold no two tensors that share memory."""
    model, data = gpt2(), tokens()
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=[GPT2Block], output="lm_head", feedback=draw)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    held = {f"feedalign.{name}" for name, _ in handle.store.named_buffers()}
    assert len(held) == (1 if isinstance(draw, fa.SharedSlice) else 2)
    assert {name for name in saved if "feedalign" in name} == held


@pytest.mark.parametrize(("make", "batch", "points", "output"), CASES[:5])
def test_batches_and_sequences_may_have_other_lengths_than_the_example(
    make: Callable[[], nn.Module], batch: Callable[[], Batch], points: list[Any], output: str
) -> None:
    model, plain, data = make().double(), make().double(), batch()
    handle = fa.attach(model, fa.DFA(), example_inputs=data, points=points, output=output)
    shorter = {name: value[:3, :5] if value.dim() == 2 else value[:3] for name, value in data.items()}
    assert_same_gradients(teach(model, shorter), dfa_by_hand(plain, shorter, output, handle), tolerance=1e-12)
