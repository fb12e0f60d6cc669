"""The runner: what is missing is trained, what is on file stays, and what cannot be trained is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_papers import cell, reading, record

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.papers import runner
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.runner import Request, run_cells
from feedalign_lab.papers.store import TrialRecord, TrialStore, configuration_hash
from feedalign_lab.plan import Plan
from feedalign_lab.records import EpochRecord, OnEpoch, Status, TrialResult
from feedalign_lab.task import silent
from feedalign_lab.training import run_trial


class Watcher:
    """Notes what is trained; raises Ctrl-C in an epoch if told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.started: list[tuple[str, int]] = []
        self.num_epochs = 0
        self._stop_after = stop_after

    def __call__(self, rule: str, trial: int, epochs: int) -> OnEpoch:
        self.started.append((rule, trial))

        def on_epoch(record: EpochRecord) -> None:
            self.num_epochs += 1
            if self.num_epochs == self._stop_after:
                raise KeyboardInterrupt

        return on_epoch


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., Request]:
    def make(*cells: Cell, **changes: object) -> Request:
        made = Request("made", "table1", cells or (cell(),), tmp_path / "records", stacked=1)
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


def on_file(request: Request) -> list[tuple[str, int]]:
    return sorted((found.cell, found.trial) for found in request.store.read("made", "table1").records)


def facts(record: TrialRecord) -> tuple[object, ...]:
    """All of a record that is the same in every run."""
    curve = record.curve
    return record.cell, record.key, record.trial, record.status, curve.train_loss, curve.test, str(curve.angles)


def test_the_trials_of_the_protocol_are_trained_and_put_on_file(request_of: Callable[..., Request]) -> None:
    request = request_of()
    told: list[TrialRecord] = []
    outcome = run_cells(request, Watcher(), on_record=told.append)
    assert (outcome.status, outcome.num_done, outcome.num_on_file, outcome.lacking) == ("finished", 2, 0, {})
    assert on_file(request) == [("fc1-8/dfa", 0), ("fc1-8/dfa", 1)]
    assert [record.trial for record in told] == [0, 1]
    (record, _) = request.store.read("made", "table1").records
    assert (record.metric, record.status, len(record.curve.test)) == ("error", "finished", 3)
    assert record.configuration == cell().configuration()
    assert record.environment["torch"]
    assert record.ended.endswith("+00:00")
    # Angles of the hidden layer, at the end.
    assert list(record.curve.angles) == ["3"]


def test_the_numbers_are_those_of_the_one_training_loop(request_of: Callable[..., Request]) -> None:
    request = request_of()
    run_cells(request, Watcher())
    plan = cell().plan()
    spec = plan.spec("dfa", 1)
    task = runner.domain_of("digits").load(plan, runner.torch.device("cpu"), silent)
    alone = run_trial(task.trial(spec), spec, plan.schedule)
    record = request.store.read("made", "table1").records[1]
    assert record.curve.test == pytest.approx([epoch.test_score for epoch in alone.epochs], rel=1e-6)
    assert record.curve.train_loss == pytest.approx([epoch.train_loss for epoch in alone.epochs], rel=1e-6)


def test_what_is_on_file_is_not_trained_again(request_of: Callable[..., Request]) -> None:
    run_cells(request_of(trials=1), Watcher())
    watcher = Watcher()
    outcome = run_cells(request_of(), watcher)
    assert watcher.started == [("fc1-8/dfa", 1)]
    assert (outcome.num_done, outcome.num_on_file) == (1, 1)
    again = run_cells(request_of(), Watcher())
    assert (again.num_done, again.num_on_file) == (0, 2)


def test_fewer_epochs_are_another_configuration(request_of: Callable[..., Request]) -> None:
    run_cells(request_of(epochs=1, trials=1), Watcher())
    outcome = run_cells(request_of(trials=1), Watcher())
    assert outcome.num_done == 1
    keys = {record.key for record in request_of().store.read("made", "table1").records}
    assert keys == {configuration_hash(cell().configuration(epochs)) for epochs in (1, 3)}


def test_what_another_process_has_begun_is_passed_over(request_of: Callable[..., Request]) -> None:
    request = request_of()
    key = configuration_hash(cell().configuration())
    with TrialStore(request.folder).claim("made", "table1", key, [0]):
        outcome = run_cells(request, Watcher())
    assert (outcome.num_done, outcome.num_elsewhere) == (1, 1)
    assert on_file(request) == [("fc1-8/dfa", 1)]


def test_what_another_process_finishes_meanwhile_is_not_told_as_under_way(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = configuration_hash(cell().configuration())
    request = request_of(cell(), cell("fc1-8/fa", rule="fa"), trials=1)

    class Finisher(Watcher):
        def __call__(self, rule: str, trial: int, epochs: int) -> OnEpoch:
            # While this process trains the second cell, the other one ends with the first.
            TrialStore(request.folder).append(record(cell()))
            return super().__call__(rule, trial, epochs)

    with TrialStore(request.folder).claim("made", "table1", key, [0]):
        outcome = run_cells(request, Finisher())
    assert (outcome.num_done, outcome.num_elsewhere) == (1, 0)


def test_what_another_process_has_just_finished_is_not_trained_again(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(trials=1)
    claim = TrialStore.claim
    calls = 0

    def claim_late(store: TrialStore, *arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            # Between this process's look at the file and its claim, another one does all the work.
            run_cells(request_of(trials=1), Watcher())
        return claim(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TrialStore, "claim", claim_late)
    watcher = Watcher()
    run_cells(request, watcher)
    assert watcher.started == []
    assert on_file(request) == [("fc1-8/dfa", 0)]


def test_ctrl_c_keeps_what_is_done_and_the_same_request_goes_on(request_of: Callable[..., Request]) -> None:
    request = request_of(cell(), cell("fc1-8/fa", rule="fa"))
    outcome = run_cells(request, Watcher(stop_after=5))
    assert outcome.status == "interrupted"
    assert on_file(request) == [("fc1-8/dfa", 0)]
    assert run_cells(request, Watcher()).num_done == 3
    undisturbed = request_of(cell(), cell("fc1-8/fa", rule="fa"), folder=request.folder.parent / "other")
    run_cells(undisturbed, Watcher())
    assert list(map(facts, request.store.read("made", "table1").records)) == list(
        map(facts, undisturbed.store.read("made", "table1").records)
    )


def test_a_cell_without_data_is_told_and_the_others_go_on(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    missing = cell("deepfm/dfa", data="criteo:{data}/criteo/train.txt", network="deepfm")
    outcome = run_cells(request_of(missing, cell(), trials=1), Watcher())
    assert list(outcome.lacking) == ["deepfm/dfa"]
    assert "train.txt" in outcome.lacking["deepfm/dfa"]
    assert outcome.num_done == 1


def test_what_is_trained_elsewhere_is_passed_over(request_of: Callable[..., Request]) -> None:
    request = request_of(cell("a/dfa", elsewhere="`feedalign language` trains it"), cell(), trials=1)
    assert request.num_epochs() == 3
    outcome = run_cells(request, Watcher())
    assert (outcome.num_done, outcome.lacking) == (1, {})


def test_a_trial_that_diverges_is_on_file_as_such(request_of: Callable[..., Request]) -> None:
    wild = cell(protocol=replace(cell().protocol, learning_rate=1e30))
    request = request_of(wild, trials=1)
    assert run_cells(request, Watcher()).num_done == 1
    (record,) = request.store.read("made", "table1").records
    assert record.status == "diverged"
    assert record.message


def test_records_that_cannot_be_written_end_the_run(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: TrialStore, record: TrialRecord) -> None:
        raise OutputFolderError("no room")

    monkeypatch.setattr(TrialStore, "append", full)
    with pytest.raises(OutputFolderError, match="no room"):
        run_cells(request_of(), Watcher())


def test_data_are_loaded_once_for_cells_that_share_them(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Plan] = []
    domain = runner.domain_of("digits")
    load = type(domain).load

    def count(self: object, plan: Plan, *arguments: object) -> object:
        loads.append(plan)
        return load(self, plan, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(domain), "load", count)
    cells = (cell(), cell("fc1-8/fa", rule="fa"), cell("fc1-9/fa", rule="fa", network="fc1-9"))
    run_cells(request_of(*cells, trials=1, epochs=1), Watcher())
    assert [plan.network for plan in loads] == ["fc1-8", "fc1-9"]


def test_cells_that_read_other_numbers_off_the_same_trials_share_them(request_of: Callable[..., Request]) -> None:
    watcher = Watcher()
    outcome = run_cells(request_of(cell(), cell("fc1-8/dfa/best", protocol=reading("best"))), watcher)
    assert watcher.started == [("fc1-8/dfa", 0), ("fc1-8/dfa", 1)]
    assert (outcome.num_done, outcome.num_on_file) == (2, 2)


def test_of_trials_in_lockstep_those_that_ended_before_ctrl_c_are_on_file(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(task: object, specs: list[LearnerSpec], *_: object) -> tuple[TrialResult, ...]:
        ends: tuple[Status, ...] = ("interrupted", "diverged")
        return tuple(TrialResult("dfa", spec.trial, 0.1, end, "", ()) for spec, end in zip(specs, ends, strict=True))

    monkeypatch.setattr(runner, "run_lockstep", cut_short)
    request = request_of(stacked=2)
    outcome = run_cells(request, Watcher())
    assert (outcome.status, outcome.num_done) == ("interrupted", 1)
    (record,) = request.store.read("made", "table1").records
    assert (record.trial, record.status, record.stacked) == (1, "diverged", 2)


def test_trials_in_lockstep_are_those_of_one_after_the_other(request_of: Callable[..., Request]) -> None:
    together, alone = request_of(stacked=2), request_of(folder=request_of().folder / "alone")
    watcher = Watcher()
    run_cells(together, watcher)
    run_cells(alone, Watcher())
    assert (len(watcher.started), watcher.num_epochs) == (1, 6)
    for one, other in zip(
        together.store.read("made", "table1").records, alone.store.read("made", "table1").records, strict=True
    ):
        assert (one.trial, one.key, one.stacked, other.stacked) == (other.trial, other.key, 2, 1)
        assert one.curve.train_loss == pytest.approx(other.curve.train_loss, rel=1e-4)
        assert one.curve.angles["3"] == pytest.approx(other.curve.angles["3"], rel=1e-3)
