"""Rows of a table: by records whose mean and spread are known."""

from dataclasses import replace

import pytest
from made_papers import cell, paper, record

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.cells import Cell, Published, Table
from feedalign_lab.papers.rows import TableRows, joined, read_rows, rows_of
from feedalign_lab.papers.store import Shelf, TrialRecord, TrialStore


def of_value(of: Cell, value: float, trial: int, **changes: object) -> TrialRecord:
    return record(of, trial, test=(50.0, 40.0, value), **changes)


def shown(cells: tuple[Cell, ...], *records: TrialRecord, problems: tuple[str, ...] = ()) -> TableRows:
    made = paper(*cells)
    return rows_of(made, made.tables[0], Shelf(records, problems))


def test_a_row_has_both_numbers_with_their_spread() -> None:
    one = cell(published=Published(1.5, 0.25, 10))
    (row,) = shown((one,), of_value(one, 1.0, 0), of_value(one, 2.0, 1)).rows
    assert row.published == "1.50 ± 0.25"
    assert row.ours == "1.50 ± 0.71"
    assert (row.num_trials, row.gap, row.slack) == ("2", "+0.00", "1.01")
    assert row.verdict.word == "reproduced"
    assert row.remarks == ()


def test_what_is_not_known_is_a_dash() -> None:
    (row,) = shown((cell(),)).rows
    assert (row.published, row.ours, row.num_trials, row.gap, row.slack) == ("10.0", "–", "–", "–", "–")
    assert row.verdict.word == "not run"
    assert row.trials == ()


def test_numbers_have_the_places_of_the_paper_by_metric() -> None:
    cells = (
        cell("a", published=Published(1.5)),
        cell("b", published=Published(2.25, 0.125)),
        cell("c", metric="AUC", published=Published(0.5)),
        cell("d", published=Published(3.0)),
    )
    assert [row.digits for row in shown(cells).rows] == [3, 3, 1, 3]


def test_a_tiny_or_huge_number_has_its_places() -> None:
    assert shown((cell(published=Published(1e-05)),)).rows[0].published == "0.00001"
    assert shown((cell(published=Published(1e22)),)).rows[0].digits == 1


def test_a_row_holds_the_trials_that_count() -> None:
    one = cell()
    short = [record(one, trial, test=(9.0, 8.0)) for trial in range(2)]
    whole = [of_value(one, 10.0, trial) for trial in (2, 0, 1)]
    foreign = replace(whole[0], configuration={**whole[0].configuration, "batch_size": 1}, trial=7)
    (row,) = shown((one,), *short, *whole, foreign).rows
    assert row.trials == (whole[1], whole[2])
    assert row.remarks == ("1 record was made under another configuration and left out",)


def test_trials_of_a_reduced_protocol_are_those_with_the_most_epochs() -> None:
    one = cell()
    records = [record(one, 0, test=(9.0,)), record(one, 0, test=(9.0, 8.0))]
    (row,) = shown((one,), *records).rows
    assert row.trials == (records[1],)
    assert row.verdict.word == "incomplete"
    assert row.remarks == ("2 of 3 epochs, 1 of 2 trials",)


def test_what_diverged_is_said() -> None:
    one = cell()
    lost = of_value(one, 10.0, 1, status="diverged", message="boom")
    (row,) = shown((one,), of_value(one, 10.0, 0), lost).rows
    assert row.verdict.word == "worse"
    assert row.remarks == ("1 of 2 trials diverged",)
    assert row.num_trials == "1"


def test_a_trial_without_a_number_is_said() -> None:
    one = cell()
    (row,) = shown((one,), of_value(one, 10.0, 0), of_value(one, float("nan"), 1)).rows
    assert row.verdict.word == "worse"
    assert row.remarks == ("1 of 2 trials gave no number",)


def test_what_cannot_be_run_says_why() -> None:
    rows = shown((cell("a", needs="the files of PubMed"), cell("b", elsewhere="feedalign language compare"))).rows
    assert [row.remarks for row in rows] == [("needs the files of PubMed",), ("feedalign language compare",)]


def test_records_of_no_cell_are_named_and_left_out() -> None:
    one = cell()
    strays = [of_value(cell(f"gone{place}", network=f"fc1-{place + 10}"), 10.0, 0) for place in range(7)]
    elsewhere = of_value(one, 10.0, 0, table="table2")
    found = shown((one,), *strays, elsewhere, problems=("line 3: damaged",))
    assert found.rows[0].verdict.word == "not run"
    assert found.problems[0] == "line 3: damaged"
    assert "8 records are of no cell of made table1" in found.problems[1]
    assert "made table1 gone0" in found.problems[1]
    assert "and 3 more" in found.problems[1]


def test_cells_of_one_configuration_are_numbers_of_the_same_trials() -> None:
    error, accuracy = cell("error"), cell("accuracy", metric="accuracy", published=Published(90.0))
    found = shown((error, accuracy), *(of_value(error, 10.0, trial) for trial in range(2)))
    assert [row.ours for row in found.rows] == ["10.0 ± 0.0", "90.0 ± 0.0"]
    assert found.problems == ()


def test_totals_count_every_cell_once() -> None:
    names = ("good", "better", "worse", "short", "none")
    cells = tuple(cell(name, network=f"fc1-{place + 10}") for place, name in enumerate(names))
    values = {"good": 10.0, "better": 1.0, "worse": 20.0}
    whole = [of_value(one, values[one.name], trial) for one in cells[:3] for trial in range(2)]
    totals = shown(cells, *whole, of_value(cells[3], 10.0, 0)).totals
    assert dict(totals.counts) == {"reproduced": 1, "better": 1, "worse": 1, "incomplete": 1, "not run": 1}
    assert (totals.num_cells, totals.num_recorded, totals.num_whole, totals.num_good) == (5, 4, 3, 2)
    assert totals.sentence == "5 cells: 1 reproduced, 1 better, 1 worse, 1 incomplete, 1 not run."
    assert joined([totals, totals]).num_cells == 10
    assert joined([]).num_cells == 0


def test_rows_can_be_chosen_by_patterns() -> None:
    found = shown((cell("fc1/dfa"), cell("fc1/bp"), cell("fc2/dfa")))
    assert [row.cell.name for row in found.choose(["fc1/*"]).rows] == ["fc1/dfa", "fc1/bp"]
    assert found.choose([]).rows == found.rows
    with pytest.raises(UnknownNameError, match="fc1/dfa"):
        found.choose(["fc3/*"])


def test_rows_of_a_table_without_cells() -> None:
    made = paper()
    found = rows_of(made, Table("table1", "Nothing", "", ()), Shelf())
    assert found.rows == ()
    assert found.heading == "Nothing"
    assert found.totals.num_cells == 0


def test_rows_are_read_from_the_store(tmp_path: object) -> None:
    store = TrialStore(tmp_path)  # type: ignore[arg-type]
    one, made = cell(), paper(cell())
    store.append(of_value(one, 10.0, 0))
    with store.path("made", "table1").open("a") as file:
        file.write('{"format": 1, "cell"\n')
    found = read_rows(made, made.tables[0], store)
    assert found.rows[0].ours == "10.0"
    assert "line 2" in found.problems[0]
