"""A grid search: on validation data alone, over networks, batch sizes and rates, kept as it goes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from lab_output import one_line
from made_data import made_series

from feedalign_lab import data, tensors, tuning
from feedalign_lab.cli import main
from feedalign_lab.cli_plans import plans_of_grid
from feedalign_lab.data.dataset import Dataset
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.plan import Plan
from feedalign_lab.records import Spread
from feedalign_lab.tensors import PERCENT_WRONG, TensorTask
from feedalign_lab.training import Schedule
from feedalign_lab.tuning import Candidate, Grid, GridSearch, try_candidate

SPEC = LearnerSpec("dfa", "fc1-10", learning_rate=0.0)
RUN = ["tune", "--rules", "fa,dfa", "--rates", "0.001", "0.01", "--epochs", "1", "--trials", "1"]


def unwatched(rule: str, trial: int, epochs: int):
    return lambda record: None


def try_rates(dataset: Dataset, rates: list[float], trials: int = 2) -> list[Spread | None]:
    schedule = Schedule(2, 32)
    task = TensorTask(dataset, SPEC.network, schedule).for_tuning()
    return [
        try_candidate(
            task,
            [dataclasses.replace(SPEC, learning_rate=rate, trial=trial) for trial in range(trials)],
            schedule,
            unwatched,
        )
        for rate in rates
    ]


def test_test_part_is_not_looked_at() -> None:
    digits = data.load("digits")
    blind = dataclasses.replace(digits, x_test=torch.full_like(digits.x_test, torch.nan))
    results = [try_rates(dataset, [1e-5, 1e-2]) for dataset in (digits, blind)]
    assert results[0] == results[1]
    slow, good = results[0]
    assert slow is not None
    assert good is not None
    assert good.mean < slow.mean
    assert good.count == 2


def test_trials_have_the_validation_parts_of_their_own_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, seen = made_series(40, is_redrawn=True), []
    honest = tensors.make_learner

    def look(spec: LearnerSpec, split: Dataset, features: object) -> object:
        seen.append(split.x_test)
        return honest(spec, split, features)

    monkeypatch.setattr(tensors, "make_learner", look)
    specs = [LearnerSpec("backprop", "rnn-4", 0.01, seed=3, trial=trial) for trial in (0, 1)]
    task = TensorTask(dataset, "rnn-4", Schedule(1, 8)).for_tuning()
    try_candidate(task, specs, Schedule(1, 8), unwatched)
    splits = [dataset.of_trial(3, trial) for trial in (0, 1)]
    for x, split in zip(seen, splits, strict=True):
        assert split.validation is not None
        assert torch.equal(x, split.validation.x)


def test_rate_that_diverges_has_no_error() -> None:
    assert try_rates(data.load("digits"), [1e38], trials=1) == [None]


def test_best_passes_over_divergence_and_other_rules() -> None:
    candidates = [
        Candidate("dfa", "fc1-10", 32, 1e-3, 0.0, 0.0, Spread(5.0, 0.1, 3)),
        Candidate("dfa", "fc1-20", 64, 1e-2, 0.0, 0.0, Spread(4.0, 0.1, 3)),
        Candidate("dfa", "fc1-10", 32, 1e-1, 0.0, 0.0, None),
        Candidate("fa", "fc1-10", 32, 1e-3, 0.0, 0.0, Spread(1.0, 0.1, 3)),
        Candidate("usf", "fc1-10", 32, 1e-3, 0.0, 0.0, None),
    ]
    search = GridSearch([], Grid([]), {}, PERCENT_WRONG, candidates=candidates)
    assert search.best("dfa") == candidates[1]
    assert search.best("usf") is None


def test_command_goes_over_networks_batch_sizes_and_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--networks", "fc1-8, fc2-4", "--batch-sizes", "32", "64", "--seed", "5"]
    assert main([*RUN, *grid, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "tuning.json").read_text())
    tried = [(c["rule"], c["network"], c["batch_size"], c["learning_rate"]) for c in results["candidates"]]
    assert len(tried) == len(set(tried)) == 16
    assert {network for _, network, _, _ in tried} == {"fc1-8", "fc2-4"}
    assert results["status"] == "finished"
    assert results["config"]["batch_sizes"] == [32, 64]
    lowest = min(c["score"]["mean"] for c in results["candidates"] if c["rule"] == "dfa")
    assert results["best"]["dfa"]["score"]["mean"] == lowest
    out, err = capsys.readouterr()
    assert f"wrote {tmp_path / 'tuning.json'}" in out
    best = results["best"]["fa"]
    sentence = f"best for fa: {best['network']}, batch size {best['batch_size']}, rate {best['learning_rate']:g}"
    assert sentence in " ".join(out.split())
    assert err == ""


def test_json_alone_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--networks", "fc1-8", "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "tuning.json").read_text())


def test_defaults_are_those_of_compare() -> None:
    from feedalign_lab.options import TuneOptions

    (plan,) = plans_of_grid(TuneOptions(data="libras", networks="gru-50", rules="dfa"))
    assert (plan.schedule.batch_size, plan.clip, plan.inputs) == (10, 2.0, "own")
    (unclipped,) = plans_of_grid(TuneOptions(data="libras", networks="gru-50", rules="dfa", clip=float("inf")))
    assert unclipped.clip is None


def test_interrupt_keeps_what_was_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = tuning.try_candidate, []

    def interrupt_in_the_third(*arguments) -> Spread | None:
        calls.append(arguments)
        if len(calls) == 3:
            assert len(json.loads((tmp_path / "tuning.json").read_text())["candidates"]) == 2
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(tuning, "try_candidate", interrupt_in_the_third)
    assert main([*RUN, "--networks", "fc1-8", "--out", str(tmp_path)]) == 130
    results = json.loads((tmp_path / "tuning.json").read_text())
    assert (results["status"], len(results["candidates"])) == ("interrupted", 2)
    out, err = capsys.readouterr()
    assert "interrupted: figures so far" in " ".join(out.split())
    assert "interrupted" in one_line(err)


def test_epochs_are_counted_for_the_progress() -> None:
    plans = [Plan("digits", "fc1-8", ("fa", "dfa"), 3, Schedule(7, batch)) for batch in (32, 64)]
    search = tuning.start_search(plans, Grid((1e-3, 1e-2)), torch.device("cpu"))
    assert search.num_epochs() == 2 * 2 * 2 * 3 * 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "fc1-8", "--rates", "0"], "learning rate must be above 0"),
        (["--networks", ","], "nothing to try"),
        (["--networks", "fc1-8,gru-8"], "reads series step by step"),
        (["--networks", "fc1-8", "--batch-sizes", "0"], "batch size must be at least 1"),
        (["--networks", "fc1_8"], "no network called 'fc1_8'"),
        (["--networks", "fc1-8", "--clip", "-1"], "norm to clip at must be above 0"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(tuning, "run_trial", lambda *_: pytest.fail("trained"))
    assert main(["tune", "--rules", "dfa", "--epochs", "1", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in one_line(capsys.readouterr().err)
