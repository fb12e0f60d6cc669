"""Weights that stand in two places, of which the output is one."""

from __future__ import annotations

from feedalign.blocks import layer_of
from feedalign.blueprint import Blueprint
from feedalign.rules.base import PointRule, Rule

_MOST_NAMED = 3


def tied_notes(plan: Blueprint) -> list[str]:
    """Return sentences on weights that feedback points teach, and that make the output too.

    What such a weight needs at the output and what a random projection asks of it lower down add up.

    Args:
        plan: The model read, its rules assigned.

    Returns:
        One sentence for each such parameter.
    """
    from_output_on = {call.module for call in plan.probe.calls[plan.site.order :]}
    notes = []
    for first, *others in _names(plan):
        points = [c.label for c in plan.candidates if _is_astray(c.rule) and first in c.block.parameters]
        is_last = any(layer_of(name) in from_output_on for name in (first, *others))
        if points and others and (is_last or first in plan.output_block.direct):
            last = f" and {len(points) - _MOST_NAMED} more" if len(points) > _MOST_NAMED else ""
            which = f"{', '.join(points[:_MOST_NAMED])}{last}"
            teaches = "teaches" if len(points) == 1 else "teach"
            notes.append(
                f"{first} is also {', '.join(others)}: what {which} {teaches} it changes the layer at the "
                "output too, whatever the error asks there. Untie them; models of Transformers take "
                "tie_word_embeddings=False"
            )
    return notes


def _is_astray(rule: Rule) -> bool:
    """Whether a rule sends signals that are not the gradient, not even on average."""
    return isinstance(rule, PointRule) and not rule.unbiased


def _names(plan: Blueprint) -> list[list[str]]:
    """The names of each trainable parameter, the model's first one first."""
    names: dict[int, list[str]] = {}
    for name, parameter in plan.model.named_parameters(remove_duplicate=False):
        if id(parameter) in plan.probe.parameters:
            names.setdefault(id(parameter), []).append(name)
    return list(names.values())
