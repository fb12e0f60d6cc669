from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_text import SIZE, VOCAB_SIZE, parts, plan_of

from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.language import training
from feedalign_lab.language.choices import RuleChoice, parse_choices
from feedalign_lab.language.evaluation import loss_by_counts, mean_loss, perplexity, token_counts
from feedalign_lab.language.learner import LanguageLearner, cross_entropy, make_learner, noam_rate
from feedalign_lab.language.plan import LanguagePlan, Optimization
from feedalign_lab.language.records import Evaluation, LanguageRun, best_runs
from feedalign_lab.language.sampling import continue_text
from feedalign_lab.language.settings import SIZES, default_rate
from feedalign_lab.language.training import angles, evaluated_after, train
from feedalign_lab.language.transformer import Transformer

CPU = torch.device("cpu")


def learner_of(plan: LanguagePlan, rate: float = 1e-2) -> LanguageLearner:
    return make_learner(plan, plan.choices[0], rate, VOCAB_SIZE, CPU)


def trained(rules: str, **changes: object) -> tuple[LanguageLearner, LanguageRun]:
    plan = plan_of(rules, **changes)
    learner = learner_of(plan)
    return learner, train(learner, plan, 1e-2, parts())


@pytest.mark.parametrize("rules", ["backprop", "dfa-macro", "dfa-micro", "dkp-macro", "fa"])
def test_perplexity_falls(rules: str) -> None:
    _, run = trained(rules, epochs=4)
    assert run.status == "finished"
    assert run.best is not None
    assert run.best.validation_perplexity < 0.7 * VOCAB_SIZE
    assert run.test_perplexity is not None
    assert run.test_perplexity < 0.8 * VOCAB_SIZE
    assert run.tokens_per_second > 0


def test_blocks_that_learn_go_below_frozen_ones() -> None:
    found = {rules: trained(rules, epochs=4)[1].test_perplexity for rules in ("backprop", "dfa-macro", "shallow")}
    assert found["backprop"] is not None
    assert found["dfa-macro"] is not None
    assert found["shallow"] is not None
    assert found["backprop"] < found["dfa-macro"] < 0.9 * found["shallow"]


def test_shallow_leaves_all_but_the_output_as_it_was() -> None:
    plan = plan_of("shallow")
    before = {name: value.clone() for name, value in learner_of(plan).model.state_dict().items()}
    learner, _ = trained("shallow")
    changed = [name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["logits.weight", "logits.bias"]


def test_same_seed_same_numbers() -> None:
    plan = plan_of("dfa-micro", size=replace(SIZE, dropout=0.2))
    first, second = (train(learner_of(plan), plan, 1e-2, parts()) for _ in range(2))
    assert [one.validation_perplexity for one in first.evaluations] == [
        one.validation_perplexity for one in second.evaluations
    ]
    other = replace(plan, seed=1)
    third = train(learner_of(other), other, 1e-2, parts())
    assert first.test_perplexity != third.test_perplexity


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    trained("dfa-macro", size=replace(SIZE, dropout=0.2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_all_rules_start_from_the_same_weights() -> None:
    models = [learner_of(plan_of(rules)).model for rules in ("backprop", "dfa-macro", "shallow")]
    for model in models[1:]:
        for name, value in models[0].named_parameters():
            assert torch.equal(dict(model.named_parameters())[name], value)


def test_angles_are_those_of_the_points() -> None:
    _, run = trained("dfa-micro", epochs=1)
    assert [angle.point for angle in run.angles] == [
        f"blocks.{number}.{name}" for number in range(2) for name in ("norm1", "activation", "norm2")
    ]
    assert {angle.degrees for angle in trained("backprop", epochs=1)[1].angles} == {0.0}


@pytest.mark.parametrize("error_at", ["hidden", "logits"])
def test_the_angle_at_the_last_point_is_that_of_the_projected_error(error_at: str) -> None:
    learner = learner_of(plan_of("dfa-macro", error_at=error_at))
    inputs, targets, _ = parts().validation
    plain = Transformer(SIZE, VOCAB_SIZE)
    plain.load_state_dict(learner.model.state_dict(), strict=False)
    hidden = torch.empty(0)

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal hidden
        hidden = output
        output.retain_grad()

    plain.hidden.register_forward_hook(keep)
    logits = plain(inputs)
    logits.retain_grad()
    cross_entropy(logits, targets).backward()
    assert hidden.grad is not None
    error = {"hidden": hidden.grad, "logits": logits.grad}[error_at]
    feedback = learner.handle.feedback_at("blocks.1")
    assert feedback is not None
    cosine = torch.cosine_similarity((error @ feedback).flatten(), hidden.grad.flatten(), dim=0)
    wanted = math.degrees(math.acos(float(cosine)))
    assert angles(learner, parts().validation)[-1].degrees == pytest.approx(wanted, abs=0.01)
    assert wanted > 30


def test_the_best_weights_are_kept() -> None:
    learner, run = trained("backprop", epochs=6, evaluations=2, optimization=Optimization(beta2=0.5))
    assert len(run.evaluations) == 12
    validation = parts().validation
    found = perplexity(mean_loss(learner.model, validation.inputs, validation.targets))
    assert run.best is not None
    assert found == run.best.validation_perplexity == min(one.validation_perplexity for one in run.evaluations)


def test_perplexity_counts_every_token_once() -> None:
    learner = learner_of(plan_of("backprop"))
    inputs, targets, _ = parts().validation
    with torch.no_grad():
        logits = learner.model(inputs)
    chosen = logits.log_softmax(-1).gather(-1, targets[..., None])
    assert mean_loss(learner.model, inputs, targets) == pytest.approx(-float(chosen.mean()), rel=1e-5)
    assert learner.model.training
    assert perplexity(1000.0) == math.inf


def test_perplexity_by_frequencies_of_tokens() -> None:
    counts = token_counts(torch.tensor([[0, 1], [1, 1]]), 3)
    assert counts.tolist() == [1, 3, 0]
    wanted = -(math.log(2 / 7) + math.log(4 / 7) + math.log(1 / 7)) / 3
    assert loss_by_counts(counts, torch.tensor([[0, 1, 2]])) == pytest.approx(wanted)


def test_evaluations_lie_at_even_distances() -> None:
    assert evaluated_after(10, 1) == {10}
    assert evaluated_after(10, 4) == {2, 5, 8, 10}
    assert evaluated_after(2, 5) == {1, 2}


def test_steps_end_a_run_within_an_epoch() -> None:
    _, run = trained("dfa-macro", epochs=3, max_steps=11)
    assert [one.step for one in run.evaluations] == [8, 11]
    assert run.status == "finished"
    longer = trained("dfa-macro", epochs=3)[1]
    assert run.evaluations[0].validation_perplexity == longer.evaluations[0].validation_perplexity
    assert trained("dfa-macro", epochs=1, max_steps=100)[1].evaluations[-1].step == 8


def test_interrupted_runs_keep_what_was_done() -> None:
    plan = plan_of("dfa-macro", epochs=3)

    def stop(evaluation: Evaluation) -> None:
        if evaluation.step == 16:
            raise KeyboardInterrupt

    run = train(learner_of(plan), plan, 1e-2, parts(), on_evaluation=stop)
    assert run.status == "interrupted"
    assert [one.step for one in run.evaluations] == [8, 16]
    assert run.test_perplexity is not None
    assert "after 16 steps" in run.message


def test_a_run_that_is_interrupted_while_it_is_measured_keeps_its_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "angles", interrupted)
    _, run = trained("dfa-macro")
    assert run.status == "interrupted"
    assert len(run.evaluations) == 2


def test_diverged_runs_say_so() -> None:
    plan = plan_of("backprop", rate=1e30)
    run = train(learner_of(plan, 1e30), plan, 1e30, parts())
    assert run.status == "diverged"
    assert "try a learning rate (--lr) below 1e+30" in run.message
    assert "step 2" in run.message


def test_weights_that_blow_up_before_an_evaluation_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("backprop", optimization=Optimization(schedule="noam"))
    found = iter([2.0, math.nan])
    monkeypatch.setattr(training, "mean_loss", lambda *_: next(found, 1.0))
    run = train(learner_of(plan, 3.0), plan, 3.0, parts())
    assert run.status == "diverged"
    assert [round(one.validation_perplexity, 2) for one in run.evaluations] == [7.39]
    # What was asked for is Noam's factor, not the rate of that step.
    assert "the validation perplexity is nan; try a learning rate (--lr) below 3" in run.message


def test_the_rate_on_record_is_that_of_the_last_step() -> None:
    plan = plan_of("backprop", optimization=Optimization(schedule="noam", warmup=100), epochs=1)
    run = train(learner_of(plan, 1.0), plan, 1.0, parts())
    assert run.evaluations[0].rate == pytest.approx(noam_rate(8, SIZE.width, 100))


def test_noam_rises_and_falls() -> None:
    plan = plan_of("backprop", optimization=Optimization(schedule="noam", warmup=3))
    learner = learner_of(plan, 2.0)
    made = []
    for _ in range(6):
        made.append(learner.rate)
        learner.step(*parts().train[:2])
    wanted = [2 * 16**-0.5 * min(step**-0.5, step * 3**-1.5) for step in range(1, 7)]
    assert made == pytest.approx(wanted)
    assert noam_rate(3, 16, 3) == pytest.approx(wanted[2] / 2)


def test_plateau_needs_two_evaluations_without_gain() -> None:
    learner = learner_of(plan_of("backprop", optimization=Optimization(schedule="plateau")), 1.0)
    made = []
    for found in (10.0, 9.0, 9.5, 8.0, 8.5, 8.5, 8.5, 8.5):
        learner.after_evaluation(found)
        made.append(learner.rate)
    assert made == pytest.approx([1, 1, 1, 1, 1, 0.2, 0.2, 0.04])


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("radam", torch.optim.RAdam)])
def test_optimizers(optimizer: str, kind: type) -> None:
    settings = Optimization(optimizer=optimizer, beta1=0.8, beta2=0.98)  # type: ignore[arg-type]
    learner = learner_of(plan_of("dfa-macro", optimization=settings))
    assert isinstance(learner.optimizer, kind)
    assert learner.optimizer.param_groups[0]["betas"] == (0.8, 0.98)


def test_clipping_shortens_the_gradient() -> None:
    learner = learner_of(plan_of("backprop", optimization=Optimization(clip=1e-3)))
    learner.step(*parts().train[:2])
    norms = [parameter.grad.norm() for parameter in learner.model.parameters() if parameter.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_clipping_leaves_the_gradient_of_feedback_out() -> None:
    clipped = learner_of(plan_of("dkp-macro", optimization=Optimization(clip=1e-3)))
    clipped.step(*parts().train[:2])
    own = [parameter.grad for parameter in clipped.weights if parameter.grad is not None]
    assert float(torch.stack([grad.norm() for grad in own]).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert len(own) < len(list(clipped.model.parameters()))
    free = learner_of(plan_of("dkp-macro"))
    free.step(*parts().train[:2])
    for learned, other in zip(clipped.handle.store.parameters(), free.handle.store.parameters(), strict=True):
        torch.testing.assert_close(learned.grad, other.grad)


def test_samples_come_from_their_own_generator() -> None:
    learner, _ = trained("backprop")
    prompt = torch.tensor([1, 4])

    def written(seed: int, **changes: float) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return continue_text(learner.model, prompt, 12, generator=generator, **changes).tolist()  # type: ignore[arg-type]

    before = torch.random.get_rng_state()
    assert written(0) == written(0)
    assert len(written(0)) == 12
    assert torch.equal(before, torch.random.get_rng_state())
    # Longer than the context; the most likely token each time.
    with torch.no_grad():
        learner.model.eval()
        text = prompt
        for _ in range(12):
            text = torch.cat([text, learner.model(text[None, -SIZE.context :])[0, -1].argmax()[None]])
    assert written(3, top_k=1) == text[2:].tolist()


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [([], {}, "no token"), ([1], {"temperature": 0.0}, "temperature"), ([1], {"top_k": 0}, "top_k")],
)
def test_samples_that_cannot_be_drawn(prompt: list[int], options: dict[str, float], words: str) -> None:
    model = learner_of(plan_of("backprop")).model
    with pytest.raises(SettingError, match=words):
        continue_text(
            model,
            torch.tensor(prompt, dtype=torch.long),
            3,
            generator=torch.Generator(),
            **options,  # type: ignore[arg-type]
        )


def test_rules_and_their_points() -> None:
    assert parse_choices("backprop, DFA-micro,dfa,shallow,fa") == (
        RuleChoice("backprop", None),
        RuleChoice("dfa", "micro"),
        RuleChoice("dfa", "macro"),
        RuleChoice("shallow", "macro"),
        RuleChoice("fa", None),
    )
    assert [choice.name for choice in parse_choices("shallow,shallow-micro,dfa,dkp-micro")] == [
        "shallow",
        "dfa-macro",
        "dkp-micro",
    ]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", SettingError, "No rule is named"),
        ("dfaa-macro", UnknownNameError, "dfa-macro"),
        ("nonsense", UnknownNameError, "There is no rule called 'nonsense'"),
        ("backprop-micro", SettingError, "backprop has no feedback points"),
    ],
)
def test_rules_that_do_not_exist(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_choices(text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Optimization(optimizer="sgd"), "optimizer"),  # type: ignore[arg-type]
        (lambda: Optimization(schedule="cosine"), "schedule"),  # type: ignore[arg-type]
        (lambda: Optimization(beta2=1.0), "beta2"),
        (lambda: Optimization(warmup=0), "warm-up"),
        (lambda: Optimization(clip=0.0), "clip"),
        (lambda: plan_of(rate=-1.0), "above 0"),
        (lambda: plan_of(epochs=0), "epochs"),
        (lambda: plan_of(max_steps=0), "steps"),
        (lambda: plan_of(batch_size=0), "chunks per step"),
        (lambda: plan_of(evaluations=0), "evaluations"),
        (lambda: plan_of(seed=-1), "seed"),
        (lambda: plan_of(error_at="loss"), "place of the error"),
        (lambda: plan_of("drtp"), "saturate"),
        (lambda: plan_of("sign-dfa-micro"), "sign-dfa-micro reads the targets .* --error logits"),
    ],
)
def test_settings_out_of_range(make: Callable[[], object], words: str) -> None:
    with pytest.raises((SettingError, UnknownNameError), match=words):
        make()


def test_the_best_rate_counts() -> None:
    def run(rule: str, rate: float, found: float, status: str = "finished") -> LanguageRun:
        return LanguageRun(rule, rate, status, "", (Evaluation(1, 1, 1.0, found, rate, 1.0),))  # type: ignore[arg-type]

    runs = [run("a", 1, 5.0), run("a", 2, 3.0), run("a", 3, 2.0, "diverged"), run("b", 1, 9.0), run("a", 4, 3.5)]
    assert {rule: best.rate for rule, best in best_runs(runs).items()} == {"a": 2, "b": 1}


def test_default_rates_of_the_paper() -> None:
    paper = SIZES["paper"]
    assert default_rate(paper, "constant", RuleChoice("dfa", "micro")) == 5e-5
    assert default_rate(paper, "plateau", RuleChoice("dfa", "macro")) == 1e-4
    assert default_rate(paper, "noam", RuleChoice("backprop", None)) == 1
