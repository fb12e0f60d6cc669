"""Random architectures and rules: gradients by hand, exact limits, leaks that are told of, and removal without a trace.

`python -m integration.many_architectures` tries some thousands.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import feedalign as fa
from integration.gradients import PERTURBING, assert_same_gradients, gradients, step
from integration.many_architectures import try_many
from integration.random_models import Architecture, RandomModel, architectures, data_for
from integration.random_properties import RULES, attached, outcome_of, same_dropout


@settings(max_examples=45)
@given(architecture=architectures(), rule=st.sampled_from(RULES))
def test_any_architecture_under_any_rule(architecture: Architecture, rule: fa.Rule) -> None:
    assert outcome_of(architecture, rule)


@settings(max_examples=30)
@given(architecture=architectures(), rule=st.sampled_from(PERTURBING))
def test_tangents_by_hand_and_as_dual_tensors_agree(architecture: Architecture, rule: fa.Rule) -> None:
    plain = tuple(
        replace(block, skip="none", has_branch=False, changes_in_place=False, is_reshaped=False)
        for block in architecture.blocks
    )
    architecture = replace(architecture, blocks=plain, cell="none", inputs="rows")
    x, y = data_for(architecture)
    found = []
    for has_function in (False, True):
        model = RandomModel(replace(architecture, has_function=has_function))
        try:
            handle = attached(model, rule, x)
        except fa.errors.AttachError as error:
            if "LocalGreedy puts a head" not in str(error):
                raise
            reject()
        assert handle.uses_dual_tensors == has_function
        for _ in range(2):
            same_dropout(lambda model=model: step(model, x, y))
        found.append(gradients(model))
    assert_same_gradients(*found, tolerance=1e-12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_architectures() -> None:
    counts = try_many(2600)
    assert not counts.failures, counts.failures[0]
    assert len(counts.seen) >= 2000
    for name, count in counts.by_rule.items():
        assert count["worked"] > count["refused"] or name in {"fg-w", "fdfa", "lg-fg-a"}, (name, count)
