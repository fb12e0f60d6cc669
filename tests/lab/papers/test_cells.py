"""Cells: from a protocol to a plan, and to what decides a trial."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_papers import cell, paper, protocol

from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.papers.cells import FOLDER, Table, better_of
from feedalign_lab.settings import rule_setting, run_setting


def test_a_plan_has_the_protocols_numbers_and_the_labs_settings_for_the_rest() -> None:
    plan = cell(protocol=protocol(dropout=0.25, lr_decay=0.5)).plan()
    assert (plan.rules, plan.trials, plan.schedule.epochs) == (("dfa",), 2, 3)
    assert plan.schedule.batch_size == run_setting("digits", "fc1-8").batch_size
    assert plan.schedule.lr_decay == 0.5
    spec = plan.spec("dfa", 1)
    assert (spec.dropout, spec.trial) == (0.25, 1)
    assert spec.learning_rate == rule_setting("digits", "fc1-8", "dfa").learning_rate


def test_a_reduced_plan() -> None:
    plan = cell().plan(epochs=1, trials=1, angles_every=1)
    assert (plan.trials, plan.schedule.epochs, plan.schedule.angles_every) == (1, 1, 1)


def test_angles_are_measured_at_the_end_alone_unless_asked_for() -> None:
    assert cell().plan().schedule.angles_every == 3


@pytest.mark.parametrize("number", [0, -1])
def test_no_epochs_and_no_trials_are_refused(number: int) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        cell().plan(epochs=number)
    with pytest.raises(SettingError, match="at least 1"):
        cell().plan(trials=number)


def test_what_is_trained_elsewhere_has_no_plan() -> None:
    with pytest.raises(SettingError, match="feedalign language"):
        cell(elsewhere="`feedalign language` does").plan()


def test_a_path_is_in_the_folder_of_the_data_and_the_configuration_is_the_same_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    clicks = cell(data=f"criteo:{FOLDER}/criteo/train.txt", network="deepfm")
    assert clicks.located_data() == f"criteo:{tmp_path}/criteo/train.txt"
    assert clicks.plan().data == clicks.located_data()
    assert clicks.configuration()["data"] == "criteo:{data}/criteo/train.txt"


def test_the_configuration_tells_apart_what_trains_apart() -> None:
    base = cell().configuration()
    others = [
        cell(rule="fa").configuration(),
        cell(network="fc1-9").configuration(),
        cell(protocol=protocol(dropout=0.1)).configuration(),
        cell(protocol=protocol(learning_rate=0.1)).configuration(),
        cell(protocol=protocol(batch_size=5)).configuration(),
        cell(protocol=protocol(lr_decay=0.9)).configuration(),
        cell(protocol=protocol(weight_decay=0.1)).configuration(),
        cell().configuration(epochs=2),
    ]
    assert all(other != base for other in others)
    assert {"weight_init", "clip", "gamma", "inputs", "flip", "feedback_decay", "transfer_epochs"} <= set(base)


def test_the_configuration_is_the_same_whatever_is_printed_and_however_many_trials() -> None:
    changed = cell(mean=3.0, tolerance=9.0, protocol=protocol(trials=7, reading="best", source="another"))
    assert changed.configuration() == cell().configuration()


def test_a_metric_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="AUC"):
        cell(metric="auc")


def test_which_way_is_up() -> None:
    assert [better_of(metric) for metric in ("error", "accuracy", "log loss", "AUC", "perplexity", "PSNR")] == [
        "lower", "higher", "lower", "higher", "lower", "higher",
    ]  # fmt: skip


def test_cells_are_chosen_by_patterns_in_the_order_of_the_table() -> None:
    (table,) = paper(cell("a/fa"), cell("b/dfa"), cell("a/dfa")).tables
    assert [one.name for one in table.choose(["a/*"])] == ["a/fa", "a/dfa"]
    assert [one.name for one in table.choose(["*/dfa", "a/*"])] == ["a/fa", "b/dfa", "a/dfa"]
    assert len(table.choose([])) == 3


def test_a_pattern_that_fits_nothing_lists_near_names() -> None:
    (table,) = paper(cell("fc1-500/dfa"), cell("fc1-500/fa")).tables
    with pytest.raises(UnknownNameError, match=r"Did you mean fc1-500/dfa"):
        table.choose(["fc1-500/dfaa"])
    with pytest.raises(UnknownNameError, match="cell of table1"):
        table.choose(["fc1-500/*", "fc2-*"])


def test_tables_are_found_by_name_and_near_names_are_told() -> None:
    made = paper(cell())
    assert made.table("table1") is made.tables[0]
    with pytest.raises(UnknownNameError, match="Did you mean table1"):
        made.table("tabel1")


def test_two_cells_of_one_name_are_refused() -> None:
    with pytest.raises(SettingError, match="a/dfa"):
        Table("t", "t", "%", (cell("a/dfa"), replace(cell("a/dfa"), rule="fa")))
