"""Every rule on networks of any depth and width, down to one unit, one sample and one output."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import feedalign as fa
from agreement import compare, rule_for
from problems import ALL_LOSSES, CLASSIFICATION, Problem


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
    if rule in (fa.SignDFA, fa.DRTP):
        assume(loss in CLASSIFICATION)
        # A softmax over one class is 1: there is no error to read a target from.
        assume(loss != "cross_entropy" or widths[-1] > 1)
    problem = Problem(loss, reduction, "tanh", widths, num_samples)
    compare(rule_for(rule, problem), problem)
    if rule is fa.DRTP:
        compare(rule_for(rule, problem), problem, streaming=True)
