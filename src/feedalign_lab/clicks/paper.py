"""Settings of Launay et al. 2020 for recommenders: Criteo's log, table 2 and appendix C, and their public code."""

from collections.abc import Mapping
from dataclasses import dataclass

from feedalign_lab.clicks.networks import Family

RUN_SOURCE = "the public code of Launay et al. 2020"
RULE_SOURCE = "Launay et al. 2020, appendix C"


@dataclass(frozen=True)
class PaperRun:
    """What a network is trained with, whatever the rule.

    Attributes:
        batch_size: Rows per step.
        epochs: Passes at most; the code stops once the validation AUC has not risen for 3 (DeepFM: 5) of them.
        clip: Largest norm of the gradient; None leaves it as it is.
        is_size_known: Whether the batch size is that of the code; else it is that of its DeepFM.
    """

    batch_size: int
    epochs: int
    clip: float | None = None
    is_size_known: bool = True


@dataclass(frozen=True)
class PaperRule:
    """What a rule is trained with.

    Attributes:
        rate: Learning rate of Adam.
        dropout: Probability of dropping a hidden unit.
        is_in_paper: Whether the paper has it; else only the public code.
    """

    rate: float
    dropout: float
    is_in_paper: bool = True


RUNS: Mapping[Family, PaperRun] = {
    "fm": PaperRun(2048, 15, is_size_known=False),
    "deepfm": PaperRun(2048, 30),
    "deepcross": PaperRun(512, 15, clip=100.0),
    "afn": PaperRun(2048, 15, is_size_known=False),
}

RULES: Mapping[tuple[Family, str], PaperRule] = {
    ("fm", "backprop"): PaperRule(1e-4, 0.0, is_in_paper=False),
    ("deepfm", "backprop"): PaperRule(3e-4, 0.5),
    ("deepfm", "dfa"): PaperRule(5e-5, 0.5),
    ("deepfm", "shallow"): PaperRule(1e-4, 0.1, is_in_paper=False),
    ("deepcross", "backprop"): PaperRule(2e-4, 0.0),
    ("deepcross", "dfa"): PaperRule(5e-5, 0.0),
    ("deepcross", "shallow"): PaperRule(1e-3, 0.0, is_in_paper=False),
    ("afn", "backprop"): PaperRule(4e-4, 0.3),
    ("afn", "dfa"): PaperRule(3e-4, 0.0),
    ("afn", "shallow"): PaperRule(4e-4, 0.0, is_in_paper=False),
}
"""Rates and dropout by network and rule. The print says "dropout" where the rates of AFN are meant."""
