"""What `check` says of models with random connections is what training steps show."""

from __future__ import annotations

import pytest

import feedalign as fa
from check.oracle import attached, cut_at, differing, moved, only, step
from check.random_graphs import random_case


@pytest.mark.parametrize("seed", range(30))
def test_a_random_model_is_read_rightly(seed: int) -> None:
    case = random_case(seed)
    found = fa.check(case.model(), case.batch())
    options = {} if found.assumed is None else found.assumed.arguments
    if found.refusal is not None and found.assumed is None:
        assert "nothing for a rule to teach" in found.notes[-1]
        return
    model, handle = attached(case, feedback=fa.Zeros(), **options)
    silent = step(case, model)
    assert moved(silent) == {row.layer for row in found.layers if {"error", "backprop"} & {*row.taught_by}}
    for row in found.layers:
        with cut_at(model, row.leaks):
            assert row.layer in moved(step(case, model)) or "error" not in row.taught_by
            assert not row.leaks or "error" in row.taught_by or row.layer not in moved(step(case, model))
    for point in found.points:
        handle.remove()
        with fa.attach(model, case.rule, example_inputs=case.batch(), **options) as drawn:
            feedback = only(drawn, point)
        handle = fa.attach(model, case.rule, example_inputs=case.batch(), **options, feedback=feedback)
        assert differing(step(case, model), silent) == {row.layer for row in found.layers if point in row.points}
    for suggestion in found.suggestions:
        assert not suggestion.leaks
        model, handle = attached(case, feedback=fa.Zeros(), **suggestion.arguments)
        assert moved(step(case, model)) == {row.layer for row in handle.describe().rows if row.point == "output"}
    assert found.suggestions or not any(row.leaks for row in found.layers)
