"""The theorem, maps of nodes, and loss against variance."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from feedalign_lab.papers.figures import Drawing, Figure, Panel, Series, Size, figure_named
from feedalign_lab.papers.figures import scatters as maps
from feedalign_lab.papers.figures import variance_and_loss as kind
from feedalign_lab.papers.figures.parallel import Parallel, is_not_parallel, is_parallel, is_zero_before
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.papers.theorem import CASES


def test_the_theorem_holds_and_its_controls_break_it(tmp_path: Path) -> None:
    drawing = figure_named("drtp", "theorem").draw(TrialStore(tmp_path))
    assert [check.holds for check in drawing.checks] == [True] * 5
    assert [check.source for check in drawing.checks] == ["paper", *["ours"] * 4]
    turned = (is_parallel("", CASES[1]), is_zero_before("", CASES[1]), is_not_parallel("", CASES[0]))
    assert [check(drawing).holds for check in turned] == [False] * 3
    assert isinstance(figure_named("drtp", "theorem").recipe, Parallel)


def test_the_theorems_controls_say_what_they_show_of_the_papers_words(tmp_path: Path) -> None:
    """With tanh layers signals stay within 90 degrees; from a random start they do not, at first."""
    *_, random, tanh = figure_named("drtp", "theorem").draw(TrialStore(tmp_path)).checks
    assert "not exactly parallel" in random.claim
    assert "from update 4 on is 73.6 degrees; above 1 counts" in random.measured
    assert "from update 1 on, 98.9 at update 1, is beyond the 90 degrees of the paper's" in random.measured
    assert "from update 4 on is 20 degrees; above 1 counts" in tanh.measured
    assert "from update 1 on, 20 at update 10, is not beyond the 90 degrees of the paper's" in tanh.measured


def scatter(*clouds: tuple[float, float], spread: float = 0.1) -> Panel:
    draws = np.random.default_rng(0)
    series = []
    for label, center in enumerate(clouds):
        x, y = (np.array(center)[:, None] + spread * draws.normal(size=(2, 30))).tolist()
        series.append(Series(f"{label}", tuple(x), tuple(y), style="dots"))
    return Panel("dfa", "", "", tuple(series), is_map=True)


def drawn(*panels: Panel) -> Drawing:
    return Drawing("dfa-scales", "a2", "", "", "", panels)


def test_clusters_are_told_from_none() -> None:
    clear, mixed = scatter((0, 0), (5, 5)), scatter((0, 0), (0, 0))
    assert maps.by_chance(clear) == 50.0
    assert maps.agreement(clear) == 100.0
    assert 35 < maps.agreement(mixed) < 65
    assert maps.has_clusters("", "dfa", at_least=90)(drawn(clear)).holds
    assert not maps.has_clusters("", "dfa", at_least=90)(drawn(mixed)).holds
    assert maps.has_clusters("", "dfa", at_most=70)(drawn(mixed)).holds
    assert not maps.alike("", "a", "b", 5)(
        drawn(*(Panel(t, "", "", p.series) for t, p in (("a", clear), ("b", mixed))))
    ).holds


def test_nothing_on_a_map_tells_nothing_and_one_place_is_chance() -> None:
    assert maps.has_clusters("", "dfa", at_least=90)(drawn(Panel("dfa", "", "", (), is_map=True))).holds is None
    assert maps.agreement(scatter((0, 0), (0, 0), spread=0.0)) == 50.0


RECIPE = kind.VarianceAndLoss(stds=(0.0, 0.1), rules=("fdfa",), data="digits", network="mlp1-20")
FIGURE = Figure("fdfa", "made", "", "", RECIPE, Size(1, 1), checks=(kind.lies_on_line("", "fdfa", 0.1),))


def test_loss_and_variance_are_put_on_file(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    drawing = FIGURE.draw(store)
    line = drawing.panel(kind.BY_NORM).find(kind.NOISY)
    assert line is not None
    # More noise, more variance; and of the share that it has of the squares, at most all.
    assert 0 < line.x[0] < line.x[1] < 1.1
    records = store.read("fdfa", "made").records
    assert {record.cell for record in records} == {"noisy-backprop/std-0", "noisy-backprop/std-0.1", "fdfa"}
    assert not store.read("fdfa", "made").problems
    assert repr(FIGURE.draw(store).panels) == repr(drawing.panels)
    assert len(store.read("fdfa", "made").records) == len(records)
    noisy = next(record for record in records if record.cell.endswith("0.1"))
    over_true = noisy.curve.others["variance over true norm"][0]
    # 64 x 20 + 20 x 10 weights, each with a variance of 0.01, far above that of the choice of examples.
    assert over_true > 14.8 / 10


def test_the_variance_is_that_of_the_noise_over_backprops_gradient() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(64, 12, generator=draws), torch.randint(0, 10, (64,), generator=draws)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 10))
    weights = [model.get_submodule(name).get_parameter("weight") for name in ("0", "2")]
    exact = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
    norm = sum(float(gradient.square().sum()) for gradient in exact)
    variances = kind._Variances(model, fa.attach(model, fa.NoisyBackprop(std=2.0), example_inputs=x), (x, y))
    variances.measure()
    ((over_norm, over_true),) = variances.found
    # 12 x 20 + 20 x 10 entries with a variance of 4 each, beside which all else is small.
    assert over_true * norm == pytest.approx(440 * 4, rel=0.15)
    assert over_norm == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("x", "loss", "holds"), [(1.0, 2.05, True), (1.0, 3.0, False), (100.0, 2.0, None)])
def test_a_point_on_the_line_is_told(x: float, loss: float, holds: bool | None) -> None:
    line = Series(kind.NOISY, (0.1, 10.0), (1.0, 4.0))
    panel = Panel(kind.BY_TRUE, "", "", (line, Series("fdfa", (x,), (loss,))))
    found = kind.lies_on_line("", "fdfa", 0.1)(drawn(panel))
    assert found.holds is holds
    if holds is not None:
        assert found.value == pytest.approx(loss / 2.0)


def test_left_of_the_line_backprop_itself_counts() -> None:
    line = Series(kind.NOISY, (0.1, 10.0), (1.0, 4.0))
    panel = Panel(kind.BY_TRUE, "", "", (line, Series("fdfa", (0.05,), (0.95,))))
    assert kind.lies_on_line("", "fdfa", 0.1)(drawn(panel)).value == pytest.approx(0.95)


def test_without_the_line_nothing_is_told() -> None:
    found = kind.lies_on_line("", "fdfa", 0.1)(drawn(Panel(kind.BY_TRUE, "", "", ())))
    assert found.holds is None
    assert math.isnan(found.value)
