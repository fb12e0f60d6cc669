"""Verdicts: by hand-made records whose mean and spread are known."""

import math
from dataclasses import replace

import pytest
from made_papers import cell, reading, record

from feedalign_lab.papers.cells import Published
from feedalign_lab.papers.store import Curve
from feedalign_lab.papers.verdict import judge, value_of

LONG = tuple(float(value) for value in range(30, 0, -1))


def of_value(value: float, trial: int, **changes: object) -> object:
    return record(cell(), trial, test=(50.0, 40.0, value), **changes)


def test_without_records_there_is_no_verdict() -> None:
    assert judge(cell(), []).word == "not run"


@pytest.mark.parametrize(
    ("ours", "word"), [((10.4, 10.4), "reproduced"), ((10.6, 10.6), "worse"), ((9.4, 9.4), "better")]
)
def test_the_slack_is_the_tolerance_where_trials_agree(ours: tuple[float, float], word: str) -> None:
    found = judge(cell(), [of_value(value, trial) for trial, value in enumerate(ours)])
    assert found.word == word
    assert found.slack == 0.5
    assert found.gap == pytest.approx(ours[0] - 10)
    assert (found.num_trials, found.epochs, found.label) == (2, 3, "")


def test_of_an_accuracy_more_is_better() -> None:
    of_accuracy = cell(metric="accuracy", published=Published(90.0))
    records = [record(of_accuracy, trial, test=(50.0, 40.0, 8.0)) for trial in range(2)]
    found = judge(of_accuracy, records)
    assert found.mean == pytest.approx(92.0)
    assert found.word == "better"


def test_the_slack_is_two_standard_errors_of_both_where_trials_differ() -> None:
    printed = cell(published=Published(10.0, 3.0, 9))
    found = judge(printed, [of_value(10.0, 0), of_value(14.0, 1)])
    # Of ours sqrt(8 / 2), of theirs 3 / 3.
    assert found.std == pytest.approx(math.sqrt(8))
    assert found.slack == pytest.approx(2 * math.sqrt(4 + 1))
    assert found.word == "reproduced"


def test_fewer_trials_are_incomplete_and_labelled() -> None:
    found = judge(cell(), [of_value(10.0, 0)])
    assert (found.word, found.label) == ("incomplete", "1 of 2 trials")
    assert found.is_within


def test_fewer_epochs_are_incomplete_and_labelled_with_both() -> None:
    found = judge(cell(), [record(cell(), test=(20.0, 10.0))])
    assert (found.word, found.label, found.epochs) == ("incomplete", "2 of 3 epochs, 1 of 2 trials", 2)


def test_the_most_epochs_count_alone() -> None:
    short = [record(cell(), trial, test=(10.0, 10.0)) for trial in range(2)]
    found = judge(cell(), [*short, of_value(30.0, 0)])
    assert (found.mean, found.epochs, found.num_trials) == (30.0, 3, 1)


def test_more_trials_than_the_protocol_do_not_count() -> None:
    found = judge(cell(), [of_value(10.0, 0), of_value(10.0, 1), of_value(99.0, 2)])
    assert (found.mean, found.num_trials) == (10.0, 2)


def test_a_trial_beyond_the_protocol_does_not_stand_in_for_one_of_it() -> None:
    found = judge(cell(), [of_value(10.0, 0), of_value(10.0, 2)])
    assert (found.word, found.num_trials, found.label) == ("incomplete", 1, "1 of 2 trials")


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.5}, {"epochs": 4}, {"batch_size": 7}, {"data": "mnist"}, {"unknown": 1}]
)
def test_another_configuration_is_left_out_and_counted(change: dict[str, object]) -> None:
    foreign = record(cell(), configuration={**cell().configuration(), **change})
    found = judge(cell(), [foreign])
    assert (found.word, found.num_foreign) == ("not run", 1)
    both = judge(cell(), [foreign, of_value(10.0, 0), of_value(10.0, 1)])
    assert (both.word, both.num_foreign) == ("reproduced", 1)


def test_records_of_other_cells_are_none_of_this_ones() -> None:
    found = judge(cell(), [record(cell("fc1-8/fa", rule="fa"))])
    assert (found.word, found.num_foreign) == ("not run", 0)


def test_trials_of_the_same_configuration_count_whatever_cell_they_were_trained_for() -> None:
    found = judge(cell(), [replace(record(cell(), trial), cell="another") for trial in range(2)])
    assert found.word == "reproduced"


def test_a_diverged_trial_is_never_a_reproduction() -> None:
    gone = record(cell(), 1, status="diverged", curve=Curve((), (), ()))
    found = judge(cell(), [of_value(10.0, 0), gone])
    assert (found.word, found.mean, found.num_trials, found.num_diverged) == ("worse", 10.0, 1, 1)
    alone = judge(cell(), [gone, replace(gone, trial=0)])
    assert alone.word == "worse"
    assert math.isnan(alone.mean)


def test_a_trial_that_blows_up_after_the_epoch_that_counts_still_counts() -> None:
    curve = Curve((1.0,) * 3, (5.0, 10.0, 90.0), (1.0,) * 3, validation=(9.0, 5.0, 90.0))
    chosen = cell(protocol=reading("chosen"))
    records = [record(chosen, trial, status="diverged", curve=curve) for trial in range(2)]
    found = judge(chosen, records)
    assert (found.word, found.mean, found.num_trials, found.num_diverged) == ("reproduced", 10.0, 2, 0)
    assert judge(cell(), [record(cell(), 0, status="diverged", curve=curve), record(cell(), 1)]).num_diverged == 1


def test_what_is_trained_elsewhere_has_no_verdict() -> None:
    assert judge(cell(elsewhere="another command trains it"), [record(cell())]).word == "not run"


@pytest.mark.parametrize(("how", "value"), [("last", 1.0), ("last ten", 5.5), ("best", 1.0)])
def test_what_is_read_off(how: str, value: float) -> None:
    read = cell(protocol=replace(reading(how), epochs=30))  # type: ignore[arg-type]
    assert value_of(read, record(read, test=LONG).curve, "error") == value


def test_the_chosen_epoch_is_the_first_best_on_validation() -> None:
    curve = Curve((1.0,) * 4, (4.0, 3.0, 2.0, 1.0), (1.0,) * 4, validation=(9.0, 5.0, 5.0, 7.0))
    assert value_of(cell(protocol=reading("chosen")), curve, "error") == 3.0
    # Of an accuracy the highest: the first epoch.
    assert value_of(cell(metric="accuracy", protocol=reading("chosen")), curve, "accuracy") == 4.0
    # An error that is printed as an accuracy is still an error on validation.
    assert value_of(cell(metric="accuracy", protocol=reading("chosen")), curve, "error") == 97.0


def test_the_best_of_an_accuracy_is_the_highest() -> None:
    curve = Curve((1.0,) * 3, (1.0, 3.0, 2.0), (1.0,) * 3)
    assert value_of(cell(metric="accuracy", protocol=reading("best")), curve, "accuracy") == 3.0
    assert value_of(cell(metric="accuracy", protocol=reading("best")), curve, "error") == 99.0


def test_another_metric_of_the_same_trial() -> None:
    curve = Curve((1.0,) * 2, (0.8, 0.9), (1.0,) * 2, others={"AP": (0.6, 0.7)})
    assert value_of(cell(metric="AP", measured="AP"), curve, "AUC") == 0.7
    assert math.isnan(value_of(cell(metric="log loss", measured="log loss"), curve, "AUC"))


def test_no_number_is_worse() -> None:
    nowhere = cell(metric="AP", measured="AP")
    assert judge(nowhere, [record(nowhere, trial) for trial in range(2)]).word == "worse"
    found = judge(cell(), [record(cell(), 0, test=(50.0, 40.0, math.nan)), record(cell(), 1)])
    assert (found.word, found.num_trials, found.num_diverged, found.mean) == ("worse", 1, 1, 10.0)
