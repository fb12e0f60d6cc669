import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from cut_runs import Cut

from feedalign.measure import LayerAlignment
from feedalign_lab.checkpoints.keeper import ENDING
from feedalign_lab.errors import SettingError
from feedalign_lab.papers.figures import Figure, Size, read_drawing
from feedalign_lab.papers.figures.curves import CurvePanel, Curves, Line, curve_cell
from feedalign_lab.papers.figures.figure import unwatched
from feedalign_lab.papers.figures.layers import angle_panels, falls_short_by, has_smallest_angle_in_last, weight_angles
from feedalign_lab.papers.figures.probing import Probe
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.records import EpochRecord, OnEpoch
from feedalign_lab.task import Trial

WHOLE = Size(epochs=4, trials=3)
CELLS = tuple(curve_cell(rule, "digits", "fc1-20", rule, WHOLE, "made up") for rule in ("backprop", "dfa"))
PANELS = (
    CurvePanel("loss", "loss", tuple(Line(cell.name, cell.name, "train loss") for cell in CELLS)),
    CurvePanel("accuracy", "%", tuple(Line(cell.name, cell.name, "accuracy") for cell in CELLS), x="seconds"),
    CurvePanel("angle", "degrees", (Line("dfa", "dfa", "angle", "fc1"),), guide=90.0),
)
FIGURE = Figure("drtp", "made", "Made", "A caption.", Curves(CELLS, PANELS, angles_every=1), WHOLE, Size(2, 2))


class Watched:
    """Counts the trials that are trained."""

    def __init__(self) -> None:
        self.trials: list[str] = []

    def __call__(self, what: str, trial: int, epochs: int) -> OnEpoch:
        self.trials.append(what)
        return unwatched(what, trial, epochs)


def test_curves_are_means_over_the_trials_on_file(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "records")
    picture, data = FIGURE.run(store, tmp_path / "out")
    assert (picture.name, data.name) == ("made.png", "made.json")
    drawing = read_drawing(data)
    records = store.read("drtp", "made").records
    dfa = [record for record in records if record.configuration["rule"] == "dfa"]
    assert len(dfa) == 2
    loss = drawing.panel("loss").find("dfa")
    assert loss is not None
    assert loss.x == (1.0, 2.0)
    assert loss.n == 2
    for epoch in range(2):
        values = [record.curve.train_loss[epoch] for record in dfa]
        assert loss.mean[epoch] == pytest.approx(statistics.fmean(values))
        assert loss.std[epoch] == pytest.approx(statistics.stdev(values))
    accuracy = drawing.panel("accuracy").find("dfa")
    assert accuracy is not None
    assert accuracy.mean[1] == pytest.approx(100 - statistics.fmean(record.curve.test[1] for record in dfa))
    assert accuracy.x[1] == pytest.approx(statistics.fmean(sum(record.curve.seconds) for record in dfa))
    angle = drawing.panel("angle").find("dfa")
    assert angle is not None
    assert angle.mean[0] == pytest.approx(statistics.fmean(record.curve.angles["1"]["fc1"] for record in dfa))
    assert drawing.label == "2 of 4 epochs, 2 of 3 trials"
    assert json.loads(data.read_text())["environment"]["torch"]


def test_a_figure_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store, watched = TrialStore(tmp_path), Watched()
    FIGURE.run(store, tmp_path, trials=1, watch=watched)
    assert watched.trials == ["backprop", "dfa"]
    watched.trials.clear()
    FIGURE.run(store, tmp_path, trials=2, watch=watched)
    assert watched.trials == ["backprop", "dfa"]
    watched.trials.clear()
    drawing = FIGURE.draw(store, trials=2, watch=watched)
    assert not watched.trials
    assert drawing.label == "2 of 4 epochs, 2 of 3 trials"


@pytest.mark.parametrize("probe", [None, weight_angles])
def test_ctrl_c_ends_a_figure_and_leaves_what_is_done_on_file(tmp_path: Path, probe: Probe | None) -> None:
    def watch(what: str, trial: int, epochs: int) -> OnEpoch:
        if what == "dfa":
            raise KeyboardInterrupt
        return unwatched(what, trial, epochs)

    store = TrialStore(tmp_path)
    figure = replace(FIGURE, recipe=Curves(CELLS, PANELS, probe=probe))
    with pytest.raises(KeyboardInterrupt):
        figure.run(store, tmp_path, trials=1, epochs=1, watch=watch)
    assert [record.cell for record in store.read("drtp", "made").records] == ["backprop"]
    assert not (tmp_path / "made.png").exists()


@pytest.mark.usefixtures("always_saving")
@pytest.mark.parametrize("probe", [None, weight_angles])
def test_a_trial_of_a_figure_goes_on_in_its_epoch(tmp_path: Path, probe: Probe | None) -> None:
    """With all that was measured before it was cut, in the third of four epochs."""
    panel = CurvePanel("loss", "loss", (Line("dfa", "dfa", "train loss"),))
    figure = replace(FIGURE, recipe=Curves(CELLS[1:], (panel,), probe=probe))
    drawings, measured = [], []

    def dies(what: str, trial: int, epochs: int) -> OnEpoch:
        def on_epoch(record: EpochRecord) -> None:
            measured.append(record.epoch)
            if record.epoch == 3:
                raise Cut

        return on_epoch

    for folder in ("whole", "twice"):
        store = TrialStore(tmp_path / folder)
        if folder == "twice":
            with pytest.raises(Cut):
                figure.draw(store, epochs=4, trials=1, watch=dies)
        drawings.append(figure.draw(store, epochs=4, trials=1).panels)
    assert measured == [1, 2, 3]
    assert drawings[0] == drawings[1]
    whole, twice = (TrialStore(tmp_path / folder).read("drtp", "made").records[0] for folder in ("whole", "twice"))
    assert replace(whole.curve, seconds=()) == replace(twice.curve, seconds=())
    assert twice.environment["resumed"] == "in epoch 3 of 4"
    assert not [path for path in (tmp_path / "twice").rglob("*") if ENDING in path.name]


def test_a_whole_protocol_has_no_label(tmp_path: Path) -> None:
    cells = (curve_cell("dfa", "digits", "fc1-20", "dfa", Size(1, 1), "made up"),)
    panels = (CurvePanel("loss", "loss", (Line("dfa", "dfa", "test"),)),)
    figure = Figure("drtp", "whole", "Whole", "", Curves(cells, panels), Size(1, 1))
    assert not figure.draw(TrialStore(tmp_path)).label


def test_data_that_are_not_at_hand_are_told_and_the_rest_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path / "nothing"))
    # Its publisher gives no checksum, so it is not fetched.
    missing = replace(CELLS[0], data="libras", network="rnn-50")
    drawing = replace(FIGURE, recipe=Curves((missing, CELLS[1]), PANELS[:1])).draw(
        TrialStore(tmp_path), epochs=1, trials=1
    )
    assert "backprop is missing: No " in drawing.caption
    assert drawing.panels[0].find("backprop") is None
    assert drawing.panels[0].find("dfa") is not None
    assert drawing.label == "1 of 4 epochs, 1 of 3 trials"


@pytest.mark.parametrize(("asked", "words"), [({"epochs": 5}, "no more"), ({"trials": 0}, "at least 1")])
def test_sizes_out_of_range_are_refused(tmp_path: Path, asked: dict[str, int], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        FIGURE.draw(TrialStore(tmp_path), **asked)  # type: ignore[arg-type]


def test_epochs_of_what_is_not_trained_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="leave --epochs out"):
        replace(FIGURE, whole=Size(0, 1)).draw(TrialStore(tmp_path), epochs=1)


def test_angles_are_those_of_weight_gradients() -> None:
    class Measured:
        def alignment(self) -> tuple[LayerAlignment, ...]:
            return (LayerAlignment("fc1", "relu1", signal=1.0, delta=2.0, weight=3.0),)

    assert weight_angles(cast("Trial", Measured())) == {"angle of fc1": 3.0}


def test_layers_are_measured_by_a_probe(tmp_path: Path) -> None:
    rules = ("dfa", "fdfa")
    cells = tuple(curve_cell(rule, "digits", "mlp2-20", rule, Size(2, 1), "made up") for rule in rules)
    recipe = Curves(cells, angle_panels(rules, 2), probe=weight_angles)
    figure = Figure("fdfa", "angles", "", "", recipe, Size(2, 1), None, ())
    store = TrialStore(tmp_path)
    drawing = figure.draw(store)
    # FDFA's feedback starts at zero and has no angle before it moves; DFA's has one at once.
    found = drawing.panel("dfa").find("layer 1")
    assert found is not None
    assert all(0 < angle < 180 for angle in found.mean)
    watched = Watched()
    assert repr(figure.draw(store, watch=watched).panels) == repr(drawing.panels)
    assert not watched.trials
    check = falls_short_by("", "fdfa", "dfa", 2, 30.0)(drawing)
    first, second = ([drawing.panel(rule).series[i].last[0] for i in range(2)] for rule in rules)
    assert check.value == pytest.approx(statistics.fmean(first) - statistics.fmean(second))
    last = has_smallest_angle_in_last("", "dfa", 2)(drawing)
    assert last.holds is (first[1] < first[0])
