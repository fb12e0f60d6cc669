"""The images: what is drawn where."""

import math
from typing import Any

import pytest
from matplotlib.figure import Figure

from feedalign.measure import LayerAlignment
from feedalign_lab import plots
from feedalign_lab.records import EpochRecord, TrialResult
from feedalign_lab.tensors import PERCENT_WRONG


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they are when they are saved."""
    drawn: list[Figure] = []
    save = plots.as_png

    def keep(figure: Figure) -> bytes:
        drawn.append(figure)
        return save(figure)

    monkeypatch.setattr(plots, "as_png", keep)
    return drawn


def trial(rule: str, number: int, errors: list[float], angle: float = 40.0) -> TrialResult:
    layers = (LayerAlignment("fc1", "tanh1", 1, angle, 1), LayerAlignment("fc2", "tanh2", 1, 20, 1))
    output = LayerAlignment("fc3", None, 0, 0, 0)
    epochs = tuple(EpochRecord(e, 0.1, error, 1.0, (*layers, output)) for e, error in enumerate(errors, start=1))
    return TrialResult(rule, number, 1e-3, "finished", "", epochs)


def lines(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_curve_is_the_mean_and_the_band_one_standard_deviation(figures: list[Figure]) -> None:
    trials = [trial("dfa", 0, [8.0, 4.0]), trial("fa", 0, [5.0, 5.0]), trial("dfa", 1, [6.0, 2.0])]
    image = plots.draw_learning_curves(["dfa", "fa"], trials, "title", PERCENT_WRONG)
    assert image.startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    assert lines(axes) == {"dfa": [7.0, 3.0], "fa": [5.0, 5.0]}
    assert list(axes.get_lines()[0].get_xdata()) == [1, 2]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(3 - math.sqrt(2))
    assert band.max() == pytest.approx(7 + math.sqrt(2))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dfa", "fa"]


def test_trials_that_ended_early_count_as_far_as_they_went(figures: list[Figure]) -> None:
    plots.draw_learning_curves(["dfa"], [trial("dfa", 0, [8.0, 4.0]), trial("dfa", 1, [6.0])], "title", PERCENT_WRONG)
    assert lines(figures[0].axes[0]) == {"dfa": [7.0, 4.0]}


@pytest.mark.parametrize("num_epochs", [1, 2, 3])
def test_epochs_are_whole_numbers(figures: list[Figure], num_epochs: int) -> None:
    trials = [trial("dfa", 0, [8.0] * num_epochs)]
    plots.draw_learning_curves(["dfa"], trials, "title", PERCENT_WRONG)
    plots.draw_angles(["dfa"], trials, "title")
    for axes in (axes for figure in figures for axes in figure.axes):
        shown = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert shown == list(range(1, num_epochs + 1))


def test_panel_for_each_hidden_layer(figures: list[Figure]) -> None:
    plots.draw_angles(["dfa"], [trial("dfa", 0, [8.0, 4.0], angle=44.0)], "title")
    assert [axes.get_title() for axes in figures[0].axes] == ["fc1", "fc2"]
    assert lines(figures[0].axes[0])["dfa"] == [44.0, 44.0]


def test_rule_without_angles_is_left_out(figures: list[Figure]) -> None:
    trials = [trial("shallow", 0, [8.0], angle=math.nan), trial("dfa", 0, [8.0])]
    plots.draw_angles(["shallow", "dfa"], trials, "title")
    assert "shallow" not in lines(figures[0].axes[0])


def test_error_of_zero_can_be_drawn(figures: list[Figure]) -> None:
    plots.draw_learning_curves(["dfa"], [trial("dfa", 0, [8.0, 0.0])], "title", PERCENT_WRONG)
    assert figures[0].axes[0].get_yscale() == "linear"


def test_rule_looks_the_same_whatever_it_is_compared_with(figures: list[Figure]) -> None:
    trials = [trial("dfa", 0, [8.0, 4.0]), trial("fa", 0, [8.0, 4.0])]
    for rules in (["dfa"], ["fa", "dfa"]):
        plots.draw_learning_curves(rules, trials, "title", PERCENT_WRONG)
    colors = [{line.get_label(): line.get_color() for line in figure.axes[0].get_lines()} for figure in figures]
    assert colors[0]["dfa"] == colors[1]["dfa"] != colors[1]["fa"]
