"""Trials in lock-step have the results that they have one after the other."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from stacked_cases import assert_same, in_double, one_by_one, small, specs_of

import feedalign as fa
from feedalign_lab.data.dataset import Part
from feedalign_lab.errors import SettingError
from feedalign_lab.lockstep import lack_of_lockstep, run_lockstep
from feedalign_lab.records import EpochRecord
from feedalign_lab.task import Task
from feedalign_lab.tensors import TensorTask
from feedalign_lab.training import Schedule
from lab.made_data import made

RULES = [rule.name for rule in fa.ALL_RULES]
SCHEDULE = Schedule(epochs=3, batch_size=32, lr_decay=0.9, angles_every=2)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_the_numbers_that_it_has_one_by_one(rule: str) -> None:
    task = TensorTask(in_double(small()), "fc2-20", SCHEDULE)
    specs = specs_of(rule)
    found = run_lockstep(task, specs, SCHEDULE)
    assert_same(found, one_by_one(task, specs, SCHEDULE), 1e-9)
    assert [len(epoch.alignment) > 0 for epoch in found[0].epochs] == [False, True, True]
    losses = [result.epochs[-1].train_loss for result in found]
    assert len(set(losses)) == 3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rule", ["backprop", "shallow", "dfa", "fdfa", "fg-a"])
def test_rectifiers_decay_clipping_and_zero_starts(rule: str) -> None:
    task = TensorTask(in_double(small()), "mlp2-20", SCHEDULE)
    specs = specs_of(rule, "mlp2-20", weight_decay=0.1, clip=0.05)
    specs[2] = dataclasses.replace(specs[2], seed=7)
    assert_same(run_lockstep(task, specs, SCHEDULE), one_by_one(task, specs, SCHEDULE), 1e-9)


@pytest.mark.parametrize("rule", ["backprop", "dfa", "drtp", "fdfa"])
def test_single_precision_gives_the_same_test_errors(rule: str) -> None:
    # Wide enough for products of their own, in all three passes.
    schedule = Schedule(epochs=3, batch_size=60)
    task = TensorTask(small(300), "fc2-300", schedule)
    specs = specs_of(rule, "fc2-300")
    assert_same(run_lockstep(task, specs, schedule), one_by_one(task, specs, schedule), 1e-4)


@pytest.mark.parametrize("rule", ["backprop", "dfa"])
def test_values_are_learned_as_well_as_classes(rule: str) -> None:
    schedule = Schedule(epochs=2, batch_size=50)
    task = TensorTask(made("synthetic-regression", 120), "fc2-30", schedule)
    specs = specs_of(rule, "fc2-30", weight_init="zero" if rule == "dfa" else "default")
    assert_same(run_lockstep(task, specs, schedule), one_by_one(task, specs, schedule), 1e-5)


def test_images_are_mirrored_by_each_trials_own_draws() -> None:
    schedule = Schedule(epochs=2, batch_size=32, flip=True)
    task = TensorTask(made("mnist", 100), "fc1-20", schedule)
    specs = specs_of("dfa", "fc1-20")
    found = run_lockstep(task, specs, schedule)
    assert_same(found, one_by_one(task, specs, schedule), 1e-5)
    plain = dataclasses.replace(schedule, flip=False)
    assert run_lockstep(TensorTask(made("mnist", 100), "fc1-20", plain), specs, plain)[0].epochs != found[0].epochs


@pytest.mark.parametrize("held_out", ["redrawn", "tuning"])
def test_trials_may_have_splits_of_their_own(held_out: str) -> None:
    dataset = small()
    if held_out == "redrawn":
        pool = Part(dataset.x_train, dataset.y_train)
        dataset = dataclasses.replace(dataset, pool=pool).of_trial(0, 0)
    else:
        dataset = dataclasses.replace(dataset, validation=None)
    task: Task = TensorTask(dataset, "fc1-20", SCHEDULE)
    if held_out == "tuning":
        task = task.for_tuning()
    specs = specs_of("dfa", "fc1-20")
    assert_same(run_lockstep(task, specs, SCHEDULE), one_by_one(task, specs, SCHEDULE), 1e-5)


def test_same_seeds_same_numbers_whatever_else_is_drawn() -> None:
    task = TensorTask(small(), "fc1-20", SCHEDULE)
    specs = specs_of("fdfa", "fc1-20")
    state = torch.random.get_rng_state()
    first = run_lockstep(task, specs, SCHEDULE)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = run_lockstep(task, specs, SCHEDULE)
    torch.random.set_rng_state(state)
    assert_same(again, first, 0.0)


def test_every_record_is_told_and_seconds_are_shares() -> None:
    told: list[EpochRecord] = []
    found = run_lockstep(TensorTask(small(), "fc1-20", SCHEDULE), specs_of("dfa", "fc1-20"), SCHEDULE, told.append)
    assert told == [result.epochs[place] for place in range(3) for result in found]
    for place in range(3):
        shares = {result.epochs[place].seconds for result in found}
        assert len(shares) == 1
        assert shares.pop() > 0


def test_one_trial_or_none() -> None:
    task = TensorTask(small(), "fc1-20", SCHEDULE)
    specs = specs_of("dfa", "fc1-20", num=1)
    assert_same(run_lockstep(task, specs, SCHEDULE), one_by_one(task, specs, SCHEDULE), 1e-5)
    assert run_lockstep(task, [], SCHEDULE) == ()


@pytest.mark.parametrize(
    ("network", "dataset", "part"),
    [
        ("mlp1-20-bn", "mnist", "normalizes over batches"),
        ("cnn", "mnist", "no faster"),
    ],
)
def test_what_is_not_stacked_is_told_and_refused(network: str, dataset: str, part: str) -> None:
    task = TensorTask(made(dataset), network, Schedule(1, 8))
    specs = specs_of("dfa", network)
    lack = lack_of_lockstep(task, specs[0])
    assert lack is not None
    assert part in lack
    with pytest.raises(SettingError, match="one by one"):
        run_lockstep(task, specs, Schedule(1, 8))


def test_other_domains_are_not_stacked() -> None:
    task = TensorTask(small(), "fc1-20", SCHEDULE)
    assert lack_of_lockstep(task, specs_of("dfa")[0]) is None
    assert lack_of_lockstep(object(), specs_of("dfa")[0]) is not None  # type: ignore[arg-type]


def test_trials_that_differ_in_more_than_seeds_are_refused() -> None:
    task = TensorTask(small(), "fc1-20", SCHEDULE)
    specs = specs_of("dfa", "fc1-20")
    specs[1] = dataclasses.replace(specs[1], learning_rate=1e-4)
    with pytest.raises(SettingError, match="differ in their seeds alone"):
        run_lockstep(task, specs, SCHEDULE)
