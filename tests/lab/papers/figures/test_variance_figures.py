"""The variance figures against the closed formulas of Bacho & Chu 2024, with the slips of its Proposition 2 mended."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.rules import Rule
from feedalign_lab.papers.figures import Drawing, Panel, Series
from feedalign_lab.papers.figures import variance_laws as laws
from feedalign_lab.papers.figures.figure import Run, Size
from feedalign_lab.papers.store import TrialStore


def example(number: int, num_inputs: int = 12) -> laws.Example:
    draws = torch.Generator().manual_seed(number)
    return laws.Example(torch.rand(1, num_inputs, generator=draws), torch.tensor([number % 10]), number)


def by_hand(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Backprop's signal at the hidden units, the slope of each, and the inputs."""
    weight = model.get_submodule("output").get_parameter("weight").detach()
    with torch.no_grad():
        hidden = F.relu(model.get_submodule("hidden")(x))
        error = model.get_submodule("output")(hidden).softmax(1) - F.one_hot(y, 10)
    return (error @ weight)[0], (hidden[0] > 0).float(), x[0]


def expected(rule: str, model: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """Variance of an entry, averaged over the hidden weight."""
    signal, slope, inputs = by_hand(model, x, y)
    gradient = torch.outer(signal * slope, inputs)
    if rule == "fg-w":
        return float(gradient.square().mean() + gradient.square().sum())
    of_units = (signal.square() + signal.square().sum()) * slope
    return float(torch.outer(of_units, inputs.square()).mean())


@pytest.mark.parametrize(("rule", "name"), [(fa.WeightPerturbed(), "fg-w"), (fa.ActivityPerturbed(), "fg-a")])
def test_forward_gradients_have_the_variance_of_the_formulas(rule: Rule, name: str) -> None:
    one = example(1)
    model = laws.two_layers(one, 20)
    formula = expected(name, model, one.x, one.y)
    laws.only_hidden_weight_learns(model)
    laws.attached(model, rule, one)
    found = laws.variance_of_draws(model, one, 2000)
    # sqrt(2 / 2000) is one standard error of the variance of a normal factor.
    assert found == pytest.approx(formula, rel=0.12)


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_one_step_of_fdfa_has_the_square_of_the_rate(rate: float) -> None:
    one = example(2)
    formula = expected("fg-a", laws.two_layers(one, 20), one.x, one.y)
    found = laws.RateLaw(width=20, num_draws=4000)._one_step(one, rate)
    assert found == pytest.approx(rate**2 * formula, rel=0.1)


def test_a_running_average_is_linear_in_the_rate() -> None:
    one, rate = example(3), 0.1
    formula = expected("fg-a", laws.two_layers(one, 20), one.x, one.y)
    found = laws.RateLaw(width=20, num_draws=800)._running(one, rate)
    assert found == pytest.approx(rate / (2 - rate) * formula, rel=0.3)


def test_every_width_has_output_weights_of_one_size() -> None:
    sizes = []
    for width in (20, 2000):
        model = laws.two_layers(example(0), width, largest_width=2000)
        sizes.append(float(model.get_submodule("output").get_parameter("weight").detach().abs().max()))
    assert sizes == pytest.approx([2000**-0.5] * 2, rel=0.05)


def run_of(folder: Path, trials: int) -> Run:
    return Run("fdfa", "fig5", TrialStore(folder), Size(0, trials), Size(0, 10))


def drawn(panels: tuple[Panel, ...]) -> Drawing:
    return Drawing("fdfa", "fig5", "", "", "", panels)


def test_the_laws_of_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "examples_of", lambda number: [example(i) for i in range(number)])
    state = torch.get_rng_state()
    of_rate = laws.RateLaw(rates=(0.01, 1.0), width=15, num_draws=40, runs_on_from=0.1)
    rates = drawn(of_rate.make(run_of(tmp_path, 3)).panels)
    assert laws.has_slope("", laws.RATES, laws.ONE_STEP, 2.0)(rates).holds
    assert not laws.has_slope("", laws.RATES, laws.ONE_STEP, 1.0)(rates).holds
    assert laws.runs_on_linearly("", 0.5)(rates).holds
    sizes = drawn(laws.SizeLaw((1, 8), (16, 128), 60).make(run_of(tmp_path, 12)).panels)
    for panel, name, slope in (
        (laws.INPUTS, "fg-w", 1.0),
        (laws.INPUTS, "fg-a", 0.0),
        (laws.UNITS, "fg-w", 1.0),
        (laws.UNITS, "fg-a", 1.0),
    ):
        found = laws.has_slope("", panel, name, slope)(sizes)
        assert abs(found.value - slope) < 0.25, (panel, found.measured)
    assert torch.equal(torch.get_rng_state(), state)
    again = drawn(of_rate.make(run_of(tmp_path, 3)).panels)
    assert repr(again) == repr(rates)


@pytest.mark.parametrize(("factor", "holds"), [(1.0, True), (1.3, False), (0.75, False)])
def test_a_running_average_that_is_off_is_told(factor: float, holds: bool) -> None:
    def series(name: str, *y: float) -> Series:
        return Series(name, (0.1, 1.0), y, style="points")

    panel = Panel(laws.RATES, "", "", (series(laws.RUNNING, 2.0 * factor, 20.0), series(laws.EXPECTED, 2.0, 20.0)))
    assert laws.runs_on_linearly("", 0.2)(drawn((panel,))).holds is holds


def test_nothing_measured_tells_nothing() -> None:
    empty: dict[str, Any] = {"x": (), "mean": ()}
    panel = Panel(laws.RATES, "", "", (Series(laws.ONE_STEP, **empty),))
    assert laws.has_slope("", laws.RATES, laws.ONE_STEP, 2.0)(drawn((panel,))).holds is None
    assert laws.runs_on_linearly("", 0.2)(drawn((panel,))).holds is None


def test_points_have_their_spread() -> None:
    points = laws.points_of("a", [1, 2], [[1.0, 3.0], [2.0, 2.0]])
    assert points.mean == (2.0, 2.0)
    assert points.std == pytest.approx((math.sqrt(2), 0.0))
    assert points.n == 2
