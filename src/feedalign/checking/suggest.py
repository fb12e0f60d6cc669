"""What to give to `attach` instead: outputs, points and a rule's options that were tried and work better."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from feedalign.checking.main_path import Found, Look, better_points, leaving
from feedalign.checking.positions import full_at, with_positions
from feedalign.checking.returned import Results, results_of
from feedalign.checking.trial import Given, Trial
from feedalign.checking.verdict import Suggestion
from feedalign.errors import AmbiguousShapeError, FeedalignError, OutputError
from feedalign.probe import Inputs, run

_MUCH_SMALLER = 10


@dataclass(frozen=True)
class Search:
    """What was found.

    Attributes:
        trial: The one to be shown: that of the arguments as given, or of the first suggestion where `attach` raises.
        given: The arguments that it is about.
        suggestions: Arguments that work better, the best first.
        results: What the model returns; None: the output could be told.
        failed: Modules that make results and do not serve as the output, and why.
    """

    trial: Trial
    given: Given
    suggestions: tuple[Suggestion, ...] = ()
    results: Results | None = None
    failed: dict[str, str] = field(default_factory=dict)


def suggest(model: nn.Module, example_inputs: Inputs, trial: Trial, look: Look, given: Given) -> Search:
    """Search for arguments that work better than those given.

    Args:
        model: The model.
        example_inputs: As for `attach`.
        trial: What came of the arguments given.
        look: Tries arguments.
        given: The arguments.

    Returns:
        What was found.
    """
    if isinstance(trial.refusal, OutputError) and given.output is None:
        return _search_outputs(model, example_inputs, trial, look, given)
    return _found(trial, given, _better(trial, look, given))


def _found(trial: Trial, given: Given, found: Found) -> Search:
    """Show the first of what was found, if the arguments as given are refused."""
    suggestions = tuple(suggestion for suggestion, _ in found)
    if not found or trial.refusal is None:
        return Search(trial, given, suggestions)
    first, shown = found[0]
    rule = given.rule if first.rule is None else first.rule
    points = given.points if first.points is None else list(first.points)
    return Search(shown, Given(rule, points, first.output or given.output), suggestions)


def _search_outputs(model: nn.Module, example_inputs: Inputs, trial: Trial, look: Look, given: Given) -> Search:
    try:
        results = results_of(run(model, example_inputs))
    except FeedalignError:
        return Search(trial, given)
    found: Found = []
    failed: dict[str, str] = {}
    for maker, name in results.makers.items():
        there = replace(given, output=maker)
        tried = look(there)
        why = leaving(f"the error is taken at its output, {name}", tried)
        options = [] if tried.refusal is not None else [(Suggestion(None, maker, tried.leaks, why), tried)]
        options += _better(tried, look, there)
        if not options:
            failed[maker] = str(tried.refusal)
        found += sorted(options, key=lambda option: len(option[1].leaks))
    return replace(_found(trial, given, found), results=results, failed=failed)


def _better(trial: Trial, look: Look, given: Given) -> Found:
    """Other points; where positions do not agree or make feedback large, other choices of what positions are, too."""
    found = better_points(trial, look, given)
    if isinstance(trial.refusal, AmbiguousShapeError) and not found:
        return _other_positions(look, given)
    if trial.refusal is None and trial.amount.is_large:
        others = _other_positions(look, given)
        found += [one for one in others if one[1].amount.numbers * _MUCH_SMALLER <= trial.amount.numbers]
    return found


def _other_positions(look: Look, given: Given) -> Found:
    shared = with_positions(given.rule, "shared")
    mixture = full_at(given.rule, look(replace(given, rule=shared)).misfits)
    choices = [
        (shared, "one matrix serves every position"),
        (mixture, "positions count as features where they are not the error's, and one matrix serves them elsewhere"),
        (with_positions(given.rule, "full"), "positions count as features"),
    ]
    found: Found = []
    for rule, what in choices:
        if rule is not None and rule != given.rule:
            found += _with_rule(look, replace(given, rule=rule), what)
    return sorted(found, key=lambda option: (len(option[1].leaks), option[1].amount.numbers))


def _with_rule(look: Look, given: Given, what: str) -> Found:
    """What comes of another rule, with the points as given or, where these are refused or leak, the best others."""
    tried = look(given)
    found: Found = []
    if tried.refusal is not None or tried.leaks:
        found = better_points(tried, look, given)[:1]
    if not found and tried.refusal is None:
        found = [(Suggestion(None, given.output, tried.leaks, leaving("the same points", tried)), tried)]
    return [
        (replace(one, rule=given.rule, why=f"{what}; {_with_amount(one.why, trial)}"), trial) for one, trial in found
    ]


def _with_amount(why: str, trial: Trial) -> str:
    return why if trial.amount.is_large and str(trial.amount) in why else f"{why}; {trial.amount} of feedback"
