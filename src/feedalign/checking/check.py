"""`check`: tell, before any training, what a rule would teach in a model, what it would not, and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from feedalign.assign import Rules
from feedalign.blocks import layer_of
from feedalign.checking.example import inputs_of
from feedalign.checking.lengths import one_step_shorter
from feedalign.checking.returned import Beside
from feedalign.checking.suggest import Search, suggest
from feedalign.checking.trial import Given, Trial, attempt
from feedalign.checking.verdict import UNUSED, Check, LayerCheck, Teacher, Verdict, counted, short
from feedalign.describe import Row
from feedalign.errors import AmbiguousShapeError, FeedalignError, ForwardModeError
from feedalign.points import Points
from feedalign.probe import Inputs
from feedalign.rules.dfa import DFA
from feedalign.suitability import refuse_unattachable, refuse_unkept

_DEFAULT_RULE = DFA()


def check(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    rule: Rules = _DEFAULT_RULE,
    points: Points | None = None,
    output: str | None = None,
) -> Check:
    """Tell what `attach` would make of a model, and what to change. The model is left as it was.

    It reads the model as `attach` does, on one forward or a few, draws no feedback, and tries what it suggests. Where
    `attach` would raise, the error's sentence is part of the result.

    Args:
        model: Any module, as for `attach`.
        example_inputs: As for `attach`. None: the model's own `dummy_inputs`, which those of Transformers have, or
            numbers for an `nn.Sequential` that starts with an `nn.Linear`.
        rule: As for `attach`. Its option `positions` says how one error meets activations with positions (pixels,
            tokens, steps), where shapes do not tell.
        points: As for `attach`.
        output: As for `attach`.

    Returns:
        A verdict, a row for each layer, and suggestions; `str()` of it is a table.
    """
    names = " + ".join(map(repr, rule.values())) if isinstance(rule, Mapping) else repr(rule)
    notes: list[str] = []
    try:
        refuse_unattachable(model)
        if example_inputs is None:
            example_inputs, read_on = inputs_of(model)
            notes.append(read_on)
    except FeedalignError as error:
        return Check(names, "refused", _sentence(error))
    inputs, given = example_inputs, Given(rule, points, output)
    barred: list[FeedalignError] = []

    def look(arguments: Given) -> Trial:
        found = attempt(model, inputs, arguments)
        barred.extend([found.refusal] if isinstance(found.refusal, ForwardModeError) else [])
        return found

    trial = look(given)
    search = suggest(model, inputs, trial, look, given)
    shown = search.trial
    layers = _layers(shown)
    is_barred = bool(barred) and trial.refusal not in barred and bool(trial.refusal or shown.leaks)
    notes += _notes(model, search, barred[0] if is_barred else None)
    notes += _on_positions(model, inputs, search, points)
    # Asked once, and not in every trial: it runs a state_dict of the model's own.
    refusal, unkept = trial.refusal, _unkept(model, shown)
    if refusal is not None and unkept is not None:
        notes.append(f"with what is suggested attach raises {_sentence(unkept)}")
    refusal = refusal or unkept
    assumed = search.suggestions[0] if trial.refusal is not None and search.suggestions else None
    as_given = shown.description is None or (assumed is not None and assumed.rule is not None)
    return Check(
        names if as_given or shown.description is None else shown.description.rule,
        "refused" if refusal is not None else _verdict(layers, shown),
        None if refusal is None else _sentence(refusal),
        shown.output,
        assumed,
        shown.points if shown.refusal is None else (),
        layers,
        tuple(notes),
        search.suggestions,
        shown.amount.numbers,
        shown.amount.bytes,
    )


def _unkept(model: nn.Module, trial: Trial) -> FeedalignError | None:
    """What `attach` raises at last, where all else is well, if the model would lose its feedback."""
    try:
        refuse_unkept(model, () if trial.refusal is not None else trial.holds)
    except FeedalignError as error:
        return error
    return None


def _sentence(error: FeedalignError) -> str:
    return f"{type(error).__name__}: {error}"


def _verdict(layers: Sequence[LayerCheck], trial: Trial) -> Verdict:
    excused = {*trial.unreached.unused}
    if not trial.cuts:
        # Where nothing is cut, the loss on another result is sent down by the same rule.
        excused |= {layer for beside in trial.beside for layer in beside.layers}
    untaught = [row for row in layers if not row.taught_by and row.layer not in excused and not row.points]
    return "partly" if untaught or not layers or any(row.leaks for row in layers) else "fine"


def _layers(trial: Trial) -> tuple[LayerCheck, ...]:
    """One row for each layer, from the rows of the description, which are one for each signal."""
    if trial.description is None:
        return ()
    signals: dict[str, list[Row]] = {}
    behind, reasons = _behind(trial), _reasons(trial)
    for row in trial.description.rows:
        if row.layer not in reasons and row.layer not in behind:
            signals.setdefault(row.layer, []).append(row)
    taught = [_layer(name, rows, trial) for name, rows in signals.items()]
    untaught = [LayerCheck(layer, (), why=why) for layer, why in reasons.items()]
    return (*taught, *(LayerCheck(layer, ("error",), why=why) for layer, why in behind.items()), *untaught)


def _layer(name: str, rows: Sequence[Row], trial: Trial) -> LayerCheck:
    at_points = [row for row in rows if row.point in trial.points]
    live = [row for row in at_points if row.point not in trial.silent]
    exact = [row for row in rows if row.point == "-" and not row.is_direct]
    others = [row for row in rows if row.point == "-" and row.is_direct]
    found: dict[Teacher, bool] = {
        "rule": bool(live or others),
        "error": any(row.point == "output" for row in rows),
        "backprop": bool(exact),
    }
    taught_by: tuple[Teacher, ...] = tuple(teacher for teacher, is_so in found.items() if is_so)
    return LayerCheck(
        name,
        taught_by,
        tuple(row.point for row in at_points),
        _joined(row.through for row in live),
        _joined(row.through for row in exact if row.uncut),
        "" if taught_by else "the rule sends no signal to its points, on purpose",
    )


def _joined(several: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in several for name in names))


def _behind(trial: Trial) -> dict[str, str]:
    """Layers between the output and a result, which a loss on this result passes."""
    known = {*trial.unreached.unused, *trial.unreached.aside}
    behind = {layer: beside.name for beside in trial.beside if beside.is_behind for layer in beside.layers}
    return {layer: f"behind the output, in {name!r}" for layer, name in behind.items() if layer in known}


def _reasons(trial: Trial) -> dict[str, str]:
    """Why nothing teaches a layer."""
    behind = _behind(trial)
    makes = {layer: beside.name for beside in trial.beside for layer in beside.layers}
    lost = "no gradient leads to it from the output: a detach(), no_grad(), or a result that is not used"
    why = {
        # The model itself runs; whether it uses parameters of its own cannot be told.
        layer: lost if layer == "(model)" else UNUSED
        for layer in trial.unreached.unused
        if layer not in behind
    }
    why |= dict.fromkeys(trial.unreached.hidden, "runs without gradients, as under torch.no_grad()")
    for layer in (*trial.unreached.aside, *(layer for layer in why if layer in makes)):
        if layer not in behind:
            why[layer] = f"has no part in the output, but in {makes[layer]!r}" if layer in makes else lost
    return why


def _notes(model: nn.Module, search: Search, barred: FeedalignError | None) -> list[str]:
    trial, notes = search.trial, list(search.trial.notes)
    left = min((s.leaks for s in search.suggestions), key=len, default=trial.leaks)
    if barred is not None:
        notes.append(f"other points were tried, and refused: {_sentence(barred)}")
    elif trial.leaks and left:
        notes.append(_by_hand(trial, left))
    notes += _on_losses(trial)
    if trial.whole and trial.points:
        is_one = len(trial.whole) == 1
        runs = "runs as a whole: backprop through time stays exact within it"
        run = "run as they are: backprop through time stays exact within them"
        notes.append(f"{short(trial.whole)} {runs if is_one else run}")
    notes += _on_results(search)
    if trial.amount.is_large:
        num_own = sum(parameter.numel() for parameter in model.parameters())
        notes.append(f"all feedback together: {trial.amount}; the model has {counted(num_own, 'parameter')}")
    if not trial.has_hidden:
        notes.append("no trainable layer lies below those that make the output: there is nothing for a rule to teach")
    frozen = _frozen(model)
    if frozen:
        notes.append(f"frozen (requires_grad=False): {short(frozen)}")
    return notes


def _on_losses(trial: Trial) -> list[str]:
    """What losses on results beside the output teach."""
    if not trial.points:
        return []
    notes = []
    aside = [beside for beside in trial.beside if beside.layers and not beside.is_behind]
    if aside:
        reached = short(_joined(beside.layers for beside in aside))
        notes.append(
            f"a loss on {_either(aside)}, returned beside the output, teaches {reached} by exact gradients, and "
            "nothing below a feedback point"
        )
    behind = [beside for beside in trial.beside if beside.is_behind]
    if behind:
        reached = short(_joined(beside.layers for beside in behind))
        notes.append(
            f"a loss on {_either(behind)} passes the output: it teaches what the output's error does, and {reached} by "
            "exact gradients"
        )
    dead = [beside for beside in trial.beside if beside.is_dead]
    if dead:
        notes.append(
            f"a loss on {_either(dead)}, returned beside the output, has no gradient: feedback points cut all its paths"
        )
    return notes


def _either(several: Sequence[Beside]) -> str:
    return " or ".join(repr(beside.name) for beside in several)


def _on_positions(model: nn.Module, inputs: Inputs, search: Search, points: Points | None) -> list[str]:
    """Why some default points are none, and sizes that agree by chance."""
    trial, notes = search.trial, []
    if trial.refusal is not None:
        return []
    asked = trial if search.given.points is points else attempt(model, inputs, replace(search.given, points=points))
    if asked.misfits:
        notes.append(
            f"no feedback point at {short(asked.misfits)}: {asked.misfit}, and one matrix for every position needs the "
            "same positions. What lies there is taught through the true weights between it and the points above"
        )
    for which, shorter in one_step_shorter(inputs) if trial.is_shared else ():
        other = attempt(model, shorter, search.given)
        if isinstance(other.refusal, AmbiguousShapeError):
            notes.append(
                f"lengths of the example inputs agree, perhaps by chance: with {which} one step shorter, "
                f"{other.misfit}, and can be no feedback point. If lengths differ in training, check and attach on "
                "inputs whose lengths differ; else a forward of training raises FeedbackShapeError"
            )
            break
    return notes


def _on_results(search: Search) -> list[str]:
    """Where the error could be taken in a model that returns no tensor."""
    results = search.results
    if results is None:
        return []
    notes = [f"output={maker!r} does not serve: {why}" for maker, why in search.failed.items()]
    identity = "let it pass an nn.Identity of the model's, which output= can name"
    if not results.makers:
        notes.append(f"no module makes what the model returns: return the tensor itself, or {identity}")
    elif results.unmade:
        notes.append(
            f"no single module makes {short([repr(name) for name in results.unmade])}: for a loss on it {identity}"
        )
    beside = search.trial.beside
    are_behind = bool(beside) and all(one.is_behind for one in beside)
    if search.failed or (len(results.makers) > 1 and not are_behind):
        made = ", ".join(f"{what} by {maker!r}" for maker, what in results.makers.items())
        notes.append(
            f"the error is taken at one place, and the model returns results made at others ({made}): for losses on "
            "all of them, let the model join them into one tensor, return this, and split it in the loss"
        )
    return notes


def _by_hand(trial: Trial, leaks: Sequence[str]) -> str:
    """What to do about paths that no other points cut."""
    reached = f"exact backprop reaches {short(leaks)}. "
    if not trial.points:
        return reached + trial.mend
    takers = short(trial.gates)
    return (
        f"{reached}No module's output that could be a point cuts these paths: put a fa.FeedbackPoint() on what "
        f"{takers} takes, h = self.point(h), and name it beside the other points"
    )


def _frozen(model: nn.Module) -> list[str]:
    """Layers all of whose parameters are frozen."""
    trains: dict[str, bool] = {}
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        trains[layer] = trains.get(layer, False) or parameter.requires_grad
    return [layer or "(model)" for layer, does in trains.items() if not does]
