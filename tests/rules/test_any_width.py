"""Every rule on networks of any depth and width, down to one unit, one sample and one output."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import feedalign as fa
from agreement import compare, fits, rule_for
from problems import ALL_LOSSES, Problem


@pytest.mark.parametrize("rule", fa.ALL_RULES)
@given(
    widths=st.lists(st.integers(1, 8), min_size=3, max_size=6).map(tuple),
    num_samples=st.integers(1, 6),
    loss=st.sampled_from(ALL_LOSSES),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_gradients_equal_the_equations_whatever_the_widths(
    rule: type[fa.Rule], widths: tuple[int, ...], num_samples: int, loss: str, reduction: str
) -> None:
    problem = Problem(loss, reduction, "tanh", widths, num_samples)
    assume(fits(rule, problem))
    compare(rule_for(rule, problem), problem)
    if rule is fa.DRTP:
        compare(rule_for(rule, problem), problem, streaming=True)
