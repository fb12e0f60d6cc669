"""Which calls are feedback points, and which rule teaches at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.blocks import Block, Graph, layer_names, leading_to
from feedalign.errors import AttachError, NoFeedbackPointError, PointNotFiredError
from feedalign.linear_like import adjoint_of
from feedalign.nested import named_tensors
from feedalign.points import Points, is_nonlinearity, named_outright, near, select
from feedalign.probe import Call, OutputSite, Probe
from feedalign.rules.base import LayerwiseRule, PointRule, Rule, WeightRule, glob_for
from feedalign.rules.control import Backprop, Shallow

Rules = Rule | Mapping[str, Rule]


@dataclass(frozen=True)
class Candidate:
    """A call that may receive a teaching signal, the parameters it would teach, and its rule."""

    call: Call
    block: Block
    rule: Rule

    @property
    def label(self) -> str:
        """The module's name, with the call's number if it is not the first."""
        return self.call.module if self.call.index == 0 else f"{self.call.module}#{self.call.index + 1}"

    @property
    def cuts(self) -> bool:
        """Whether the graph is cut here."""
        return _cuts(self.rule)


@dataclass(frozen=True)
class Gated:
    """A layer whose input gradient is made with a feedback weight: the rule, and the layers below taught so."""

    rule: LayerwiseRule
    below: tuple[str, ...]


def as_rules(rule: Rules) -> dict[str, Rule]:
    """Return the rule, or the mixture, as globs of layer and point names to rules.

    Args:
        rule: One rule, or a mapping of globs to rules.

    Returns:
        The mapping; `{"*": rule}` for one rule.

    Raises:
        AttachError: Something in it is not an instance of a rule.
    """
    mixture = dict(rule) if isinstance(rule, Mapping) else {"*": rule}
    if not mixture:
        raise AttachError("The mapping of rules is empty; give e.g. {'conv*': fa.Shallow(), 'fc*': fa.DFA()}.")
    for one in mixture.values():
        if isinstance(one, WeightRule) and len(mixture) > 1:
            raise AttachError(
                f"fa.{type(one).__name__} sends a vector of its own to every parameter and mixes with no other rule; "
                "give it alone, and freeze what it is not to train with requires_grad_(False) before attach."
            )
        if isinstance(one, type) and issubclass(one, Rule):
            raise AttachError(f"The rule is the class {one.__name__}; give an instance of it: fa.{one.__name__}().")
        if not isinstance(one, Rule):
            raise AttachError(
                f"The rule is {one!r}; give one of feedalign's, e.g. fa.DFA(), or a mapping of globs to rules."
            )
    return mixture


def find_calls(model: nn.Module, probe: Probe, site: OutputSite, points: Points | None) -> list[Call]:
    """Return the calls at which teaching signals may enter, in the order in which they fire.

    Args:
        model: The model.
        probe: The forward on the example inputs.
        site: Where the error is taken.
        points: As given to `attach`; None: all non-linearities before the output that have something to teach, but
            those that lead to other results of the model alone.

    Returns:
        The calls.

    Raises:
        NoFeedbackPointError: A point of the user's lies behind the output or has nothing to teach.
        PointNotFiredError: A point of the user's does not fire on the example inputs.
    """
    if points is None:
        names = {name for name, module in model.named_modules() if is_nonlinearity(module)}
        suited = [c for c in probe.calls if c.module in names and obstacle(probe, site, c) is None]
        # The error says nothing about these, and a cut there would leave the other result without a gradient.
        stray = _leading_elsewhere(probe, site)
        return _distinct([call for call in suited if id(call.node) not in stray])
    chosen = select(model, points)
    calls = [call for call in probe.calls if call.module in set(chosen)]
    suited = [call for call in calls if obstacle(probe, site, call) is None]
    # Of what a glob, a type or a predicate selects, some must serve; of what is named outright, all.
    strictly = chosen if not suited else [name for name in chosen if name in named_outright(points)]
    for name in strictly:
        own = [call for call in calls if call.module == name]
        if not own:
            raise PointNotFiredError(
                f"Feedback point {name!r} does not fire on the example inputs; give inputs that take its path, or "
                "leave it out of points=."
            )
        reasons = [obstacle(probe, site, call) for call in own]
        if all(reasons):
            raise NoFeedbackPointError(f"{name!r} cannot be a feedback point: {reasons[0]}.")
    return _distinct(suited)


def _leading_elsewhere(probe: Probe, site: OutputSite) -> dict[int, Node]:
    """Graph nodes that lead to what the model returns beside the output, and not to the output."""
    if isinstance(probe.output, Tensor) or site.node is None:
        return {}
    ours = leading_to([site.node])
    returned = leading_to(tensor.grad_fn for _, tensor in named_tensors(probe.output))
    return {identity: node for identity, node in returned.items() if identity not in ours}


def _distinct(calls: list[Call]) -> list[Call]:
    """Keep the first of several modules that return the same tensor, e.g. an activation and its block."""
    first = {id(call.node): call for call in reversed(calls)}
    return [call for call in calls if first[id(call.node)] is call]


def obstacle(probe: Probe, site: OutputSite, call: Call) -> str | None:
    """Return why a call cannot be a feedback point; None if it can."""
    order = probe.calls.index(call)
    if order >= site.order or (call.node is not None and call.node is site.node):
        return "it makes the output, where the error itself arrives, or comes after it"
    if call.signature is None:
        kind = type(call.output).__name__
        return f"it returns {kind}, not a tensor; name the module inside or behind it whose output is the tensor"
    if call.node is None:
        return "no trainable parameter lies before it"
    if len(call.signature.shape) == 0:
        return "it returns a single number"
    return None


def assign(
    model: nn.Module, probe: Probe, graph: Graph, calls: list[Call], rules: dict[str, Rule]
) -> tuple[list[Candidate], dict[str, Gated]]:
    """Give each feedback point its rule, and find the layers whose input gradient is made with feedback weights.

    A glob matches a point by its own name or by that of a layer that the point teaches directly, and a layer by its own
    name or by that of such a point.

    Args:
        model: The model.
        probe: The forward on the example inputs.
        graph: Its graph.
        calls: The feedback points.
        rules: Globs of names to rules; the first that matches counts.

    Returns:
        The points with their rules and blocks, and the gated layers.

    Raises:
        AttachError: A glob matches nothing, or a point matches none.
    """
    nodes = [call.node for call in calls if call.node is not None]
    taught = [layer_names(graph.block(call.node, nodes).direct) for call in calls]
    chosen = [glob_for([call.module, *layers], rules) for call, layers in zip(calls, taught, strict=True)]
    for call, layers, glob in zip(calls, taught, chosen, strict=True):
        if glob is None:
            raise AttachError(
                f"No rule is given for feedback point {call.module!r}, which teaches {', '.join(layers)}; add a glob "
                "that matches it, e.g. '*': fa.Backprop()."
            )
    points = {layer: call.module for call, layers in zip(calls, taught, strict=True) for layer in layers}
    layers = layer_names(probe.parameters.values())
    layer_globs = {layer: glob_for([layer, *filter(None, [points.get(layer)])], rules) for layer in layers}
    _refuse_unused(model, rules, {*chosen, *layer_globs.values()})
    rule_of = [rules[glob] for glob in chosen if glob is not None]
    cuts = [call.node for call, rule in zip(calls, rule_of, strict=True) if call.node is not None and _cuts(rule)]
    learners = {layer: rules[glob] for layer, glob in layer_globs.items() if glob is not None}
    gated = _gated(model, probe, graph, cuts, learners)
    _refuse_gateless(rules, gated)
    candidates = [
        Candidate(call, graph.block(call.node, cuts, gated), rule) for call, rule in zip(calls, rule_of, strict=True)
    ]
    # A point with no layer between it and the one before it has nothing to teach.
    return [candidate for candidate in candidates if candidate.block.parameters], gated


def _cuts(rule: Rule) -> bool:
    return isinstance(rule, (PointRule, Shallow))


def _gated(
    model: nn.Module, probe: Probe, graph: Graph, cuts: list[Node], learners: dict[str, Rule]
) -> dict[str, Gated]:
    """The layers right above those that a layer-wise rule teaches."""
    gated: dict[str, Gated] = {}
    for name in dict.fromkeys(call.module for call in probe.calls):
        if adjoint_of(model.get_submodule(name)) is None:
            continue
        below = graph.below(name, cuts)
        rules = [rule for layer in below if isinstance(rule := learners.get(layer), LayerwiseRule)]
        if rules:
            gated[name] = Gated(rules[0], tuple(below))
    return gated


def _refuse_unused(model: nn.Module, rules: dict[str, Rule], used: set[str | None]) -> None:
    for glob, rule in rules.items():
        if glob not in used and not isinstance(rule, Backprop) and len(rules) > 1:
            names = [name for name, _ in model.named_modules() if name]
            raise AttachError(
                f"The glob {glob!r} matches no feedback point and no trainable layer. {near(glob, names)}"
            )


def _refuse_gateless(rules: dict[str, Rule], gated: dict[str, Gated]) -> None:
    for glob, rule in rules.items():
        if isinstance(rule, LayerwiseRule) and not any(gate.rule is rule for gate in gated.values()):
            raise NoFeedbackPointError(
                f"{type(rule).__name__} sends the error back through linear layers: nn.Linear, nn.Conv1d/2d/3d, "
                "Transformers' Conv1D and PyTorch Geometric's Linear; none that fires with gradients lies above a "
                f"trainable layer that {glob!r} matches."
            )


def refuse_pointless(model: nn.Module, rules: dict[str, Rule], candidates: list[Candidate], probe: Probe) -> None:
    """Raise NoFeedbackPointError if a rule that needs feedback points has none."""
    for rule in rules.values():
        if isinstance(rule, (PointRule, Shallow)) and not any(c.rule is rule for c in candidates):
            if not candidates and (frozen := _frozen_below(model, probe)):
                raise NoFeedbackPointError(
                    f"{type(rule).__name__} found no feedback point: all that lies below the model's non-linearities "
                    f"is frozen (requires_grad=False): {frozen}. Unfreeze what is to learn, then attach; where the "
                    "output layer alone is to learn, no rule is needed."
                )
            hidden = ", ".join(sorted(probe.without_grad)[:4])
            advice = f" {hidden} ran without gradients; checkpoint with use_reentrant=False." if hidden else ""
            raise NoFeedbackPointError(
                f"{type(rule).__name__} found no feedback point: the model has no non-linearity module with trainable "
                "layers before it, other than the one that makes the output. Name modules with points=, or put "
                "fa.FeedbackPoint() after functional activations: h = self.point(torch.tanh(self.fc(x)))." + advice
            )


def _frozen_below(model: nn.Module, probe: Probe) -> str:
    """Frozen layers that ran, if non-linearities ran and none of them has anything trainable below it; else nothing."""
    acted = [call for call in probe.calls if is_nonlinearity(model.get_submodule(call.module))]
    if not acted or any(call.node is not None for call in acted):
        return ""
    names = [name for name in dict.fromkeys(call.module for call in probe.calls) if _is_frozen(model, name)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _is_frozen(model: nn.Module, name: str) -> bool:
    own = list(model.get_submodule(name).parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
