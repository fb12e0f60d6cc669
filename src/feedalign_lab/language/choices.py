"""From what a user types, such as dfa-micro, to a rule and the points at which it acts."""

from dataclasses import dataclass

from feedalign.rules import DirectRule, Rule
from feedalign.rules.base import Perturbing, PointRule
from feedalign.rules.control import Shallow
from feedalign_lab.choices import rule_class, rule_names
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.language.transformer import PLACEMENTS, ErrorAt, Placement

BASELINE = "backprop"


@dataclass(frozen=True)
class RuleChoice:
    """A rule, and where its teaching signals enter.

    Attributes:
        rule: The rule's name.
        placement: Its feedback points; None for a rule that has none.
    """

    rule: str
    placement: Placement | None

    @property
    def name(self) -> str:
        """What a user types, and tables show."""
        return self.rule if self.placement is None or not _has_choice(self.rule) else f"{self.rule}-{self.placement}"

    @property
    def has_feedback(self) -> bool:
        """Whether it sends the error through feedback matrices."""
        return issubclass(rule_class(self.rule), DirectRule)

    @property
    def sends_tangents(self) -> bool:
        """Whether it perturbs the forward and sends tangents along."""
        return issubclass(rule_class(self.rule), Perturbing)

    def make(self) -> Rule:
        """Return the rule."""
        return rule_class(self.rule)()


_READERS_OF_TARGETS = ("sign-dfa", "lg-fg-a")
"""Rules that read the targets from the error, which only the error at the logits tells."""


def lack(rule: str, error_at: ErrorAt) -> str | None:
    """What a rule needs and the Transformer does not have.

    Args:
        rule: The rule's name.
        error_at: Where the error is taken.

    Returns:
        The need in words; None where the rule can learn.
    """
    if rule == "drtp":
        return "needs hidden units that saturate, which normalized ones do not"
    if rule in _READERS_OF_TARGETS and error_at == "hidden":
        return "reads the targets from the error, so it needs --error logits"
    return None


def parse_choices(text: str) -> tuple[RuleChoice, ...]:
    """Split a list of rules.

    Args:
        text: Names with commas between them. Behind a rule that acts at feedback points, -macro or -micro says where;
            nothing stands for -macro.

    Returns:
        The choices, each once, in the order given.

    Raises:
        SettingError: None is named, or points are named for a rule that has none.
        UnknownNameError: There is no such rule.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not names:
        raise SettingError("No rule is named: give some such as backprop,dfa-macro,dfa-micro,shallow.")
    return tuple(dict.fromkeys(_parse(name) for name in names))


def _parse(name: str) -> RuleChoice:
    for placement in PLACEMENTS:
        rule = name.removesuffix(f"-{placement}")
        if rule != name:
            return _with_points(rule, placement, name)
    if name not in rule_names():
        raise UnknownNameError("rule", name, _valid())
    return _with_points(name, "macro", name) if _has_points(name) else RuleChoice(name, None)


def _with_points(rule: str, placement: Placement, name: str) -> RuleChoice:
    """The choice of a rule at feedback points, if it has any."""
    if rule not in rule_names():
        raise UnknownNameError("rule", name, _valid())
    if not _has_points(rule):
        raise SettingError(f"{rule} has no feedback points, so there is no {name}: say {rule}.")
    # A point without a signal is the same wherever it stands.
    return RuleChoice(rule, placement if _has_choice(rule) else "macro")


def _has_points(rule: str) -> bool:
    """Whether a rule cuts the model at feedback points."""
    return issubclass(rule_class(rule), (PointRule, Shallow))


def _has_choice(rule: str) -> bool:
    """Whether it makes a difference at which."""
    return issubclass(rule_class(rule), PointRule)


def _valid() -> list[str]:
    """Every name that can be typed."""
    return [
        full
        for rule in rule_names()
        if lack(rule, "logits") is None
        for full in ([f"{rule}-{placement}" for placement in PLACEMENTS] if _has_choice(rule) else [rule])
    ]
