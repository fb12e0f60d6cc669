"""The demonstration of DRTP's alignment theorem: its numbers, its controls, its picture."""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from feedalign_lab.errors import SettingError
from feedalign_lab.papers import theorem
from feedalign_lab.papers.theorem import CASES, OneExample, draw, watch

HELD, RANDOM_START, TANH = CASES


@pytest.mark.parametrize("num_layers", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_signals_are_parallel_from_update_k_on_and_backprop_sends_none_before(num_layers: int, seed: int) -> None:
    rows = watch(OneExample("", num_layers=num_layers, seed=seed, num_steps=num_layers + 2))
    assert [(row.step, row.layer) for row in rows] == [
        (step, layer) for step in range(num_layers + 3) for layer in range(1, num_layers)
    ]
    for row in rows:
        assert row.drtp > 0
        assert (row.backprop > 0) == (row.step >= num_layers) == (not math.isnan(row.angle))
        assert math.isnan(row.angle) or row.angle < 1e-10


def test_angles_are_not_of_rounding_however_small_backprops_signal_is() -> None:
    """Long after the prediction rounds to one, the angles of a random start go on from one update to the next."""
    rows = [row for row in watch(RANDOM_START) if row.step >= 4]
    assert min(row.backprop for row in rows) < 1e-40
    for layer in (1, 2, 3):
        angles = [row.angle for row in rows if row.layer == layer]
        assert max(angles) < 80
        assert max(abs(after - before) for before, after in pairwise(angles)) < 15


@pytest.mark.parametrize("shift", [0.0, 3.0, 30.0, -30.0, -200.0, 900.0])
def test_the_loss_is_that_of_the_library_and_its_derivative_keeps_its_digits(shift: float) -> None:
    output = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    output[0, 1] += shift
    output.requires_grad_()
    label = torch.tensor([1])
    loss = theorem._cross_entropy(output, label)
    torch.testing.assert_close(loss, F.cross_entropy(output, label))
    (found,) = torch.autograd.grad(loss, [output])
    others = torch.softmax(output.detach(), dim=1)[0, [0, 2]]
    torch.testing.assert_close(found[0, [0, 2]], others, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[0, 1], -others.sum(), rtol=1e-12, atol=0)


def test_the_norm_of_drtps_signal_is_that_of_one_row_of_the_feedback() -> None:
    """It knows neither the weights nor the error, so that it never changes."""
    norms = {layer: {row.drtp for row in watch(HELD) if row.layer == layer} for layer in (1, 2, 3)}
    assert all(max(found) - min(found) < 1e-12 for found in norms.values())


def test_without_its_conditions_signals_are_not_parallel() -> None:
    assert max(row.angle for row in watch(RANDOM_START)) > 90
    assert all(row.backprop > 0 for row in watch(RANDOM_START))
    angles = [row.angle for row in watch(TANH) if not math.isnan(row.angle)]
    assert min(angles) > 1


def test_plain_data_say_what_was_done_and_have_no_nan() -> None:
    state = torch.get_rng_state()
    data = theorem.theorem()
    assert torch.equal(torch.get_rng_state(), state)
    assert data == json.loads(json.dumps(data, allow_nan=False)) == theorem.theorem()
    assert [case["title"] for case in data["cases"]] == [case.title for case in CASES]
    first = data["cases"][0]
    assert first["num_layers"] == 4
    assert first["rows"][0] == {"step": 0, "layer": 1, "angle": None, "drtp": first["rows"][0]["drtp"], "backprop": 0.0}
    assert len(first["rows"]) == 3 * (HELD.num_steps + 1)


def test_the_picture_has_a_column_for_each_case_and_a_line_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = theorem.as_png
    monkeypatch.setattr(theorem, "as_png", lambda figure: drawn.append(figure) or save(figure))
    assert draw(theorem.theorem()).startswith(b"\x89PNG")
    panels = drawn[0].get_axes()
    assert len(panels) == 2 * len(CASES)
    assert "exactly parallel" in panels[0].get_title()
    assert not any("exactly parallel" in axes.get_title() for axes in panels[1:])
    names = [line.get_label() for line in panels[0].get_lines() if not str(line.get_label()).startswith("_")]
    assert names == ["layer 1", "layer 2", "layer 3"]


@pytest.mark.parametrize(
    "wrong", [{"num_layers": 1}, {"num_classes": 1}, {"width": 0}, {"num_steps": 0}, {"learning_rate": math.nan}]
)
def test_what_is_no_network_is_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(SettingError):
        OneExample("", **wrong)
