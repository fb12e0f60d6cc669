"""Setting up perturbations for a model: which rule perturbs what, and how tangents travel there."""

from __future__ import annotations

from feedalign.assign import Candidate
from feedalign.blocks import layer_names
from feedalign.blueprint import Blueprint
from feedalign.errors import AttachError
from feedalign.perturber import Perturber
from feedalign.probe import training
from feedalign.removable import Removable
from feedalign.rules.activity_perturbed import ActivityPerturbed
from feedalign.rules.base import Perturbing, PointRule, WeightRule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.rules.weight_perturbed import WeightPerturbed
from feedalign.store import FeedbackStore
from feedalign.tangents import CallKey, Carrier, DualCarrier, HandCarrier, NoCarrier, find_path
from feedalign.tangents.by_hand import hook_for
from feedalign.tangents.dual import DualHook


def perturber_for(plan: Blueprint, store: FeedbackStore) -> Perturber | None:
    """Return what perturbs the forward for the rules of a blueprint.

    Args:
        plan: The model read, its rules assigned.
        store: Holds the clock.

    Returns:
        The perturber, or None if no rule draws anything in the forward.

    Raises:
        AttachError: The rules do not agree, or the model needs dual tensors, which carry one direction at a time.
    """
    rules = [rule for rule in plan.rules.values() if isinstance(rule, Perturbing)]
    drawing = [rule for rule in plan.rules.values() if isinstance(rule, WeightRule)]
    # Those that the error reaches: a layer that is unused, or runs under no_grad(), has no gradient.
    parameters = plan.output_block.parameters if drawing else ()
    if not rules:
        return Perturber(plan.model, store, None, 1, points={}, parameters=parameters) if drawing else None
    counts = {rule.num_perturbations for rule in rules}
    if len(counts) > 1:
        raise AttachError(
            f"The rules ask for {' and '.join(map(str, sorted(counts)))} perturbations; all are drawn in one pass, so "
            "give them the same num_perturbations."
        )
    perturbed = [c for c in plan.candidates if isinstance(c.rule, Perturbing) and isinstance(c.rule, PointRule)]
    points = {(c.call.module, c.call.index): c.rule.distribution for c in perturbed if isinstance(c.rule, Perturbing)}
    local = [(c.call.module, c.call.index) for c in perturbed if _is_local(plan, c)]
    _refuse_shallow_greedy(plan, local)
    traveling = [call for call in points if call not in local]
    per_sample = any(isinstance(rule, WeightPerturbed) and rule.per == "sample" for rule in rules)
    return Perturber(
        plan.model,
        store,
        _carrier(plan, traveling, parameters, counts.pop(), per_sample=per_sample),
        rules[0].num_perturbations,
        points=points,
        local=local,
        parameters=parameters,
        distribution=rules[0].distribution,
        perturbs_output=any(isinstance(rule, ActivityPerturbed) and rule.output == "perturbed" for rule in rules),
        per_sample=per_sample,
    )


def _is_local(plan: Blueprint, candidate: Candidate) -> bool:
    return isinstance(candidate.rule, LocalGreedy) and not plan.is_last(candidate)


def _refuse_shallow_greedy(plan: Blueprint, local: list[CallKey]) -> None:
    if not local and any(isinstance(rule, LocalGreedy) for rule in plan.rules.values()):
        raise AttachError(
            "LocalGreedy puts a head after every hidden layer but the last: it needs at least three layers, with a "
            "feedback point of its own below another one. Here no point that it has lies below another: the model has "
            "one hidden layer, or the points below have other rules. fa.ActivityPerturbed() is the same rule without "
            "heads."
        )


def _carrier(
    plan: Blueprint, traveling: list[CallKey], parameters: tuple[str, ...], num: int, *, per_sample: bool
) -> Carrier:
    if not traveling and not parameters:
        return NoCarrier()
    cuts = [(c.call.module, c.call.index) for c in plan.candidates if c.cuts]
    with training(plan.model):
        path = find_path(plan.model, plan.probe, plan.site, cuts, traveling, parameters)
    if not isinstance(path, str):
        return HandCarrier(path, num, cuts=bool(parameters))
    if num > 1 or per_sample:
        option = f"num_perturbations={num}" if num > 1 else 'per="sample"'
        way_out = (
            "Use one perturbation per step; to average over several, run forward and backward several times before the "
            "optimizer steps."
        )
        raise AttachError(
            f"{option} needs tangents that are carried by hand, and here they cannot be, because {path}. "
            + (way_out if num > 1 else 'Use per="batch".')
        )
    return DualCarrier(plan.model, path)


def carry_hooks(plan: Blueprint, perturber: Perturber | None) -> list[Removable]:
    """Set the hooks that tangents need; they come before those of feedback points.

    Args:
        plan: The model read, its rules assigned.
        perturber: What perturbs its forward.

    Returns:
        The hooks.
    """
    if perturber is not None and isinstance(perturber.carrier, DualCarrier) and not perturber.parameters:
        layers = layer_names(name for name, parameter in plan.model.named_parameters() if parameter.requires_grad)
        hooks_on = {name: plan.model.get_submodule(name) for name in layers if name}
        return [at.register_forward_hook(DualHook(perturber.carrier, name)) for name, at in hooks_on.items()]
    if perturber is None or not isinstance(perturber.carrier, HandCarrier):
        return []
    carrier, path = perturber.carrier, perturber.carrier.path
    names = {identity: name for identity, name in plan.probe.parameters.items() if name in set(perturber.parameters)}
    hooks: list[Removable] = []
    for name in dict.fromkeys(module for module, index in path.sources if (module, index) not in path.marks):
        module = plan.model.get_submodule(name)
        # By identity: tied weights stand under another module's name.
        own = {names[id(p)]: local for local, p in module.named_parameters(recurse=False) if id(p) in names}
        hooks += hook_for(carrier, name, module, own).set_on(module)
    return hooks
