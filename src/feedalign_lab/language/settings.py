"""Sizes by name, and the learning rates that go with them."""

from collections.abc import Mapping
from dataclasses import dataclass

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.language.choices import RuleChoice
from feedalign_lab.language.plan import ScheduleName
from feedalign_lab.language.transformer import TransformerSize


@dataclass(frozen=True)
class SizeSetting:
    """A Transformer and what it is trained with when nothing else is asked for.

    Attributes:
        size: How large it is.
        vocab_size: Tokens to learn.
        batch_size: Chunks per step.
        rates: Learning rates by schedule: of backprop, of shallow training, and of all other rules.
    """

    size: TransformerSize
    vocab_size: int
    batch_size: int
    rates: Mapping[ScheduleName, tuple[float, float, float]]


SIZES: Mapping[str, SizeSetting] = {
    # Rates: the best in short runs on the beginning of the novels, of 3e-4, 1e-3, 3e-3 under DFA, of 1e-3, 3e-3, 1e-2
    # under backprop, of 1e-3, 3e-3, 1e-2, 3e-2 in shallow training; there 1e-2 was as good, but worse after an epoch.
    # With plateaus the same: twice DFA's, which the paper takes there, was too much for the small model.
    "small": SizeSetting(
        TransformerSize(num_layers=4, num_heads=4, width=128, inner_width=512),
        vocab_size=2048,
        batch_size=16,
        rates={"constant": (3e-3, 3e-3, 1e-3), "plateau": (3e-3, 3e-3, 1e-3), "noam": (1.0, 1.0, 1.0)},
    ),
    # Section 3.3 and Table 5; the paper has no constant rate for backprop and shallow training.
    "paper": SizeSetting(
        TransformerSize(),
        vocab_size=32_000,
        batch_size=64,
        rates={"constant": (1e-4, 1e-4, 5e-5), "plateau": (1e-4, 1e-4, 1e-4), "noam": (1.0, 1.0, 1.0)},
    ),
}


def size_setting(name: str) -> SizeSetting:
    """The setting of a name.

    Args:
        name: A key of `SIZES`.

    Returns:
        The setting.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in SIZES:
        raise UnknownNameError("size", name, SIZES)
    return SIZES[name]


def default_rate(setting: SizeSetting, schedule: ScheduleName, choice: RuleChoice) -> float:
    """The learning rate of a rule when none is asked for.

    Args:
        setting: The size's setting.
        schedule: How the rate changes.
        choice: The rule.

    Returns:
        The rate; with "noam" the factor of its rate.
    """
    of_backprop, of_shallow, of_others = setting.rates[schedule]
    return {"backprop": of_backprop, "shallow": of_shallow}.get(choice.rule, of_others)
