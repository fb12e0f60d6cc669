"""What `check` says of well-known architectures is what training steps show."""

from __future__ import annotations

import pytest
import torch

import feedalign as fa
from attach.model_state import left_as_it_was
from check.architectures import CASES
from check.case import Case
from check.oracle import attached, cut_at, differing, moved, only, products_of, step

every_case = pytest.mark.parametrize("case", CASES, ids=str)
OF_MODULES = [case for case in CASES if not case.has_bare_products]

_known: dict[str, fa.Check] = {}


def checked(case: Case) -> fa.Check:
    if case.name not in _known:
        _known[case.name] = fa.check(case.model(), case.batch(), case.rule, **case.options)
    return _known[case.name]


@every_case
def test_with_all_feedback_zero_the_layers_said_to_stay_on_backprop_move_and_no_others(case: Case) -> None:
    found = checked(case)
    assert found.refusal is None
    model, _ = attached(case, feedback=fa.Zeros())
    assert moved(step(case, model)) == {row.layer for row in found.layers if {"error", "backprop"} & {*row.taught_by}}
    leaking = {row.layer for row in found.layers if row.leaks}
    assert bool(leaking) == bool(case.leaks)
    assert leaking >= set(case.leaks)


@every_case
def test_with_random_feedback_all_layers_move_but_those_said_to_be_taught_by_nothing(case: Case) -> None:
    found = checked(case)
    model, handle = attached(case)
    gradients = step(case, model)
    assert {row.layer for row in found.layers} == set(gradients)
    assert moved(gradients) == {row.layer for row in found.layers if row.taught_by}
    described = [row.point for row in handle.describe().rows if row.point not in {"output", "-"}]
    assert set(described) == set(found.points)


@every_case
def test_each_point_moves_the_layers_said_to_be_taught_there(case: Case) -> None:
    found = checked(case)
    model, handle = attached(case)
    silent, matrices = None, {name: only(handle, name) for name in (None, *found.points)}
    for name, feedback in matrices.items():
        handle.remove()
        handle = fa.attach(model, case.rule, example_inputs=case.batch(), **{**case.options, "feedback": feedback})
        gradients = step(case, model)
        silent = silent or gradients
        assert differing(gradients, silent) == {row.layer for row in found.layers if name in row.points}


@pytest.mark.parametrize("case", [case for case in OF_MODULES if case.leaks], ids=str)
def test_leaks_pass_the_layers_said_to_be_on_the_way(case: Case) -> None:
    found = checked(case)
    leaking = [row for row in found.layers if row.leaks]
    model, _ = attached(case, feedback=fa.Zeros())
    whole = step(case, model)
    for row in leaking:
        with cut_at(model, row.leaks):
            without = step(case, model)
        assert (row.layer in moved(without)) == ("error" in row.taught_by), row
    for name in leaking[0].leaks:
        with cut_at(model, (name,)):
            assert leaking[0].layer in differing(step(case, model), whole), name


@pytest.mark.parametrize("case", OF_MODULES, ids=str)
def test_signals_pass_the_layers_said_to_be_on_the_way_and_no_others(case: Case) -> None:
    found = checked(case)
    model, _ = attached(case)
    with cut_at(model, products_of(model)):
        alone = step(case, model)
    for row in found.layers:
        if row.points:
            with cut_at(model, {*row.through, *row.leaks}):
                cut = step(case, model)[row.layer]
            torch.testing.assert_close(cut, alone[row.layer], rtol=1e-4, atol=1e-6)


@every_case
def test_suggestions_work_and_leave_what_they_say(case: Case) -> None:
    found = checked(case)
    for suggestion in found.suggestions:
        options = suggestion.arguments
        model, handle = attached(case, feedback=fa.Zeros(), **options)
        uncut = {row.layer for row in handle.describe().rows if row.uncut}
        assert uncut == set(suggestion.leaks)
        ends = {row.layer for row in handle.describe().rows if row.point == "output"}
        assert moved(step(case, model)) == uncut | ends
    best = found.suggestions[0].leaks if found.suggestions else [row.layer for row in found.layers if row.leaks]
    assert set(best) == set(case.stays)


@every_case
def test_the_model_is_left_as_it_was(case: Case) -> None:
    model = case.model().eval()
    next(iter(model.children())).train()
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    with left_as_it_was(model):
        fa.check(model, case.batch(), case.rule, **case.options)
