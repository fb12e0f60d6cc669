"""The `Trainer` of the transformers library around an attached model, compared with a loop that is written out."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, SequentialSampler
from transformers import EvalPrediction, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

import feedalign as fa
from feedalign import errors
from integration.gradients import AVERAGED, Gradients, assert_same_gradients, gradients
from integration.transformers_models import (
    BERT_POINTS,
    CONTEXT,
    GPT2_BLOCKS,
    VIT_POINTS,
    Batch,
    bert,
    dfa_by_hand,
    gpt2,
    padded,
    pictures,
    sentences,
    tokens,
    untied_gpt2,
    vit,
)

pytestmark = [
    # Trainer asks for a faster kind of memory, which there is only with a GPU.
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

NUM_STEPS, BATCH_SIZE = 3, 4

PLACES: dict[tuple[str, bool], tuple[Any, str]] = {
    ("input_ids", False): (GPT2_BLOCKS, "lm_head"),
    ("input_ids", True): (BERT_POINTS, "classifier"),
    ("pixel_values", False): (VIT_POINTS, "classifier"),
}
"""Points and output, by what the model of a batch takes: its first input, and whether there is a mask."""


class Rows(Dataset[Batch]):
    """A batch as a data set: one sample after another."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def __getitem__(self, index: int) -> Batch:
        return {name: value[index] for name, value in self.batch.items()}


class InOrder(Trainer):
    """Samples come as they stand."""

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Notes(TrainerCallback):
    """Notes the gradients before each step of the optimizer."""

    def __init__(self) -> None:
        self.gradients: list[Gradients] = []

    def on_pre_optimizer_step(self, *args: Any, model: nn.Module, **others: Any) -> None:
        self.gradients.append(gradients(model))


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": BATCH_SIZE,
        "max_grad_norm": 0.0,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        # No Adam: a bias of keys cancels in attention, and Adam would make steps of the rounding that is left.
        "optim": "sgd",
        "optim_args": "momentum=0.9",
    }
    return TrainingArguments(**{**defaults, **options})


def run(model: nn.Module, data: Batch, folder: Path, **options: Any) -> tuple[Trainer, list[Gradients]]:
    """Train with the Trainer."""
    notes = Notes()
    trainer = InOrder(model=model, args=arguments(folder, **options), train_dataset=Rows(data), callbacks=[notes])
    trainer.train()
    return trainer, notes.gradients


def num_labels(model: GPT2LMHeadModel) -> int:
    """What the Trainer has the sum of losses divided by: all labels, where it does not know that the first is none."""
    return BATCH_SIZE * (CONTEXT - (model.loss_type == "ForCausalLM"))


def loop(
    model: nn.Module,
    data: Batch,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    loss_of: Callable[[Any, Batch], Tensor] | None = None,
) -> list[Gradients]:
    """Train with a loop; the loss of language models is a mean over all labels of a step, as with the Trainer."""
    found = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    size = BATCH_SIZE // accumulate
    model.train()
    for first in range(0, NUM_STEPS * BATCH_SIZE, BATCH_SIZE):
        for part in range(first, first + BATCH_SIZE, size):
            batch = {name: value[part : part + size] for name, value in data.items()}
            counted = {"num_items_in_batch": num_labels(model)} if isinstance(model, GPT2LMHeadModel) else {}
            with precision():
                made = model(**batch, **counted)
                loss = made.loss if loss_of is None else loss_of(made, batch)
            (loss / (1 if counted else accumulate)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        found.append(gradients(model))
        optimizer.step()
        optimizer.zero_grad()
    return found


def attached(make: Callable[[], nn.Module], rule: fa.Rule, data: Batch, **options: Any) -> nn.Module:
    points, output = PLACES[next(iter(data)), "attention_mask" in data]
    if isinstance(rule, (fa.DKP, fa.FDFA)):
        options.setdefault("feedback", fa.KaimingUniform())
    if isinstance(rule, fa.FA):
        points = None
    model = make()
    fa.attach(model, rule, example_inputs={n: v[:2] for n, v in data.items()}, points=points, output=output, **options)
    return model


def under_dfa(make: Callable[[], nn.Module] = untied_gpt2, **options: Any) -> nn.Module:
    return attached(make, fa.DFA(), tokens(2), **options)


def assert_same_run(found: list[Gradients], expected: list[Gradients], tolerance: float = 1e-6) -> None:
    assert len(found) == len(expected) == NUM_STEPS
    for mine, wanted in zip(found, expected, strict=True):
        assert_same_gradients(mine, wanted, tolerance)


def assert_same_state(found: nn.Module, expected: nn.Module, tolerance: float = 1e-6) -> None:
    """Compare all parameters and buffers, feedback included."""
    mine, wanted = found.state_dict(), expected.state_dict()
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(mine[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_rule_was_on(model: nn.Module, found: list[Gradients], make: Callable[[], nn.Module], data: Batch) -> None:
    """All points fired, and the first block's first gradient is not backprop's."""
    rows = fa.handle_of(model).describe().rows
    assert all(row.fired for row in rows if row.fired is not None)
    assert any(row.fired for row in rows)
    exact = loop(make(), data)[0]
    hidden = next(name for name in exact if name.endswith(("c_attn.weight", "query.weight", "q_proj.weight")))
    learned = found[0][hidden]
    assert learned.any()
    assert F.cosine_similarity(learned.flatten(), exact[hidden].flatten(), dim=0) < 0.9


MODELS: list[Any] = [
    pytest.param(gpt2, tokens, id="gpt2"),
    pytest.param(bert, lambda n: padded(sentences(n)), id="bert"),
    pytest.param(vit, pictures, id="vit"),
]


@pytest.mark.parametrize("rule", [fa.DFA(), fa.FA(), fa.DKP(), fa.SignDFA()], ids=lambda rule: rule.name)
@pytest.mark.parametrize(("make", "batches"), MODELS)
def test_gradients_are_those_of_a_loop(
    make: Callable[[], nn.Module], batches: Callable[[int], Batch], rule: fa.Rule, tmp_path: Path
) -> None:
    data = batches(NUM_STEPS * BATCH_SIZE)
    model, other = attached(make, rule, data), attached(make, rule, data)
    _, found = run(model, data, tmp_path)
    assert_same_run(found, loop(other, data))
    assert_same_state(model, other)
    assert_rule_was_on(model, found, make, data)


@pytest.mark.parametrize("rule", [fa.FDFA(), AVERAGED], ids=repr)
def test_perturbed_forwards_and_feedback_learned_in_them_are_those_of_a_loop(rule: fa.Rule, tmp_path: Path) -> None:
    data = tokens(NUM_STEPS * BATCH_SIZE)
    model, other = (attached(eager_gpt2, rule, data) for _ in range(2))
    _, found = run(model, data, tmp_path)
    assert_same_run(found, loop(other, data))
    assert_same_state(model, other)
    assert_rule_was_on(model, found, eager_gpt2, data)


def eager_gpt2() -> GPT2LMHeadModel:
    """With attention that has forward-mode derivatives."""
    return gpt2(attn_implementation="eager")


def autocast() -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def smoothed(made: Any, batch: Batch) -> Tensor:
    logits, targets = made.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    return F.cross_entropy(logits, targets, label_smoothing=0.1) * (CONTEXT - 1) / CONTEXT


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulation": ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, {"accumulate": 2}),
    "clipping": ({"max_grad_norm": 0.05}, {"clip": 0.05}),
    "label smoothing": ({"label_smoothing_factor": 0.1}, {"loss_of": smoothed}),
    "bf16": ({"bf16": True}, {"precision": autocast}),
    "checkpointing": ({"gradient_checkpointing": True}, {}),
}
"""Arguments of the Trainer, and what the loop does in their place."""


@pytest.mark.filterwarnings(
    # The name that people's scripts have; it is to become activation_checkpointing.
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_trainer_do_what_they_do_in_a_loop(setting: str, tmp_path: Path) -> None:
    of_trainer, of_loop = SETTINGS[setting]
    data = tokens(NUM_STEPS * BATCH_SIZE)
    model, other, plain = under_dfa(), under_dfa(), under_dfa()
    _, found = run(model, data, tmp_path, **of_trainer)
    assert_same_run(found, loop(other, data, **of_loop))
    assert_same_state(model, other)
    assert_rule_was_on(model, found, untied_gpt2, data)
    if of_loop:
        hidden = "transformer.h.0.attn.c_attn.weight"
        assert not torch.equal(found[0][hidden], loop(plain, data)[0][hidden])


def test_the_trainer_compiles_an_attached_model(tmp_path: Path) -> None:
    def make() -> GPT2LMHeadModel:
        model = untied_gpt2()
        # Else the library logs that it does not know the loss of this class, which Dynamo does not trace.
        model.loss_type = "ForCausalLM"
        return model

    data = tokens(NUM_STEPS * BATCH_SIZE)
    model, other = under_dfa(make), under_dfa(make)
    trainer, found = run(model, data, tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)
    assert_same_run(found, loop(other, data))
    assert_rule_was_on(model, found, untied_gpt2, data)


def test_a_step_of_the_trainer_is_that_of_the_equations_by_hand(tmp_path: Path) -> None:
    data = tokens(BATCH_SIZE)
    model, plain = under_dfa(gpt2), gpt2()
    plain.loss_type = model.loss_type = "ForCausalLM"
    _, (found,) = run(model, data, tmp_path, max_steps=1)
    assert_same_gradients(found, dfa_by_hand(plain, data, "lm_head", fa.handle_of(model)))


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_bert_learns_is_evaluated_and_keeps_its_best_weights(tmp_path: Path) -> None:
    """With a shuffled data set, Adam with decay, a warm-up and clipping, as by default."""
    data, held_out = sentences(48), sentences(16, seed=1)
    model = attached(bert, fa.DFA(), data)
    options: dict[str, Any] = {"learning_rate": 0.01, "warmup_steps": 4, "weight_decay": 0.01, "max_grad_norm": 1.0}
    every = {"eval_strategy": "steps", "eval_steps": 24, "save_strategy": "steps", "save_steps": 24}
    options |= {"optim": "adamw_torch", "optim_args": None, "per_device_train_batch_size": 8, "max_steps": 48}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, **options, **every, **best),
        train_dataset=Rows(data),
        eval_dataset=Rows(held_out),
        compute_metrics=accuracy,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.6 * before["eval_loss"]
    assert after["eval_accuracy"] == trainer.state.best_metric > 0.8
    predictions = trainer.predict(Rows(held_out)).predictions
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(predictions), model.eval()(**held_out).logits)
    assert all(row.fired for row in fa.handle_of(model).describe().rows if row.fired is not None)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.BRSF(), fa.NoisyBackprop()], ids=lambda rule: rule.name)
def test_training_resumed_from_a_checkpoint_goes_on_bit_for_bit(rule: fa.Rule, tmp_path: Path) -> None:
    data = tokens(NUM_STEPS * BATCH_SIZE)
    whole, resumed = (attached(untied_gpt2, rule, data, generator=torch.Generator().manual_seed(n)) for n in range(2))
    run(whole, data, tmp_path, save_strategy="steps", save_steps=2)
    trainer = InOrder(model=resumed, args=arguments(tmp_path), train_dataset=Rows(data))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == NUM_STEPS
    assert_same_state(resumed, whole, tolerance=0)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the library logs, which it keeps from other loggers."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def resume(model: nn.Module, folder: Path) -> None:
    trainer = InOrder(model=model, args=arguments(folder), train_dataset=Rows(tokens(NUM_STEPS * BATCH_SIZE)))
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))


def save(model: nn.Module, folder: Path) -> None:
    run(model, tokens(NUM_STEPS * BATCH_SIZE), folder, save_strategy="steps", save_steps=2, max_steps=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"points": ["transformer.h.0", "transformer.ln_f"]},
            r"no place for: feedalign\.transformer_h_1\. Attach with",
        ),
        ({"output": "transformer.ln_f"}, "size mismatch for feedalign"),
    ],
    ids=["other points", "another output"],
)
def test_feedback_of_another_run_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    save(under_dfa(), tmp_path)
    model, data = untied_gpt2(), tokens()
    options = {"points": GPT2_BLOCKS, "output": "lm_head", **options}
    fa.attach(model, fa.DFA(), example_inputs=data, **options)
    with pytest.raises(RuntimeError, match=words):
        resume(model, tmp_path)


def test_the_library_logs_feedback_without_a_rule_and_a_rule_without_feedback(
    tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    save(under_dfa(), tmp_path)
    resume(untied_gpt2(), tmp_path)
    assert "unexpected keys in the checkpoint model loaded: ['feedalign.transformer_h_0'" in logged.text
    logged.clear()
    save(untied_gpt2(), tmp_path)
    resume(under_dfa(), tmp_path)
    assert "missing keys in the checkpoint model loaded: ['feedalign.transformer_h_0'" in logged.text


def test_a_model_saved_by_the_trainer_after_remove_is_the_plain_one(tmp_path: Path) -> None:
    model, data = under_dfa(), tokens()
    trainer, _ = run(model, data, tmp_path)
    fa.handle_of(model).remove()
    trainer.save_model(str(tmp_path))
    assert load_file(tmp_path / "model.safetensors").keys() == untied_gpt2().state_dict().keys()
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**data).logits, model.eval()(**data).logits)


def test_a_rule_attached_in_model_init_is_there_when_the_trainer_makes_the_model_anew(tmp_path: Path) -> None:
    data, notes = tokens(NUM_STEPS * BATCH_SIZE), Notes()
    trainer = InOrder(
        model_init=lambda: under_dfa(), args=arguments(tmp_path), train_dataset=Rows(data), callbacks=[notes]
    )
    first = trainer.model
    trainer.train()
    assert trainer.model is not first
    assert_same_run(notes.gradients, loop(under_dfa(), data))
    assert_rule_was_on(trainer.model, notes.gradients, untied_gpt2, data)


def test_a_model_that_the_trainer_will_make_anew_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(model_init=lambda: untied_gpt2(), args=arguments(tmp_path), train_dataset=Rows(tokens()))
    with pytest.raises(errors.AttachError, match=r"made by the model_init of a transformers Trainer.*Attach inside"):
        fa.attach(trainer.model, fa.DFA(), example_inputs=tokens(), points=[GPT2Block], output="lm_head")


def test_a_scripts_own_variables_are_not_taken_for_a_trainer() -> None:
    script = {"model": untied_gpt2(), "model_init": untied_gpt2, "model_wrapped": None}
    fa.attach(script["model"], fa.DFA(), example_inputs=tokens(), points=[GPT2Block], output="lm_head")


def test_a_trainer_that_was_given_its_model_may_have_it_attached_later(tmp_path: Path) -> None:
    data, notes = tokens(NUM_STEPS * BATCH_SIZE), Notes()
    trainer = InOrder(model=untied_gpt2(), args=arguments(tmp_path), train_dataset=Rows(data), callbacks=[notes])
    fa.attach(trainer.model, fa.DFA(), example_inputs=tokens(2), points=[GPT2Block], output="lm_head")
    trainer.train()
    assert_same_run(notes.gradients, loop(under_dfa(), data))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpointing_is_refused(tmp_path: Path) -> None:
    reentrant = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(errors.UntaughtLayerError, match="use_reentrant=False"):
        run(under_dfa(), tokens(), tmp_path, **reentrant)
