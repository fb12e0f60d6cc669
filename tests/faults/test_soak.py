"""Memory is flat over many steps; `python -m faults.soak` takes ten thousand and puts the figures on file."""

from __future__ import annotations

import pytest

from faults.soak import CASES, EARLY, STEPS, soak

# What the allocator and the interpreter may keep without a leak: far below a tensor per step.
KIB = 4096


@pytest.mark.parametrize("case", ["dfa", "fdfa", "gru, drtp streaming"])
def test_a_few_steps_leave_no_tensors_behind(case: str) -> None:
    found = soak(case, early=60, steps=120)
    assert found["tensors at 120"] == found["tensors at 60"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES)
def test_ten_thousand_steps_take_no_more_memory_than_two_thousand(case: str) -> None:
    found = soak(case)
    assert found[f"tensors at {STEPS}"] == found[f"tensors at {EARLY}"]
    assert found[f"KiB at {STEPS}"] <= found[f"KiB at {EARLY}"] + KIB
