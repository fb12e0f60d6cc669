from pathlib import Path

import numpy as np
import pytest
import torch

from feedalign_lab.domains import domain_of
from feedalign_lab.papers.figures import Figure, Series, Size
from feedalign_lab.papers.figures import densities as kind
from feedalign_lab.papers.figures.curves import curve_cell
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.tensors import TensorTrial

WHOLE = Size(epochs=3, trials=1)
CELLS = tuple(
    (rule.upper(), curve_cell(rule, "digits", "fc1-20", rule, WHOLE, "made up", learning_rate=rate))
    for rule, rate in (("backprop", 1e-4), ("drtp", 0.3))
)
FIGURE = Figure(
    "drtp",
    "density",
    "",
    "",
    kind.Densities(CELLS),
    WHOLE,
    checks=(
        kind.is_more_saturated("", ("DRTP", ""), ("BACKPROP", "")),
        kind.is_more_saturated("", ("BACKPROP", ""), ("DRTP", "")),
    ),
)


def trial() -> TensorTrial:
    plan = CELLS[0][1].plan()
    made = (
        domain_of(plan.data).load(plan, torch.device("cpu"), lambda what, share: None).trial(plan.spec("backprop", 0))
    )
    assert isinstance(made, TensorTrial)
    return made


def test_a_density_is_numpys_histogram() -> None:
    one = trial()
    x = one.dataset.x_train[:1000].flatten(1)
    weight, bias = (
        one.model.get_submodule("fc1").get_parameter("weight"),
        one.model.get_submodule("fc1").get_parameter("bias"),
    )
    hidden = np.tanh((x @ weight.T + bias).detach().numpy())
    expected, edges = np.histogram(hidden, bins=40, range=(-1, 1), density=True)
    found = list(kind.density(one).values())
    assert found == pytest.approx(expected.tolist(), abs=0.01)
    assert (edges[:-1] + edges[1:]) / 2 == pytest.approx(kind.CENTERS)
    assert one.model.training


def test_densities_over_training_and_at_its_end(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    drawing = FIGURE.draw(store)
    assert [panel.title for panel in drawing.panels] == [kind.ERRORS, "BACKPROP", "DRTP"]
    assert [series.name for series in drawing.panel("DRTP").series] == ["epoch 1", "epoch 2", "epoch 3"]
    for series in drawing.panel("DRTP").series:
        assert sum(series.mean) * 0.05 == pytest.approx(1.0)
    # At a rate as large as that DRTP drives every unit into saturation.
    assert [check.holds for check in drawing.checks] == [True, False]
    final = Figure("drtp", "final", "", "", kind.FinalDensities((("digits", "density", CELLS),)), WHOLE).draw(store)
    found, last = final.panel("digits").find("DRTP"), drawing.panel("DRTP").series[-1]
    assert found is not None
    assert found.mean == last.mean
    assert not store.path("drtp", "final").exists()


def test_the_share_beyond_nine_tenths() -> None:
    ends = tuple(2.0 if abs(x) > 0.9 else 0.0 for x in kind.CENTERS)
    assert kind.share_saturated(Series("", kind.CENTERS, ends)) == pytest.approx(2.0 * 4 * 0.05)


@pytest.mark.parametrize("epochs", [1, 2, 5, 100])
def test_moments_run_from_the_first_epoch_to_the_last(epochs: int) -> None:
    moments = kind._moments(epochs)
    assert moments[0] == 1
    assert moments[-1] == epochs
    assert moments == sorted(set(moments))
