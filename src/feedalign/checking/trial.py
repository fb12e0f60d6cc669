"""What `attach` would make of a model with some arguments, found without making it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from feedalign.assign import Candidate, Rules, as_rules, obstacle
from feedalign.attach import attach, read_model, refuse_unsuited
from feedalign.blocks import Graph, layer_names
from feedalign.blueprint import Blueprint
from feedalign.checking.amount import Amount, amount_of
from feedalign.checking.bottlenecks import bottlenecks
from feedalign.checking.returned import Beside, beside_the_output
from feedalign.describe import Description
from feedalign.errors import AmbiguousShapeError, FeedalignError
from feedalign.late import delays_of
from feedalign.perturbing import perturber_for
from feedalign.placement import Placement
from feedalign.points import SATURATING, Points
from feedalign.probe import Call, Inputs
from feedalign.recurrent.install import stepwise
from feedalign.recurrent.point import LayerSteps
from feedalign.report import Unreached, place_in_words, report, shown, side_notes, unreached
from feedalign.rules.base import DirectRule, PointRule
from feedalign.rules.control import Shallow
from feedalign.rules.drtp import DRTP
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.store import CHILD_NAME, FeedbackStore, Held
from feedalign.suitability import leaks, mend, refuse_unattachable
from feedalign.tangents import DualCarrier
from feedalign.tied import tied_notes
from feedalign.wiring import placement_at, wire

_NOTHING = Unreached((), (), ())
_NO_FEEDBACK = Amount()
# Bytes of feedback beyond which no rule is run for a look at its operations.
_MOST_TO_DRAW = 10**9


@dataclass(frozen=True)
class Given:
    """Arguments for `attach`.

    Attributes:
        rule: As for `attach`.
        points: As for `attach`.
        output: As for `attach`.
    """

    rule: Rules
    points: Points | None = None
    output: str | None = None


@dataclass(frozen=True)
class Trial:
    """What came of it; names only, no part of the graph.

    Attributes:
        refusal: The error that `attach` raises, if any.
        output: Where the error is taken, in words; None where that could not be told.
        description: What teaches each layer; None where `attach` raises.
        notes: Where estimates are biased or slow, and weights that stand in two places.
        points: Names of the feedback points.
        silent: Those among them that send no signal, on purpose.
        modules: The modules at which the rule cuts, as `points=` takes them.
        narrows: Modules that could be points and that all paths pass, one between any two layers of the main path.
        nearest: Layers that could be points and that backprop from the output reaches through its own layers alone.
        recurrent: Recurrent modules whose steps the rule teaches one by one.
        whole: Recurrent modules that run as they are, so that backprop through time stays exact within them.
        cuts: A rule cuts at feedback points, if it finds any.
        leaks: Layers that exact backprop reaches around the rule.
        mend: What to do about them in general.
        gates: Layers with a path to the output on which no other layer lies, and through which exact backprop leaks.
        has_hidden: Trainable layers lie below those that make the output.
        longest: Through how many layers' true weights a signal reaches a layer, at most.
        unreached: Layers to which no signal comes.
        beside: What the model returns beside the output.
        holds: What would be registered on the model; whether the model would keep it is asked elsewhere.
        amount: How much feedback would be held.
        misfits: Modules of feedback points whose positions no feedback matrix of the rule can join to the error's.
        misfit: The shapes of the first of them, in words.
        is_shared: The error and an activation have the same positions, which one matrix serves.
    """

    refusal: FeedalignError | None
    output: str | None = None
    description: Description | None = None
    notes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    narrows: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()
    recurrent: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    cuts: bool = False
    leaks: tuple[str, ...] = ()
    mend: str = ""
    gates: tuple[str, ...] = ()
    has_hidden: bool = True
    longest: int = 0
    unreached: Unreached = _NOTHING
    beside: tuple[Beside, ...] = ()
    holds: frozenset[Held] = frozenset()
    amount: Amount = _NO_FEEDBACK
    misfits: tuple[str, ...] = ()
    misfit: str = ""
    is_shared: bool = False


def attempt(model: nn.Module, example_inputs: Inputs, given: Given) -> Trial:
    """Find what `attach` would make of a model, and leave the model as it was.

    Args:
        model: The model.
        example_inputs: As for `attach`.
        given: The other arguments.

    Returns:
        What it would; an error that it would raise is part of it.
    """
    try:
        refuse_unattachable(model)
        rules = as_rules(given.rule)
        with stepwise(model, rules, given.points) as recurrent:
            plan, graph = read_model(model, rules, example_inputs, given.points, given.output, recurrent)
            try:
                trial, needs_rehearsal = _found(plan, graph)
            finally:
                for forward in list(recurrent):
                    forward.remove()
        if needs_rehearsal and not any(parameter.is_meta for parameter in model.parameters()):
            return _rehearsed(model, example_inputs, given, trial)
    except FeedalignError as error:
        return Trial(error)
    return trial


def _rehearsed(model: nn.Module, example_inputs: Inputs, given: Given, trial: Trial) -> Trial:
    """Whether each operation has a forward-mode derivative shows where the rule runs, and nowhere else."""
    if trial.refusal is None and trial.amount.bytes > _MOST_TO_DRAW:
        note = (
            f"the rule was not run, since its feedback alone is {trial.amount}: operations without forward-mode "
            "derivatives, if there are any, show in attach"
        )
        return replace(trial, notes=(*trial.notes, note))
    attach(model, given.rule, example_inputs=example_inputs, points=given.points, output=given.output).remove()
    return trial


def _found(plan: Blueprint, graph: Graph) -> tuple[Trial, bool]:
    """What came of it, and whether the rule must run to know the rest."""
    refusal, description, perturber, holds, placements = None, None, None, frozenset[Held](), dict[str, Placement]()
    try:
        refuse_unsuited(plan, graph, strict=False)
        wiring = wire(plan, None)
        placements, holds = wiring.placements, wiring.holds
        perturber = perturber_for(plan, FeedbackStore())
        delays_of(plan.model, wiring.sites, plan.output_block.parameters, CHILD_NAME)
        description = report(plan, placements, None, perturber)[0]
    except FeedalignError as error:
        refusal = error
    uncut, stepped = leaks(plan), tuple(forward.name for forward in plan.recurrent)
    crossed = {layer for via in uncut.values() for layer in via}
    suited = _suited(plan)
    cutting = [candidate for candidate in plan.candidates if candidate.cuts]
    misfits = _misfits(plan, cutting)
    trial = Trial(
        refusal,
        place_in_words(plan),
        description,
        (*side_notes(plan, perturber), *tied_notes(plan)),
        points=tuple(candidate.label for candidate in cutting),
        silent=tuple(candidate.label for candidate in cutting if isinstance(candidate.rule, Shallow)),
        modules=tuple(dict.fromkeys(_as_point(plan, candidate.call) for candidate in cutting)),
        narrows=_narrows(plan, graph, suited),
        nearest=_nearest(plan, suited),
        recurrent=stepped,
        whole=tuple(name for name in _recurrent_modules(plan) if name not in stepped),
        cuts=any(isinstance(rule, (PointRule, Shallow)) for rule in plan.rules.values()),
        leaks=shown(uncut),
        mend=mend(plan),
        gates=shown(layer for layer in layer_names(plan.output_block.direct) if layer in crossed),
        has_hidden=bool(plan.candidates or plan.gated or plan.output_block.via),
        longest=max((len(via) for candidate in cutting for via in candidate.block.via.values()), default=0),
        unreached=unreached(plan),
        beside=tuple(beside_the_output(plan, graph)),
        holds=holds,
        amount=amount_of(plan, placements.values()),
        misfits=tuple(dict.fromkeys(candidate.call.module for candidate in misfits)),
        misfit=_shapes(plan, misfits[0]) if misfits else "",
        is_shared=any(one.layout == "shared" and one.num_kept > 1 for one in placements.values()),
    )
    return trial, perturber is not None and isinstance(perturber.carrier, DualCarrier)


def _misfits(plan: Blueprint, cutting: Sequence[Candidate]) -> list[Candidate]:
    """Feedback points at which it cannot be told how the error meets the activation."""
    found = []
    for candidate in cutting:
        if isinstance(candidate.rule, (DirectRule, LocalGreedy)):
            try:
                placement_at(plan, candidate.call, candidate.rule, candidate.label)
            except AmbiguousShapeError:
                found.append(candidate)
    return found


def _shapes(plan: Blueprint, candidate: Candidate) -> str:
    assert candidate.call.signature is not None
    return f"{candidate.label} returns {candidate.call.signature.shape} under an error of {plan.site.signature.shape}"


def _recurrent_modules(plan: Blueprint) -> list[str]:
    """Recurrent modules that run and have something to learn."""
    ran = dict.fromkeys(call.module for call in plan.probe.calls)
    modules = {name: plan.model.get_submodule(name) for name in ran}
    recurrent = {name: module for name, module in modules.items() if isinstance(module, nn.RNNBase)}
    return [name for name, module in recurrent.items() if any(p.requires_grad for p in module.parameters())]


def _suited(plan: Blueprint) -> list[Call]:
    """Calls of modules all of whose calls can be points."""
    unsuited = {call.module for call in plan.probe.calls if not _can_be_point(plan, call)}
    return [call for call in plan.probe.calls if call.module not in unsuited]


def _nearest(plan: Blueprint, suited: Sequence[Call]) -> tuple[str, ...]:
    """Layers that can be points and that backprop from the output reaches through its own layers alone."""
    known, ends = {call.module for call in suited}, set(plan.output_block.direct)
    last = set(layer_names(ends))
    return tuple(name for name, via in plan.output_block.via.items() if name in known and last.issuperset(via))


def _narrows(plan: Blueprint, graph: Graph, calls: Sequence[Call]) -> tuple[str, ...]:
    found = set(bottlenecks(plan.model, graph, plan.site.node, calls))
    return tuple(dict.fromkeys(_as_point(plan, call) for call in calls if call.module in found))


def _as_point(plan: Blueprint, call: Call) -> str:
    """The module to name in `points=`; a recurrent layer has that of its module."""
    is_layer = isinstance(plan.model.get_submodule(call.module), LayerSteps)
    return call.module.rpartition(".")[0] if is_layer else call.module


def _can_be_point(plan: Blueprint, call: Call) -> bool:
    module = plan.model.get_submodule(call.module)
    if obstacle(plan.probe, plan.site, call) is not None:
        return False
    for rule in plan.rules.values():
        if isinstance(rule, DRTP) and not rule.allow_unbounded and not isinstance(module, SATURATING):
            return False
        if isinstance(rule, (DirectRule, LocalGreedy)):
            try:
                placement_at(plan, call, rule, call.module)
            except FeedalignError:
                return False
    return True
