"""Limits of hardware as a user types them: `error-bits=4,noise=0.1,delay=2`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import feedalign as fa
from feedalign.rules import DirectRule, Rule
from feedalign_lab.errors import SettingError, UnknownNameError


def _full_scale(typed: str) -> float | str:
    """A number, or the word for one; what is neither is refused where it is used."""
    try:
        return float(typed)
    except ValueError:
        return typed


_KINDS: Mapping[str, Callable[[str], Any]] = {
    "error-bits": int,
    "error-ternary": float,
    "error-rounding": str,
    "error-scale": _full_scale,
    "feedback-bits": int,
    "feedback-ternary": float,
    "feedback-density": float,
    "noise": float,
    "delay": int,
}
LIMIT_NAMES = tuple(_KINDS)
"""What can be limited."""


@dataclass(frozen=True)
class GivenLimits:
    """What was asked for.

    Attributes:
        text: As it was typed.
        limits: Of the rule.
        density: Share of the feedback's entries that are not zero; None: all.
    """

    text: str = ""
    limits: fa.Limits = field(default_factory=fa.Limits)
    density: float | None = None

    def on(self, rule: Rule) -> Rule:
        """A rule under these limits; one that is no direct rule as it is.

        Args:
            rule: The rule.

        Returns:
            The rule under the limits.

        Raises:
            SettingError: They mean nothing for a direct rule.
        """
        if not isinstance(rule, DirectRule) or not self.text:
            return rule
        if (need := self.lack(rule)) is not None:
            raise SettingError(f"{rule.name} {need}: leave that out of --limits, or {rule.name} out of the rules.")
        return replace(rule, limits=self.limits)

    def lack(self, rule: Rule) -> str | None:
        """Why a rule cannot have these limits.

        Args:
            rule: The rule.

        Returns:
            The reason in words, e.g. "takes no delay=1 of --limits, since ..."; None where it can, or is left as it is.
        """
        if not isinstance(rule, DirectRule):
            return None
        for name in self.limits.given():
            if name in rule.refused_limits:
                typed = ",".join(part for part in self.text.split(",") if part.startswith(name))
                return f"takes no {typed} of --limits ({rule.refused_limits[name]})"
        if self.density is not None and rule.learns_feedback:
            return f"takes no feedback-density={self.density:g} of --limits (it learns its feedback, every entry)"
        return None

    def draw(self, rule: Rule) -> fa.Draw | None:
        """How feedback is drawn; None: as is the rule's own."""
        if self.density is None or not isinstance(rule, DirectRule):
            return None
        return fa.Sparse(self.density, rule.default_draw)


def parse_limits(text: str | None) -> GivenLimits:
    """Read limits.

    Args:
        text: `name=value` with commas between them; None or empty: none.

    Returns:
        The limits.

    Raises:
        UnknownNameError: There is no such limit.
        SettingError: A value is none, is missing or out of range, or two say the same.
    """
    given: dict[str, Any] = {}
    typed: list[str] = []
    for part in (part.strip() for part in (text or "").split(",") if part.strip()):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in _KINDS:
            raise UnknownNameError("limit", name, LIMIT_NAMES)
        if not equals or name in given:
            raise SettingError(f"--limits {part}: give each limit once, as {name}=value.")
        try:
            given[name] = _KINDS[name](value)
            typed.append(f"{name}={value}")
        except ValueError:
            kind = "whole number" if _KINDS[name] is int else "number"
            raise SettingError(f"--limits {part}: {value!r} is no {kind}.") from None
    try:
        error, feedback = _converter(given, "error"), _converter(given, "feedback")
        limits = fa.Limits(error, feedback, given.get("noise", 0.0), given.get("delay", 0))
        density = given.get("feedback-density")
        if density is not None:
            fa.Sparse(density)
    except fa.errors.AttachError as refusal:
        raise SettingError(f"--limits {text}: {refusal}") from refusal
    return GivenLimits(",".join(typed), limits, density)


def _converter(given: Mapping[str, Any], what: str) -> fa.Quantized | fa.Ternarized | None:
    """What an error or a matrix is converted by."""
    bits, threshold = given.get(f"{what}-bits"), given.get(f"{what}-ternary")
    rounding, scale = given.get(f"{what}-rounding"), given.get(f"{what}-scale")
    if bits is not None and threshold is not None:
        raise SettingError(f"--limits {what}-bits and {what}-ternary both say what the {what} becomes: give one.")
    if bits is None and (rounding is not None or (scale is not None and threshold is None)):
        raise SettingError(f"--limits {what}-rounding and {what}-scale say how {what}-bits is meant: give it as well.")
    options = {"full_scale": scale} if scale is not None else {}
    if threshold is not None:
        return fa.Ternarized(threshold, **options)
    return None if bits is None else fa.Quantized(bits, rounding or "nearest", **options)
