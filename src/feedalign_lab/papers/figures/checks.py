"""What papers claim of their figures, as yes or no with the number beside."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from feedalign_lab.papers.figures.drawing import Check, Drawing, Series

_STANDARD_ERRORS = 2.0
CheckMaker = Callable[[Drawing], Check]

NOT_THERE = "not everything it speaks of is on file"
ANY_GAP = "any gap counts"


def ours(make: CheckMaker) -> CheckMaker:
    """Mark a statement that the paper does not make."""

    def check(drawing: Drawing) -> Check:
        return replace(make(drawing), source="ours")

    return check


def is_lower(claim: str, panel: str, lower: str, higher: str, *, at: float = math.inf) -> CheckMaker:
    """One series lies below another.

    Args:
        claim: The paper's.
        panel: Title of the panel.
        lower: Name of the series that is to lie lower.
        higher: Name of the other.
        at: The x to look at, or the last before it; infinity for the end.

    Returns:
        The check. Where both are over several trials, a gap below two standard errors of it tells nothing.
    """

    def check(drawing: Drawing) -> Check:
        one, other = drawing.panel(panel).find(lower), drawing.panel(panel).find(higher)
        if one is None or other is None:
            return Check(claim, NOT_THERE, None)
        return _compared(claim, (lower, _at(one, at)), (higher, _at(other, at)), _where(one, at))

    return check


def is_lowest(claim: str, panel: str, name: str, others: Sequence[str], *, at: float = math.inf) -> CheckMaker:
    """One series lies below several others: judged by the nearest of them.

    Args:
        claim: The paper's.
        panel: Title of the panel.
        name: Name of the series that is to lie lowest.
        others: Names of the others; those that are not there are passed over.
        at: The x to look at, or the last before it; infinity for the end.

    Returns:
        The check.
    """

    def check(drawing: Drawing) -> Check:
        one = drawing.panel(panel).find(name)
        found = [series for other in others if (series := drawing.panel(panel).find(other)) is not None]
        if one is None or not found:
            return Check(claim, NOT_THERE, None)
        nearest = min(found, key=lambda series: _at(series, at)[0])
        return _compared(claim, (name, _at(one, at)), (nearest.name, _at(nearest, at)), _where(one, at))

    return check


def is_highest(claim: str, panel: str, name: str, others: Sequence[str], *, at: float = math.inf) -> CheckMaker:
    """One series lies above several others; see `is_lowest`."""

    def check(drawing: Drawing) -> Check:
        one = drawing.panel(panel).find(name)
        found = [series for other in others if (series := drawing.panel(panel).find(other)) is not None]
        if one is None or not found:
            return Check(claim, NOT_THERE, None)
        nearest = max(found, key=lambda series: _at(series, at)[0])
        return _compared(claim, (nearest.name, _at(nearest, at)), (name, _at(one, at)), _where(one, at))

    return check


def all_below(claim: str, panels: Sequence[str], limit: float, *, but: Sequence[str] = ()) -> CheckMaker:
    """Every series of some panels stays below a limit, after the first place.

    Args:
        claim: The paper's.
        panels: Titles of the panels.
        limit: The limit.
        but: Names of series that the claim does not speak of.

    Returns:
        The check, by the largest mean.
    """

    def check(drawing: Drawing) -> Check:
        found = [
            (value, series.name, title, x)
            for title in panels
            for series in drawing.panel(title).series
            if series.name not in but
            for x, value in zip(series.x, series.mean, strict=True)
            if math.isfinite(value)
        ]
        if not found:
            return Check(claim, NOT_THERE, None)
        value, name, title, x = max(found)
        words = f"the largest mean is {value:.4g}, of {name} in {title!r} at {x:.4g}; below {limit:g} counts as holding"
        return Check(claim, words, value < limit, value)

    return check


def is_near(claim: str, panel: str, one: str, other: str, slack: float) -> CheckMaker:
    """Two series end within a slack of one another, fixed before the first run.

    Args:
        claim: The paper's.
        panel: Title of the panel.
        one: Name of a series.
        other: Name of another.
        slack: In units of y.

    Returns:
        The check.
    """

    def check(drawing: Drawing) -> Check:
        first, second = drawing.panel(panel).find(one), drawing.panel(panel).find(other)
        if first is None or second is None:
            return Check(claim, NOT_THERE, None)
        gap = first.last[0] - second.last[0]
        words = f"{one} ends {abs(gap):.4g} {'above' if gap > 0 else 'below'} {other}; {slack:g} counts as near"
        return Check(claim, words, abs(gap) <= slack, gap)

    return check


def is_highest_at_once(claim: str, panel: str, name: str, others: Sequence[str]) -> CheckMaker:
    """One series lies above others at the same x, the largest that all of them reach: for curves against time.

    Args:
        claim: The paper's.
        panel: Title of the panel.
        name: Name of the series that is to lie highest.
        others: Names of the others; those that are not there are passed over.

    Returns:
        The check, by the nearest of them; between places, curves are straight.
    """

    def check(drawing: Drawing) -> Check:
        one = drawing.panel(panel).find(name)
        found = [series for other in others if (series := drawing.panel(panel).find(other)) is not None]
        if one is None or not found:
            return Check(claim, NOT_THERE, None)
        x = min(series.x[-1] for series in (one, *found))
        if any(series.x[0] > x for series in (one, *found)):
            return Check(claim, "there is no x that all series reach", None)
        nearest = max(found, key=lambda series: _between(series, x))
        lower, higher = (nearest.name, _between(nearest, x), math.nan), (name, _between(one, x), math.nan)
        return compared(claim, lower, higher, f" at {x:.4g}")

    return check


def takes_longer(claim: str, panel: str, longer: str, shorter: str) -> CheckMaker:
    """One series ends at a larger x than another: for curves against time over as many epochs."""

    def check(drawing: Drawing) -> Check:
        one, other = drawing.panel(panel).find(longer), drawing.panel(panel).find(shorter)
        if one is None or other is None:
            return Check(claim, NOT_THERE, None)
        words = f"{longer} ends at {one.x[-1]:.4g}, {shorter} at {other.x[-1]:.4g}; {ANY_GAP}"
        return Check(claim, words, one.x[-1] > other.x[-1], one.x[-1] / other.x[-1])

    return check


def compared(claim: str, lower: tuple[str, float, float], higher: tuple[str, float, float], where: str = "") -> Check:
    """A check that one number is below another.

    Args:
        claim: The paper's.
        lower: Name, mean and standard error of what is to be lower; the error is nan where it is not known.
        higher: The same of the other.
        where: Where they were read off, in words.

    Returns:
        The check; a gap below two standard errors of it, where they are known, tells nothing.
    """
    return _compared(claim, (lower[0], lower[1:]), (higher[0], higher[1:]), where)


def _compared(
    claim: str, lower: tuple[str, tuple[float, float]], higher: tuple[str, tuple[float, float]], where: str
) -> Check:
    (low_name, (low, low_error)), (high_name, (high, high_error)) = lower, higher
    gap = high - low
    error = math.hypot(low_error, high_error)
    words = f"{low_name} {_shown(low, low_error)}, {high_name} {_shown(high, high_error)}{where}"
    if not math.isfinite(gap):
        return Check(claim, f"{words}: there is a value that is no number", None)
    if math.isfinite(error) and abs(gap) < _STANDARD_ERRORS * error:
        return Check(claim, f"{words}: less than two standard errors apart", None, gap)
    least = f"a gap of {_STANDARD_ERRORS * error:.2g}, two standard errors, counts"
    return Check(claim, f"{words}; {least if math.isfinite(error) else ANY_GAP}", gap > 0, gap)


def _shown(mean: float, error: float) -> str:
    return f"{mean:.4g} \N{PLUS-MINUS SIGN} {error:.2g}" if math.isfinite(error) else f"{mean:.4g}"


def _at(series: Series, x: float) -> tuple[float, float]:
    """Mean and its standard error at x, or at the last place before it."""
    place = _place(series, x)
    spread = series.std[place] if series.std else math.nan
    return series.mean[place], spread / math.sqrt(series.n) if series.n > 1 else math.nan


def _between(series: Series, x: float) -> float:
    """A series at x, straight between its places."""
    for (left, low), (right, high) in pairwise(zip(series.x, series.mean, strict=True)):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return series.mean[-1]


def _place(series: Series, x: float) -> int:
    return max((place for place, found in enumerate(series.x) if found <= x), default=0)


def _where(series: Series, x: float) -> str:
    """Where that is, in words."""
    return f" at {series.x[_place(series, x)]:.4g}"
