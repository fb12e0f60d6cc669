"""Trials of papers that were cut go on by themselves, and what they were saved to is gone once they are on file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cut_runs import Cut
from made_papers import cell, protocol

from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.runner import Request, run_cells
from feedalign_lab.papers.store import TrialRecord, TrialStore
from feedalign_lab.papers.under_way import _named, _numbers
from feedalign_lab.records import EpochRecord, OnEpoch

pytestmark = pytest.mark.usefixtures("always_saving")

LONG = cell(protocol=protocol(epochs=4, trials=3, batch_size=700))


class Dies:
    """Watches, until the process dies after so many epochs."""

    def __init__(self, after: int | None = None) -> None:
        self.num_epochs, self.after = 0, after

    def __call__(self, rule: str, trial: int, epochs: int) -> OnEpoch:
        def on_epoch(record: EpochRecord) -> None:
            self.num_epochs += 1
            if self.num_epochs == self.after:
                raise Cut

        return on_epoch


def train(request: Request, after: int | None = None) -> list[str]:
    """Train; returns what was said."""
    said: list[str] = []
    if after is None:
        run_cells(request, Dies(), say=said.append)
    else:
        with pytest.raises(Cut):
            run_cells(request, Dies(after), say=said.append)
    return said


def records(request: Request) -> dict[int, TrialRecord]:
    return {found.trial: found for found in request.store.read("made", "table1").records}


def facts(record: TrialRecord) -> str:
    """All of a record that is the same in every run."""
    curve = replace(record.curve, seconds=())
    return repr((record.key, record.trial, record.status, record.message, curve, record.stacked))


def under_way(request: Request) -> list[str]:
    return sorted(path.name for path in request.folder.glob("made/.checkpoints/*/*"))


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., Request]:
    def make(folder: str = "records", *cells: Cell, **changes: object) -> Request:
        made = Request("made", "table1", cells or (LONG,), tmp_path / folder, stacked=1)
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(("stacked", "after", "name"), [(1, 7, "1"), (3, 8, "0-2")])
def test_what_was_cut_goes_on(stacked: int, after: int, name: str, request_of: Callable[..., Request]) -> None:
    """One by one: cut in the second trial. In lock-step: in the third epoch of all."""
    request, undisturbed = request_of(stacked=stacked), request_of("undisturbed", stacked=stacked)
    assert train(request, after) == []
    assert under_way(request)[0] == f"{name}.feedalign-checkpoint"
    said = train(request)
    assert len(said) == 1
    assert "going on from" in said[0]
    train(undisturbed)
    assert list(map(facts, records(request).values())) == list(map(facts, records(undisturbed).values()))
    assert "epoch" in records(request)[1].environment["resumed"]
    assert all("resumed" not in record.environment for record in records(undisturbed).values())
    assert under_way(request) == under_way(undisturbed) == []
    assert not any(request.folder.glob("made/.checkpoints/*"))


def test_a_stack_that_was_put_on_file_in_part_comes_out_the_same(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, undisturbed = request_of(stacked=3), request_of("undisturbed", stacked=3)
    append = TrialStore.append

    def die(store: TrialStore, record: TrialRecord) -> None:
        if record.trial == 1:
            raise Cut
        append(store, record)

    with monkeypatch.context() as patch:
        patch.setattr(TrialStore, "append", die)
        with pytest.raises(Cut):
            run_cells(request, Dies())
    assert (list(records(request)), under_way(request)) == (
        [0],
        ["0-2.feedalign-checkpoint", "0-2.feedalign-checkpoint.before"],
    )
    train(request)
    train(undisturbed)
    assert list(map(facts, records(request).values())) == list(map(facts, records(undisturbed).values()))
    assert under_way(request) == []


def test_another_cell_and_another_table_have_their_own(request_of: Callable[..., Request]) -> None:
    request = request_of()
    train(request, 3)
    for other in (
        request_of("records", replace(LONG, rule="fa")),
        replace(request, table="table2"),
        request_of(epochs=3),
    ):
        assert train(replace(other, trials=1)) == []
    assert "going on" in train(request)[0]


def test_the_checkpoint_of_another_trial_is_not_believed(request_of: Callable[..., Request]) -> None:
    request = request_of()
    train(request, 2)
    of_first = next(request.folder.glob("made/.checkpoints/*/0.feedalign-checkpoint"))
    of_first.with_name("1.feedalign-checkpoint").write_bytes(of_first.read_bytes())
    said = train(request)
    assert "going on from" in said[0]
    assert "trials: [0] there, [1] here" in said[1]


def test_angles_at_other_epochs_are_another_training(request_of: Callable[..., Request]) -> None:
    train(request_of(), 3)
    said = train(request_of(angles_every=1))
    assert "angles_every: 4 there, 1 here" in said[0]
    assert "begins anew" in said[-1]


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_gone_on_from(request_of: Callable[..., Request]) -> None:
    request, undisturbed = request_of(trials=1), request_of("undisturbed", trials=1)
    train(request, 4)
    newest = next(request.folder.glob("made/.checkpoints/*/0.feedalign-checkpoint"))
    newest.write_bytes(newest.read_bytes()[:-3])
    said = train(request)
    assert "is damaged" in said[0]
    assert "0.feedalign-checkpoint.before" in said[1]
    train(undisturbed)
    assert facts(records(request)[0]) == facts(records(undisturbed)[0])


def test_ctrl_c_keeps_what_can_be_gone_on_from(request_of: Callable[..., Request]) -> None:
    class Interrupts(Dies):
        def __call__(self, rule: str, trial: int, epochs: int) -> OnEpoch:
            def on_epoch(record: EpochRecord) -> None:
                if record.epoch == 3:
                    raise KeyboardInterrupt

            return on_epoch

    request = request_of(trials=1)
    assert run_cells(request, Interrupts()).status == "interrupted"
    assert "saved" in train(request)[0]
    assert list(records(request)) == [0]


def test_what_is_left_of_other_stacks_goes_when_all_is_on_file(request_of: Callable[..., Request]) -> None:
    train(request_of(stacked=3), 8)
    request = request_of()
    train(request)
    assert under_way(request) == []


@pytest.mark.parametrize(
    ("trials", "name"), [((3,), "3"), ((0, 1, 2), "0-2"), ((0, 1, 5, 7, 8), "0-1,5,7-8"), ((10, 2), "2,10")]
)
def test_names_of_stacks(trials: tuple[int, ...], name: str) -> None:
    assert _named(trials) == name
    assert _numbers(name) == tuple(sorted(trials))


@pytest.mark.parametrize("name", ["", "convolutions-3", "1-", "a", "1,,2", "1-2-3", "9999999999"])
def test_other_names_are_no_stack(name: str) -> None:
    assert _numbers(name) == ()
