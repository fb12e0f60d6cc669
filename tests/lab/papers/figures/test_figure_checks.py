import math
from dataclasses import replace

import pytest

from feedalign_lab.papers.figures import Drawing, Panel, Series
from feedalign_lab.papers.figures.checks import (
    NOT_THERE,
    CheckMaker,
    all_below,
    is_highest,
    is_highest_at_once,
    is_lower,
    is_lowest,
    is_near,
    takes_longer,
)

_X = (1.0, 2.0, 3.0, 4.0)


def drawing(n: int = 1, std: float = math.nan, **curves: tuple[float, ...]) -> Drawing:
    series = tuple(Series(name, _X[: len(y)], y, (std,) * len(y), n) for name, y in curves.items())
    return Drawing("drtp", "fig2", "", "", "", (Panel("p", "epoch", "y", series),))


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (is_lower("", "p", "a", "b"), True),
        (is_lower("", "p", "b", "a"), False),
        (is_lower("", "p", "a", "b", at=1.5), False),
        (is_lower("", "p", "a", "missing"), None),
        (is_lowest("", "p", "a", ["b", "c"]), True),
        (is_lowest("", "p", "b", ["a", "c", "missing"]), False),
        (is_highest("", "p", "c", ["a", "b"]), True),
        (is_highest("", "p", "b", ["a", "c"]), False),
        (all_below("", ["p"], 9.5), True),
        (all_below("", ["p"], 9.0), False),
        (all_below("", ["p"], 5.5, but=["c"]), True),
        (is_near("", "p", "a", "b", 1.0), True),
        (is_near("", "p", "a", "b", 0.9), False),
        (is_near("", "p", "missing", "b", 0.9), None),
    ],
)
def test_claims_are_read_off_the_curves(check: CheckMaker, holds: bool | None) -> None:
    found = check(drawing(a=(5.0, 3.0, 2.0, 1.0), b=(4.0, 3.0, 2.5, 2.0), c=(9.0, 8.0, 7.0, 6.0)))
    assert found.holds is holds
    assert (found.measured == NOT_THERE) is (holds is None)


@pytest.mark.parametrize(("std", "holds"), [(0.1, True), (10.0, None)])
def test_a_gap_within_two_standard_errors_tells_nothing(std: float, holds: bool | None) -> None:
    check = is_lower("A lies lower.", "p", "a", "b")
    found = check(drawing(n=4, std=std, a=(1.0,), b=(2.0,)))
    assert found.holds is holds
    assert found.value == 1.0
    # std / sqrt(n) of each, and of the gap sqrt(2) of that.
    assert f"{std / 2:.2g}" in found.measured


def test_the_edge_of_two_standard_errors() -> None:
    std = 1 / 2 / math.sqrt(2) * math.sqrt(4)
    for factor, holds in ((0.999, True), (1.001, None)):
        assert is_lower("", "p", "a", "b")(drawing(n=4, std=std * factor, a=(1.0,), b=(2.0,))).holds is holds


def test_curves_against_time_are_compared_at_the_same_time() -> None:
    slow = Series("slow", (10.0, 20.0), (50.0, 70.0))
    fast = Series("fast", (4.0, 8.0, 12.0), (40.0, 55.0, 57.0))
    panel = Panel("p", "time (s)", "%", (slow, fast))
    drawn = Drawing("fdfa", "fig4", "", "", "", (panel,))
    # At 12 s the slow one has 54, and 70 in the end.
    found = is_highest_at_once("", "p", "slow", ["fast"])(drawn)
    assert found.holds is False
    assert found.value == pytest.approx(54.0 - 57.0)
    assert is_highest_at_once("", "p", "fast", ["slow", "missing"])(drawn).holds
    late = replace(drawn, panels=(replace(panel, series=(Series("slow", (13.0,), (99.0,)), fast)),))
    assert is_highest_at_once("", "p", "slow", ["fast"])(late).holds is None
    longer = takes_longer("", "p", "slow", "fast")(drawn)
    assert longer.holds
    assert longer.value == pytest.approx(20 / 12)
    assert takes_longer("", "p", "slow", "missing")(drawn).holds is None


def test_a_number_that_is_none_tells_nothing() -> None:
    assert is_lower("", "p", "a", "b")(drawing(a=(math.nan,), b=(2.0,))).holds is None
