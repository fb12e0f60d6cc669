"""What a Monitor writes: a line of JSON for each record, read back; cut lines, resumed runs, TensorBoard."""

import contextlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from attach.models import Perceptron, batch
from feedalign.errors import MonitorError
from feedalign.measure import Monitor, MonitorFeedback, MonitorLayer, MonitorRecord, read_records
from feedalign.measure.monitor_records import append, as_line

x, y = batch(8)


def training(
    folder: Path | None, num_steps: int, *, start: int = 0, model: nn.Module | None = None, **options: Any
) -> tuple[nn.Module, list[MonitorRecord]]:
    """Train some steps; a model given is trained on."""
    if model is None:
        model = Perceptron()
        fa.attach(model, fa.DFA(), example_inputs=x)
    monitor, records = Monitor(model, every=2, folder=folder, start=start, **options), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(num_steps):
        optimizer.zero_grad()
        with monitor.step():
            F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if monitor.last is not None and monitor.last.step == monitor.steps:
            records.append(monitor.last)
    monitor.close()
    return model, records


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    _, records = training(tmp_path / "runs" / "1", 5)
    assert [record.step for record in records] == [1, 3, 5]
    assert read_records(tmp_path / "runs" / "1") == records
    assert read_records(tmp_path / "runs" / "1" / "monitor.jsonl") == records
    assert records[0]["fc2"].point == "act2"
    lines = (tmp_path / "runs" / "1" / "monitor.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 3, 5]


numbers = st.none() | st.floats()
texts = st.text(max_size=5)
layers = st.builds(
    MonitorLayer,
    texts,
    st.none() | texts,
    *[numbers] * 11,
    *[st.none() | st.integers(0, 2**70)] * 2,
)
records = st.builds(
    MonitorRecord,
    st.integers(1, 2**70),
    st.none() | texts,
    st.floats(),
    numbers,
    st.lists(layers, max_size=2).map(tuple),
    st.none() | st.builds(MonitorFeedback, texts, texts, *[numbers] * 3),
)


def refuse_constant(found: str) -> None:
    raise AssertionError(f"{found} is no JSON")


@given(records)
def test_every_record_is_one_line_of_valid_json(
    tmp_path_factory: pytest.TempPathFactory, record: MonitorRecord
) -> None:
    line = as_line(record)
    assert "\n" not in line
    json.loads(line, parse_constant=refuse_constant)
    path = tmp_path_factory.mktemp("records") / "monitor.jsonl"
    append(path, record)
    # nan is not equal to itself.
    assert repr(read_records(path)) == repr([record])


def test_what_json_has_no_number_for_is_a_string(tmp_path: Path) -> None:
    layer = MonitorLayer("fc1", angle=math.nan, norm=math.inf, ratio=-math.inf, signal_norm=None)
    line = json.loads(as_line(MonitorRecord(1, None, 0.0, None, (layer,))))
    row = line["layers"][0]
    assert (row["angle"], row["norm"], row["ratio"], row["signal_norm"]) == ("nan", "inf", "-inf", None)


@pytest.mark.parametrize("cut", [1, 40, -2, -1])
def test_a_cut_last_line_is_passed_over_and_harms_no_record_behind_it(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "monitor.jsonl"
    model, records = training(tmp_path, 3)
    start = path.read_bytes().index(b"\n") + 1
    last = path.read_bytes()[start:]
    path.write_bytes(path.read_bytes()[: start + len(last[:cut])])
    whole = records if cut == -1 else records[:1]
    assert read_records(tmp_path) == whole
    _, more = training(tmp_path, 3, start=3, model=model)
    assert [record.step for record in more] == [5]
    assert read_records(tmp_path) == [*whole, *more]


def test_a_resumed_run_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    """Killed after step 7, its checkpoint is of step 4: what comes again is written again, and counts."""
    _, expected = training(tmp_path / "whole", 9)
    model, _ = training(None, 4)
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    training(tmp_path / "killed", 7)
    resumed = Perceptron(seed=1)
    fa.attach(resumed, fa.DFA(), example_inputs=x)
    resumed.load_state_dict(saved)
    _, more = training(tmp_path / "killed", 5, start=4, model=resumed)
    assert [record.step for record in more] == [5, 7, 9]
    assert read_records(tmp_path / "killed") == expected
    assert len((tmp_path / "killed" / "monitor.jsonl").read_text().splitlines()) == 4 + 3, "nothing was taken away"


def test_a_run_started_again_in_the_same_folder_is_the_one_that_is_read(tmp_path: Path) -> None:
    training(tmp_path, 7)
    _, again = training(tmp_path, 3)
    assert read_records(tmp_path) == again


def test_of_two_monitors_of_one_file_the_later_one_writes(tmp_path: Path) -> None:
    model, _ = training(None, 1)
    first, second = (Monitor(model, every=1, folder=tmp_path) for _ in range(2))
    with second.step():
        F.cross_entropy(model(x), y).backward()
    with pytest.raises(MonitorError, match="Another Monitor"), first.step():
        F.cross_entropy(model(x), y).backward()
    assert read_records(tmp_path) == [second.last]


def test_other_processes_than_the_first_measure_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All run the second forward and backward, which may wait for one another, as synchronized batch statistics do."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    model, _ = training(None, 1)
    monitor = Monitor(model, every=1, folder=tmp_path / "run", tensorboard=True)
    with monitor.step():
        F.cross_entropy(model(x), y).backward()
    assert monitor.last is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "There is no"),
        ("not a record\n", "Not a line"),
        ("[1, 2]\n", "Line 1 of .* is no record"),
        ('{"step": 1}\n', "is no record"),
        ('{"step": 1, "layers": []}\n', "missing"),
        ('{"step": "a", "rule": null, "error_norm": 0, "replay_error": 0, "layers": []}\n', "step is 'a', not int"),
        ('{"step": 1, "rule": 3, "error_norm": 0, "replay_error": 0, "layers": []}\n', "rule is 3"),
        ('{"step": 1, "rule": null, "error_norm": 0, "replay_error": 0, "layers": [7]}\n', "int in the place"),
        ('{"step": 1, "rule": null, "error_norm": 0, "replay_error": 0, "layers": [{}]}\n', "missing.*'layer'"),
        ('{"step": true, "rule": null, "error_norm": 0, "replay_error": 0, "layers": []}\n', "step is True"),
    ],
)
def test_a_file_that_is_none_of_a_monitors_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "monitor.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MonitorError, match=words):
        read_records(path)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, junk: bytes, place: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "monitor.jsonl"
    append(path, MonitorRecord(1, "rule", 1.0, 0.0, (MonitorLayer("fc1", angle=3.0),)))
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + junk + whole[place:])
    with contextlib.suppress(MonitorError):
        read_records(path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(MonitorError):
        read_records(path)


class Writer:
    def __init__(self, *args: Any, **options: Any) -> None:
        self.made, self.scalars, self.is_closed = (args, options), [], False

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


def test_a_writer_of_the_users_gets_every_number_and_stays_open() -> None:
    writer = Writer()
    _, records = training(None, 3, tensorboard=writer)
    assert not writer.is_closed
    found = {(tag, step): value for tag, value, step in writer.scalars}
    for record in records:
        assert found["angle/fc1", record.step] == record["fc1"].angle
        assert found["dead/fc1", record.step] == record["fc1"].dead
        assert found["error_norm", record.step] == record.error_norm
    assert "signal_norm/head" not in {tag for tag, _ in found}, "the output layer has no feedback point"
    assert "feedback_relative/act2" in {tag for tag, _ in found}


def test_tensorboard_writes_to_the_folder_and_a_resumed_run_cuts_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("torch.utils.tensorboard")
    made: list[Writer] = []
    module.SummaryWriter = lambda *args, **options: made.append(Writer(*args, **options)) or made[-1]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    training(tmp_path, 3, tensorboard=True)
    training(tmp_path, 3, tensorboard=True, start=3)
    assert [writer.made for writer in made] == [
        ((str(tmp_path),), {"purge_step": None}),
        ((str(tmp_path),), {"purge_step": 4}),
    ]
    assert all(writer.is_closed and writer.scalars for writer in made)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MonitorError, match="pip install tensorboard"):
        training(tmp_path, 1, tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_the_real_tensorboard_shows_the_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, records = training(tmp_path, 3, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("angle/fc1")]
    assert shown == [(record.step, pytest.approx(record["fc1"].angle)) for record in records]


def a_step(model: nn.Module, monitor: Monitor) -> None:
    model.zero_grad()
    with monitor.step():
        F.cross_entropy(model(x), y).backward()


def test_of_two_processes_that_write_one_file_the_one_that_finds_it_changed_raises(tmp_path: Path) -> None:
    """The other process is a new set of lines in the file, which is all that this one sees of it."""
    model, _ = training(None, 1)
    path, other = tmp_path / "here" / "monitor.jsonl", tmp_path / "other"
    _, theirs = training(other, 3)
    monitor = Monitor(model, every=1, folder=path.parent)
    a_step(model, monitor)
    path.write_bytes(path.read_bytes() + (other / "monitor.jsonl").read_bytes())
    with pytest.raises(MonitorError, match=r"another process wrote there since; give each a folder of its own"):
        a_step(model, monitor)
    assert model.get_parameter("fc1.weight").grad is not None
    assert read_records(path) == theirs
    # Made anew in its place, of the very same size.
    monitor = Monitor(model, every=1, folder=path.parent)
    (tmp_path / "new").write_bytes(path.read_bytes())
    (tmp_path / "new").replace(path)
    with pytest.raises(MonitorError, match="another process"):
        a_step(model, monitor)


def test_another_process_may_have_begun_the_file_that_was_not_there(tmp_path: Path) -> None:
    model, _ = training(None, 1)
    monitor = Monitor(model, every=1, folder=tmp_path)
    append(tmp_path / "monitor.jsonl", MonitorRecord(1, "theirs", 0.0, None, ()))
    with pytest.raises(MonitorError, match="another process"):
        a_step(model, monitor)
    assert [record.rule for record in read_records(tmp_path)] == ["theirs"]


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    model, _ = training(None, 1)
    monitor = Monitor(model, every=1, folder=tmp_path)
    a_step(model, monitor)
    (tmp_path / "monitor.jsonl").unlink()
    a_step(model, monitor)
    assert [record.step for record in read_records(tmp_path)] == [2]


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = training(None, 1)
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "monitor.jsonl").mkdir(parents=True)
    cases: list[tuple[Any, str]] = [
        (3, "folder= is int; give a path"),
        (tmp_path / "file", "cannot be made .*give a folder="),
        (tmp_path / "file" / "in", "cannot be made"),
        (tmp_path / "taken", "no file of yours; give another folder="),
    ]
    for folder, words in cases:
        with pytest.raises(MonitorError, match=words):
            Monitor(model, every=1, folder=folder)
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(MonitorError, match="change its permissions"):
        Monitor(model, every=1, folder=tmp_path)


def test_a_disk_that_fills_up_ends_the_records_and_not_the_training(tmp_path: Path) -> None:
    model, _ = training(None, 1)
    monitor = Monitor(model, every=1, folder=tmp_path / "run")
    a_step(model, monitor)
    (tmp_path / "run").rename(tmp_path / "away")
    with pytest.warns(UserWarning, match=r"could not write the record of step 2 .* Monitor with start=2"):
        a_step(model, monitor)
    assert monitor.last is not None
    assert monitor.last.step == 2
    assert model.get_parameter("fc1.weight").grad is not None
    a_step(model, monitor)  # without a second warning, which would be an error
    assert monitor.last.step == 3
    assert [record.step for record in read_records(tmp_path / "away")] == [1]
