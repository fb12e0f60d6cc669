"""`check`: tell, before any training, what a rule would teach in a model, what it would not, and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from feedalign.assign import Rules
from feedalign.blocks import layer_of
from feedalign.checking.example import inputs_of
from feedalign.checking.suggest import Search, suggest
from feedalign.checking.trial import Trial, attempt
from feedalign.checking.verdict import UNUSED, Check, LayerCheck, Teacher, Verdict, short
from feedalign.describe import Row
from feedalign.errors import FeedalignError
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
        rule: As for `attach`.
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
    inputs = example_inputs

    def look(points: Points | None, output: str | None) -> Trial:
        return attempt(model, rule, inputs, points, output)

    trial = look(points, output)
    search = suggest(model, inputs, trial, look, points, output)
    shown = search.trial
    layers = _layers(shown)
    notes += _notes(model, search)
    # Asked once, and not in every trial: it runs a state_dict of the model's own.
    refusal, unkept = trial.refusal, _unkept(model, shown)
    if refusal is not None and unkept is not None:
        notes.append(f"with what is suggested attach raises {_sentence(unkept)}")
    refusal = refusal or unkept
    return Check(
        names if shown.description is None else shown.description.rule,
        "refused" if refusal is not None else _verdict(layers, shown),
        None if refusal is None else _sentence(refusal),
        shown.output,
        search.suggestions[0] if trial.refusal is not None and search.suggestions else None,
        shown.points if shown.refusal is None else (),
        layers,
        tuple(notes),
        search.suggestions,
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
    return "partly" if untaught or any(row.leaks for row in layers) else "fine"


def _layers(trial: Trial) -> tuple[LayerCheck, ...]:
    """One row for each layer, from the rows of the description, which are one for each signal."""
    if trial.description is None:
        return ()
    signals: dict[str, list[Row]] = {}
    reasons = _reasons(trial)
    for row in trial.description.rows:
        if row.layer not in reasons:
            signals.setdefault(row.layer, []).append(row)
    taught = [_layer(name, rows, trial) for name, rows in signals.items()]
    return (*taught, *(LayerCheck(layer, (), why=why) for layer, why in reasons.items()))


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


def _reasons(trial: Trial) -> dict[str, str]:
    """Why nothing teaches a layer."""
    makes = {layer: beside.name for beside in trial.beside for layer in beside.layers}
    lost = "no gradient leads to it from the output: a detach(), no_grad(), or a result that is not used"
    why = {
        # The model itself runs; whether it uses parameters of its own cannot be told.
        layer: lost if layer == "(model)" else UNUSED
        for layer in trial.unreached.unused
    }
    why |= dict.fromkeys(trial.unreached.hidden, "runs without gradients, as under torch.no_grad()")
    for layer in trial.unreached.aside:
        why[layer] = f"has no part in the output, but in {makes[layer]!r}" if layer in makes else lost
    return why


def _notes(model: nn.Module, search: Search) -> list[str]:
    trial, notes = search.trial, list(search.trial.notes)
    left = min((s.leaks for s in search.suggestions), key=len, default=trial.leaks)
    if trial.leaks and left:
        notes.append(_by_hand(trial, left))
    if trial.beside and trial.points:
        names = " or ".join(repr(beside.name) for beside in trial.beside)
        reached = _joined(beside.layers for beside in trial.beside)
        notes.append(
            f"a loss on {names}, returned beside the output, teaches {short(reached)} by exact gradients, and nothing "
            "below a feedback point"
        )
    if trial.whole and trial.points:
        is_one = len(trial.whole) == 1
        runs = "runs as a whole: backprop through time stays exact within it"
        run = "run as they are: backprop through time stays exact within them"
        notes.append(f"{short(trial.whole)} {runs if is_one else run}")
    notes += _on_results(search)
    if not trial.has_hidden:
        notes.append("no trainable layer lies below those that make the output: there is nothing for a rule to teach")
    frozen = _frozen(model)
    if frozen:
        notes.append(f"frozen (requires_grad=False): {short(frozen)}")
    return notes


def _on_results(search: Search) -> list[str]:
    """Where the error could be taken in a model that returns no tensor."""
    notes = [f"output={maker!r} does not serve: {why}" for maker, why in search.failed.items()]
    if search.results is not None and not search.results:
        notes.append(
            "no module makes what the model returns: return the tensor itself, or let it pass an nn.Identity of the "
            "model's, which output= can name"
        )
    if search.results and (len(search.results) > 1 or search.failed):
        made = ", ".join(f"{what} by {maker!r}" for maker, what in search.results.items())
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
