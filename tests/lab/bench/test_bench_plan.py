"""Which cases a benchmark has, and the networks that it times."""

import sys

import pytest
import torch

import feedalign as fa
from feedalign_lab.bench.architectures import ARCHITECTURES, DIMENSIONS
from feedalign_lab.bench.contestants import BASELINE, NAMES, ON_GPU, contestant, rule_named
from feedalign_lab.bench.options import BenchOptions
from feedalign_lab.bench.peers import PEERS
from feedalign_lab.bench.plan import plan_of
from feedalign_lab.errors import SettingError, UnknownNameError

CPU = torch.device("cpu")


def test_the_table_has_every_architecture_and_contestant_but_those_of_gpus() -> None:
    plan = plan_of(BenchOptions(), on_gpu=False)
    assert [case.architecture.name for case in plan.cases] == list(ARCHITECTURES)
    assert all(case.contestants[0] == BASELINE and case.sweep is None for case in plan.cases)
    assert set(plan.cases[0].contestants) == set(NAMES) - set(ON_GPU)
    assert {rule.name for rule in fa.ALL_RULES} < set(NAMES)
    assert set(plan_of(BenchOptions(), on_gpu=True).cases[0].contestants) == set(NAMES)


def test_sweeps_vary_one_dimension_and_nothing_else() -> None:
    plan = plan_of(BenchOptions(sweep="all"), on_gpu=False)
    for dimension in DIMENSIONS:
        cases = [case for case in plan.cases if case.sweep == dimension]
        assert len(cases) > 3
        assert len({getattr(case.size, dimension) for case in cases}) == len(cases)
        assert len({case.size.with_(dimension, 1) for case in cases}) == 1
        assert all(case.seconds < BenchOptions().seconds for case in cases)
    assert sum(case.sweep is None for case in plan.cases) == len(ARCHITECTURES)
    assert {case.sweep for case in plan_of(BenchOptions(sweep="width"), on_gpu=False).cases} == {"width"}


def test_architectures_that_are_named_are_swept_around_their_own_size() -> None:
    plan = plan_of(BenchOptions(sweep="batch", architectures="cnn,gru", rules="dfa,fa"), on_gpu=False)
    assert [(case.architecture.name, case.size.batch) for case in plan.cases] == [
        *(("cnn", batch) for batch in (16, 32, 64, 128)),
        *(("gru", batch) for batch in (25, 50, 100, 200)),
    ]
    assert {case.contestants for case in plan.cases} == {("backprop", "dfa", "fa")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BenchOptions(sweep="steps", architectures="cnn"), "cnn has no steps to vary; choose of rnn, gru, transformer"),
        (BenchOptions(rounds=0), "--rounds 0"),
        (BenchOptions(seconds=0), "--seconds 0"),
    ],
    ids=["sweep", "rounds", "seconds"],
)
def test_what_does_not_fit_is_said(options: BenchOptions, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        plan_of(options, on_gpu=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BenchOptions(rules="dfa,dfx"), "no rule or contestant called 'dfx'. Did you mean"),
        (BenchOptions(architectures="mlp"), "no architecture called 'mlp'. Did you mean mlp-"),
        (BenchOptions(rules="dfa-graphs"), "no rule or contestant"),
        (BenchOptions(rules=","), "no rule or contestant called ','"),
    ],
    ids=["rule", "architecture", "gpu", "nothing"],
)
def test_names_that_do_not_exist_are_told_with_those_that_do(options: BenchOptions, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        plan_of(options, on_gpu=False)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_is_cut_everywhere_by_a_direct_rule_and_starts_the_same(name: str) -> None:
    architecture = ARCHITECTURES[name]
    one, other = (contestant("dfa", architecture, architecture.small, CPU) for _ in range(2))
    plain = architecture.build(architecture.small)
    for ours, theirs in zip(one.model.parameters(), plain.model.parameters(), strict=False):
        assert torch.equal(ours, theirs)
    assert torch.equal(one.problem.inputs, other.problem.inputs)
    described = fa.handle_of(one.model).describe()
    assert not [row for row in described.rows if "NOT CUT" in row.signal]
    one.step()
    one.pass_once()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in one.model.parameters() if p.requires_grad)
    assert (len(one.forward), len(one.backward)) == (1, 1)
    one.forget()
    assert one.forward == []


def test_backprop_is_plain_torch_and_streaming_streams() -> None:
    architecture = ARCHITECTURES["mlp-deep"]
    assert rule_named(BASELINE, architecture) is None
    plain = contestant(BASELINE, architecture, architecture.small, CPU)
    assert not any(module._forward_hooks for module in plain.model.modules())
    assert plain.cost is not None
    assert plain.cost.limit == 1
    streaming = contestant("drtp-streaming", architecture, architecture.small, CPU)
    streaming.step()
    assert fa.handle_of(streaming.model).is_streaming
    waiting = contestant("drtp", architecture, architecture.small, CPU)
    assert streaming.cost is not None
    assert waiting.cost is not None
    assert streaming.cost.macs < waiting.cost.macs


def test_some_are_perturbed_by_signs() -> None:
    mlp = ARCHITECTURES["mlp-deep"]
    for name in ("fg-a", "fg-w"):
        by_signs, by_default = rule_named(f"{name}-rademacher", mlp), rule_named(name, mlp)
        assert getattr(by_signs, "distribution", None) == "rademacher"
        assert getattr(by_default, "distribution", None) == "normal"


def test_one_output_has_the_link_of_a_sigmoid() -> None:
    recommender = ARCHITECTURES["recommender"]
    for name in ("sign-dfa", "drtp", "lg-fg-a", "drtp-streaming"):
        assert getattr(rule_named(name, recommender), "link", None) == "sigmoid"
        contestant(name, recommender, recommender.small, CPU).step()


def test_a_peer_that_is_not_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "biotorch.module.biomodule", None)
    architecture = ARCHITECTURES["mlp-deep"]
    for name in PEERS:
        with pytest.raises(ImportError, match=r"pip install --no-deps biotorch==0\.0\.16"):
            contestant(name, architecture, architecture.small, CPU)
