"""What to give to `attach` instead: outputs and points that were tried and work better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from feedalign.checking.returned import makers
from feedalign.checking.trial import Trial
from feedalign.checking.verdict import Suggestion, counted
from feedalign.errors import FeedalignError, OutputError
from feedalign.points import Points
from feedalign.probe import Inputs, run

Look = Callable[[Points | None, str | None], Trial]

# Signals that pass fewer layers are worth a suggestion if these are at most one in two, and three fewer.
_MUCH_SHORTER = 2
_MUCH = 3
_MOST_ROUNDS = 8


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        trial: The one to be shown: that of the arguments as given, or of the first suggestion where `attach` raises.
        suggestions: Arguments that work better, the shortest first.
        results: The modules that make what the model returns, and what that is; None: the output could be told.
        failed: Those among them that do not serve, and why.
    """

    trial: Trial
    suggestions: tuple[Suggestion, ...]
    results: dict[str, str] | None = None
    failed: dict[str, str] = field(default_factory=dict)


def suggest(
    model: nn.Module, example_inputs: Inputs, trial: Trial, look: Look, points: Points | None, output: str | None
) -> Search:
    """Search for arguments that work better than those given.

    Args:
        model: The model.
        example_inputs: As for `attach`.
        trial: What came of the arguments given.
        look: Tries `points` and `output`.
        points: As given.
        output: As given.

    Returns:
        What was found.
    """
    if isinstance(trial.refusal, OutputError) and output is None:
        return _search_outputs(model, example_inputs, trial, look, points)
    found = _better_points(trial, look, points, output)
    shown = found[0][1] if found and trial.refusal is not None else trial
    return Search(shown, tuple(suggestion for suggestion, _ in found))


def _search_outputs(
    model: nn.Module, example_inputs: Inputs, trial: Trial, look: Look, points: Points | None
) -> Search:
    try:
        results = makers(run(model, example_inputs))
    except FeedalignError:
        return Search(trial, ())
    found: list[tuple[Suggestion, Trial]] = []
    failed: dict[str, str] = {}
    for maker, name in results.items():
        tried = look(points, maker)
        why = f"the error is taken at its output, {name}"
        if tried.refusal is None:
            found.append((Suggestion(None, maker, tried.leaks, _leaving(why, tried)), tried))
        better = _better_points(tried, look, points, maker)
        found += better
        if tried.refusal is not None and not better:
            failed[maker] = str(tried.refusal)
    shown = found[0][1] if found else trial
    return Search(shown, tuple(suggestion for suggestion, _ in found), results, failed)


def _better_points(
    trial: Trial, look: Look, points: Points | None, output: str | None
) -> list[tuple[Suggestion, Trial]]:
    """Points through which all paths lead: alone, beside those that there are, and beside those by default."""
    if not trial.cuts:
        return []
    several = [trial.narrows, _together(trial.narrows, trial.modules)]
    if points is not None and trial.leaks:
        default = look(None, output)
        several.append(_together(_together(trial.narrows, trial.modules), default.modules))
    if trial.refusal is not None:
        several.append(tuple(name for name in trial.narrows if name not in trial.recurrent))
    options = {frozenset(option): option for option in several if option}
    tried = [(option, look(list(option), output)) for key, option in options.items() if key - set(trial.modules)]
    useful = [(option, found) for option, found in tried if _is_better(found, trial)]
    if not useful or all(found.leaks for _, found in useful):
        best = min(useful, key=lambda pair: len(pair[1].leaks), default=(trial.modules, trial))
        more = _completed(*best, look, output)
        useful += [more] if more[0] != best[0] and _is_better(more[1], trial) else []
    fewest = min((len(found.leaks) for _, found in useful), default=0)
    return [
        (Suggestion(option, output, found.leaks, _why(option, found, trial)), found)
        for option, found in useful
        if len(found.leaks) == fewest
    ]


def _completed(option: tuple[str, ...], found: Trial, look: Look, output: str | None) -> tuple[tuple[str, ...], Trial]:
    """Add the layers that backprop reaches first, until it reaches none or what is added does not help."""
    for _ in range(_MOST_ROUNDS):
        wider = _together(option, found.nearest)
        if wider == option:
            break
        more = look(list(wider), output)
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
    if not found.leaks and (trial.leaks or trial.refusal is not None):
        return f"{which}: every path is cut"
    if trial.refusal is None and len(found.leaks) == len(trial.leaks):
        most = counted(found.longest, "layer")
        return f"{which}: a signal passes the true weights of {most} at most, not of {trial.longest}"
    return _leaving(which, found)


def _leaving(what: str, found: Trial) -> str:
    return what + (f"; exact backprop then still reaches {counted(len(found.leaks), 'layer')}" if found.leaks else "")
