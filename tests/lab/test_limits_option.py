"""`--limits`: what a user types, and that it reaches the rule and nothing else."""

import json
import re
from pathlib import Path

import pytest
import torch
from made_data import made

import feedalign as fa
from feedalign_lab.choices import Case, UnderLimits, left_out, parse_rule_names
from feedalign_lab.cli import main
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.limits import LIMIT_NAMES, parse_limits
from feedalign_lab.lockstep import lack_of_lockstep, run_lockstep
from feedalign_lab.options import _LIMITS
from feedalign_lab.plan import Plan
from feedalign_lab.tensors import TensorTask
from feedalign_lab.training import Schedule, run_trial


@pytest.mark.parametrize(
    ("text", "limits", "density"),
    [
        (None, fa.Limits(), None),
        ("", fa.Limits(), None),
        ("error-bits=4", fa.Limits(error=fa.Quantized(4)), None),
        (" delay = 2 , noise=0.5,", fa.Limits(noise=0.5, delay=2), None),
        ("error-ternary=0.2,error-scale=row", fa.Limits(error=fa.Ternarized(0.2, full_scale="row")), None),
        ("error-bits=1,error-rounding=stochastic", fa.Limits(error=fa.Quantized(1, "stochastic")), None),
        ("error-bits=4,error-scale=0.01", fa.Limits(error=fa.Quantized(4, full_scale=0.01)), None),
        ("feedback-bits=3", fa.Limits(feedback=fa.Quantized(3)), None),
        ("feedback-ternary=0.1,feedback-density=0.2", fa.Limits(feedback=fa.Ternarized(0.1)), 0.2),
    ],
)
def test_what_is_typed_is_what_is_meant(text: str | None, limits: fa.Limits, density: float | None) -> None:
    given = parse_limits(text)
    assert (given.limits, given.density) == (limits, density)
    assert parse_limits(given.text) == given


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bits=4", "error-bits"),
        ("noise", "name=value|noise=value"),
        ("noise=1,noise=2", "once"),
        ("delay=1.5", "no whole number"),
        ("noise=loud", "no number"),
        ("noise=-1", "at least 0"),
        ("error-bits=99", "1 .the sign. to 32"),
        ("error-bits=4,error-ternary=0.1", "give one"),
        ("error-scale=row", "error-bits"),
        ("error-bits=4,error-scale=batch", "'row'"),
        ("feedback-density=2", "density"),
    ],
)
def test_what_means_nothing_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises((SettingError, UnknownNameError), match=says):
        parse_limits(text)


def test_the_help_names_every_limit() -> None:
    assert all(name in _LIMITS for name in LIMIT_NAMES)


def test_limits_reach_direct_rules_and_the_draw_of_their_feedback() -> None:
    text = "error-bits=3,noise=0.5,delay=1,feedback-density=0.2"
    dataset = made("mnist", 8)
    learner = make_learner(LearnerSpec("dfa", "fc1-50", 1e-3, limits=text), dataset)
    assert learner.handle.rules == (fa.DFA(limits=fa.Limits(fa.Quantized(3), noise=0.5, delay=1)),)
    matrix = next(held for held in learner.handle.store.buffers() if held.shape == (10, 50))
    assert 0.1 < float((matrix != 0).float().mean()) < 0.3
    assert make_learner(LearnerSpec("fa", "fc1-50", 1e-3, limits=text), dataset).handle.rules == (fa.FA(),)


@pytest.mark.parametrize("rule", ["dfa", "dkp"])
def test_trials_in_lock_step_have_the_limits_of_each_alone(rule: str) -> None:
    dataset, schedule = made("mnist", 64), Schedule(2, 16)
    task = TensorTask(dataset, "fc1-20", schedule)
    text = "error-bits=3,error-rounding=stochastic,noise=0.3,feedback-bits=3"
    rate = 1e-3 if rule == "dkp" else None
    specs = [LearnerSpec(rule, "fc1-20", 1e-2, feedback_learning_rate=rate, limits=text, trial=t) for t in range(2)]
    together = run_lockstep(task, specs, schedule)
    for spec, result in zip(specs, together, strict=True):
        alone = run_trial(task.trial(spec), spec, schedule)
        assert [e.train_loss for e in result.epochs] == pytest.approx([e.train_loss for e in alone.epochs], rel=1e-4)
    free = run_trial(task.trial(LearnerSpec(rule, "fc1-20", 1e-2, feedback_learning_rate=rate)), specs[0], schedule)
    assert abs(free.epochs[-1].train_loss / together[0].epochs[-1].train_loss - 1) > 1e-3
    late = LearnerSpec(rule, "fc1-20", 1e-2, limits="delay=1")
    assert "waits" in (lack_of_lockstep(task, late) or "")


def test_compare_records_and_shows_the_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["compare", "--network", "fc1-8", "--rules", "dfa,shallow", "--trials", "1", "--epochs", "1"]
    assert main([*run, "--limits", "error-bits=3,delay=1", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["config"]["limits"] == "error-bits=3,delay=1"
    assert "error-bits=3,delay=1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rules", "backprop", "--limits", "noise=1"], "add a rule such as dfa"),
        (
            ["--rules", "dfa,drtp", "--limits", "delay=1"],
            r"drtp takes no delay=1 of --limits \(its signal waits",
        ),
        (
            ["--rules", "sign-dfa", "--limits", "error-bits=4,error-scale=row,noise=1"],
            "error-bits=4,error-scale=row of",
        ),
        (["--rules", "dfa", "--limits", ""], "names no limit"),
        (["--rules", "dkp", "--limits", "feedback-density=0.1"], "learns its feedback"),
        (["--data", "cora", "--network", "gcn", "--rules", "dfa", "--limits", "noise=1"], "--limits means nothing"),
    ],
)
def test_limits_that_no_rule_would_have_are_refused(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("delay=1", {"drtp"}),
        ("error-bits=4", {"drtp", "sign-dfa"}),
        ("feedback-density=0.1", {"dkp", "fdfa"}),
        ("noise=1", set()),
    ],
)
def test_all_stands_for_the_rules_that_can_have_the_limits(text: str, gone: set[str]) -> None:
    case = Case.named("mnist", "fc2-8")
    limited = UnderLimits(case, parse_limits(text))
    rules = parse_rule_names("all", limited)
    assert set(parse_rule_names("all", case)) - set(rules) == gone
    assert all(text in why for why in left_out("all", limited).values())
    assert left_out("all", limited).keys() == gone
    Plan("mnist", "fc2-8", rules, 1, Schedule(1, 8), limits=text)
    for rule in gone:
        with pytest.raises(SettingError, match=f"{rule} out of the rules"):
            Plan("mnist", "fc2-8", ("dfa", rule), 1, Schedule(1, 8), limits=text)


def test_compare_with_all_rules_leaves_out_those_that_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def stop(plan: Plan, *_: object) -> None:
        plans.append(plan)
        raise SettingError("enough")

    monkeypatch.setattr("feedalign_lab.cli_commands.run_comparison", stop)
    run = ["compare", "--data", "digits", "--network", "fc1-8", "--trials", "1", "--epochs", "1"]
    assert main([*run, "--limits", "delay=1", "--out", str(tmp_path)]) == 2
    assert plans[0].left_out["drtp"].startswith("takes no delay=1 of --limits")
    assert "dfa" in plans[0].rules
    assert "drtp" not in plans[0].rules


def test_weights_and_order_of_the_data_are_those_without_limits() -> None:
    dataset = made("mnist", 8)
    learners = [make_learner(LearnerSpec("dfa", "fc1-8", 1e-3, limits=text), dataset) for text in (None, "noise=1")]
    one, other = (dict(learner.model.named_parameters()) for learner in learners)
    assert all(torch.equal(one[name], value) for name, value in other.items())
    matrices = [next(b for b in learner.handle.store.buffers() if b.dim() == 2) for learner in learners]
    assert torch.equal(*matrices)
