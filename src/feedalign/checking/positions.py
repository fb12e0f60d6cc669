"""Other choices of a rule's option `positions`, for models whose error meets activations with other positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from feedalign.assign import Rules
from feedalign.rules.base import DirectRule, Positions, Rule
from feedalign.rules.local_greedy import LocalGreedy


def with_positions(rule: Rules, positions: Positions) -> Rules:
    """Return a rule or a mixture with `positions` set wherever a rule has this option.

    Args:
        rule: As for `attach`.
        positions: What to set.

    Returns:
        The same rules but for that.
    """
    if isinstance(rule, Mapping):
        return {glob: _set(one, positions) for glob, one in rule.items()}
    return _set(rule, positions)


def full_at(rule: Rules, points: tuple[str, ...]) -> Rules | None:
    """Return the mixture in which positions count as features at some points, and are shared at all others.

    Args:
        rule: As for `attach`.
        points: Names of modules.

    Returns:
        The mixture; None where the rules are one already, or these points are none.
    """
    if isinstance(rule, Mapping) or not points:
        return None
    return {**dict.fromkeys(points, _set(rule, "full")), "*": _set(rule, "shared")}


def _set(rule: Rule, positions: Positions) -> Rule:
    return replace(rule, positions=positions) if isinstance(rule, (DirectRule, LocalGreedy)) else rule
