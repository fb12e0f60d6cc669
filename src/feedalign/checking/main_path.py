"""Feedback points through which all paths lead, tried on a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from feedalign.checking.trial import Given, Trial
from feedalign.checking.verdict import Suggestion, counted

Look = Callable[[Given], Trial]
Found = list[tuple[Suggestion, Trial]]

# Signals that pass fewer layers are worth a suggestion if these are at most one in two, and three fewer.
_MUCH_SHORTER = 2
_MUCH = 3
_MOST_ROUNDS = 8


def better_points(trial: Trial, look: Look, given: Given) -> Found:
    """Find points that work better: alone, beside those that there are, and beside those by default.

    Args:
        trial: What came of the arguments given.
        look: Tries arguments.
        given: The arguments.

    Returns:
        Suggestions with what came of them, the shortest first; all leave as little to exact backprop.
    """
    if not trial.cuts:
        return []
    several = [trial.narrows, _together(trial.narrows, trial.modules)]
    if given.points is not None and trial.leaks:
        default = look(replace(given, points=None))
        several.append(_together(_together(trial.narrows, trial.modules), default.modules))
    if trial.refusal is not None:
        several.append(tuple(name for name in trial.narrows if name not in trial.recurrent))
    options = {frozenset(option): option for option in several if option}
    tried = [
        (option, look(replace(given, points=list(option))))
        for key, option in options.items()
        if key - set(trial.modules) or (trial.refusal is not None and key != set(trial.modules))
    ]
    useful = [(option, found) for option, found in tried if _is_better(found, trial)]
    if not useful or all(found.leaks for _, found in useful):
        best = min(useful, key=lambda pair: len(pair[1].leaks), default=(trial.modules, trial))
        more = _completed(*best, look, given)
        useful += [more] if more[0] != best[0] and _is_better(more[1], trial) else []
    fewest = min((len(found.leaks) for _, found in useful), default=0)
    return [
        (Suggestion(option, given.output, found.leaks, _why(option, found, trial)), found)
        for option, found in useful
        if len(found.leaks) == fewest
    ]


def _completed(option: tuple[str, ...], found: Trial, look: Look, given: Given) -> tuple[tuple[str, ...], Trial]:
    """Add the layers that backprop reaches first, until it reaches none or what is added does not help."""
    for _ in range(_MOST_ROUNDS):
        wider = _together(option, found.nearest)
        if wider == option:
            break
        more = look(replace(given, points=list(wider)))
        if more.refusal is not None or (found.refusal is None and len(more.leaks) >= len(found.leaks)):
            break
        option, found = wider, more
    return option, found


def _together(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return (*some, *(name for name in others if name not in some))


def _is_better(found: Trial, trial: Trial) -> bool:
    if found.refusal is not None:
        return False
    if trial.refusal is not None or len(found.leaks) < len(trial.leaks):
        return True
    is_shorter = found.longest <= min(trial.longest // _MUCH_SHORTER, trial.longest - _MUCH)
    return len(found.leaks) == len(trial.leaks) and is_shorter


def _why(option: tuple[str, ...], found: Trial, trial: Trial) -> str:
    kept = set(trial.modules) <= set(option) and bool(trial.modules)
    where = " on the main path" if {*trial.narrows, *trial.modules}.issuperset(option) else ""
    which = f"{counted(len(option), 'point')}{where}" + (", those that there are among them" if kept else "")
    more = f"; {found.amount} of feedback" if found.amount.is_large else ""
    dead = {beside.name for beside in found.beside if beside.is_dead}
    dead -= {beside.name for beside in trial.beside if beside.is_dead}
    more += f"; a loss on {' or '.join(map(repr, sorted(dead)))} then has no gradient" if dead else ""
    if not found.leaks and (trial.leaks or trial.refusal is not None):
        return f"{which}: every path is cut{more}"
    if trial.refusal is None and len(found.leaks) == len(trial.leaks):
        most = counted(found.longest, "layer")
        return f"{which}: a signal passes the true weights of {most} at most, not of {trial.longest}{more}"
    return leaving(which, found) + more


def leaving(what: str, found: Trial) -> str:
    """Return a sentence with what is still left to exact backprop."""
    return what + (f"; exact backprop then still reaches {counted(len(found.leaks), 'layer')}" if found.leaks else "")
