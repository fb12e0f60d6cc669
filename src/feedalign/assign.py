"""Which calls are feedback points, and which rule teaches at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from feedalign.blocks import Block, block_of
from feedalign.errors import AttachError, NoFeedbackPointError, PointNotFiredError
from feedalign.linear_like import adjoint_of
from feedalign.points import Points, is_nonlinearity, named_outright, near, select
from feedalign.probe import Call, OutputSite, Probe
from feedalign.rules.base import DirectRule, LayerwiseRule, Rule
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
        return isinstance(self.rule, (DirectRule, Shallow))


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
        points: As given to `attach`; None: all non-linearities before the output that have something to teach.

    Returns:
        The calls.

    Raises:
        NoFeedbackPointError: A point of the user's lies behind the output or has nothing to teach.
        PointNotFiredError: A point of the user's does not fire on the example inputs.
    """
    if points is None:
        names = {name for name, module in model.named_modules() if is_nonlinearity(module)}
        return _distinct([c for c in probe.calls if c.module in names and _obstacle(probe, site, c) is None])
    chosen = select(model, points)
    calls = [call for call in probe.calls if call.module in set(chosen)]
    suited = [call for call in calls if _obstacle(probe, site, call) is None]
    # Of what a glob, a type or a predicate selects, some must serve; of what is named outright, all.
    strictly = chosen if not suited else [name for name in chosen if name in named_outright(points)]
    for name in strictly:
        own = [call for call in calls if call.module == name]
        if not own:
            raise PointNotFiredError(
                f"Feedback point {name!r} does not fire on the example inputs; give inputs that take its path, or "
                "leave it out of points=."
            )
        reasons = [_obstacle(probe, site, call) for call in own]
        if all(reasons):
            raise NoFeedbackPointError(f"{name!r} cannot be a feedback point: {reasons[0]}.")
    return _distinct(suited)


def _distinct(calls: list[Call]) -> list[Call]:
    """Keep the first of several modules that return the same tensor, e.g. an activation and its block."""
    first = {id(call.node): call for call in reversed(calls)}
    return [call for call in calls if first[id(call.node)] is call]


def _obstacle(probe: Probe, site: OutputSite, call: Call) -> str | None:
    """Why a call cannot be a feedback point."""
    order = probe.calls.index(call)
    if order >= site.order or (call.node is not None and call.node is site.node):
        return "it makes the output, where the error itself arrives, or comes after it"
    if call.signature is None:
        return f"it returns {type(call.output).__name__}, not a tensor"
    if call.node is None:
        return "no trainable parameter lies before it"
    if len(call.signature.shape) == 0:
        return "it returns a single number"
    return None


def assign(
    model: nn.Module, probe: Probe, calls: list[Call], rules: dict[str, Rule]
) -> tuple[list[Candidate], dict[str, LayerwiseRule]]:
    """Give each feedback point its rule, and each linear-like layer its layer-wise rule.

    A glob matches a point by its own name or by that of a layer that the point teaches directly.

    Args:
        model: The model.
        probe: The forward on the example inputs.
        calls: The feedback points.
        rules: Globs of names to rules; the first that matches counts.

    Returns:
        The points with their rules and blocks, and the layers with layer-wise feedback.

    Raises:
        AttachError: A glob matches nothing, or a point matches none.
    """
    nodes = [call.node for call in calls if call.node is not None]
    rule_of: dict[int, Rule] = {}
    used: set[str] = set()
    for position, call in enumerate(calls):
        names = [call.module, *layer_names(block_of(model, probe, call.node, nodes).direct)]
        glob = next((glob for glob in rules if any(fnmatchcase(name, glob) for name in names)), None)
        if glob is None:
            raise AttachError(
                f"No rule is given for feedback point {call.module!r}, which teaches {', '.join(names[1:])}; "
                "add a glob that matches it, e.g. '*': fa.Backprop()."
            )
        used.add(glob)
        rule_of[position] = rules[glob]
    gated, used_by_layers = _gated(model, probe, rules)
    _refuse_unused(model, rules, used, used_by_layers)
    cuts = [c.node for i, c in enumerate(calls) if c.node is not None and isinstance(rule_of[i], (DirectRule, Shallow))]
    candidates = [Candidate(call, block_of(model, probe, call.node, cuts), rule_of[i]) for i, call in enumerate(calls)]
    # A point with no layer between it and the one before it has nothing to teach.
    return [candidate for candidate in candidates if candidate.block.parameters], gated


def _gated(model: nn.Module, probe: Probe, rules: dict[str, Rule]) -> tuple[dict[str, LayerwiseRule], set[str]]:
    fired = {call.module for call in probe.calls}
    gated: dict[str, LayerwiseRule] = {}
    used: set[str] = set()
    for name, module in model.named_modules():
        glob = next((glob for glob in rules if fnmatchcase(name, glob)), None)
        if glob is None or name not in fired or adjoint_of(module) is None:
            continue
        used.add(glob)
        rule = rules[glob]
        if isinstance(rule, LayerwiseRule):
            gated[name] = rule
    return gated, used


def _refuse_unused(model: nn.Module, rules: dict[str, Rule], used: set[str], used_by_layers: set[str]) -> None:
    for glob, rule in rules.items():
        if isinstance(rule, LayerwiseRule) and glob not in used_by_layers:
            raise NoFeedbackPointError(
                f"{type(rule).__name__} acts at linear layers: nn.Linear, nn.Conv1d/2d/3d and Transformers' Conv1D; "
                f"none that fires with gradients matches {glob!r}."
            )
        if glob in used | used_by_layers or isinstance(rule, Backprop):
            continue
        if len(rules) > 1:
            names = [name for name, _ in model.named_modules() if name]
            raise AttachError(
                f"The glob {glob!r} matches no feedback point and no layer taught at one. {near(glob, names)}"
            )


def refuse_pointless(rules: dict[str, Rule], candidates: list[Candidate], probe: Probe) -> None:
    """Raise NoFeedbackPointError if a rule that needs feedback points has none."""
    for rule in rules.values():
        if isinstance(rule, (DirectRule, Shallow)) and not any(c.rule is rule for c in candidates):
            hidden = ", ".join(sorted(probe.without_grad)[:4])
            advice = f" {hidden} ran without gradients; checkpoint with use_reentrant=False." if hidden else ""
            raise NoFeedbackPointError(
                f"{type(rule).__name__} found no feedback point: the model has no non-linearity module with trainable "
                "layers before it, other than the one that makes the output. Name modules with points=, or put "
                "fa.FeedbackPoint() after functional activations: h = self.point(torch.tanh(self.fc(x)))." + advice
            )


def layer_names(parameters: tuple[str, ...]) -> list[str]:
    """Return the modules that own the given parameters, once each, in order."""
    return list(dict.fromkeys(layer_of(name) for name in parameters))


def layer_of(parameter: str) -> str:
    """Return the layer that a parameter belongs to; a parametrized weight lies two modules deeper."""
    layer, found, _ = parameter.rpartition("parametrizations.")
    return layer.rstrip(".") if found else parameter.rpartition(".")[0]
