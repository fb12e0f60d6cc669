"""The learning rules, one file per rule or idea, and the tuple of all of them."""

from __future__ import annotations

from feedalign.rules.activity_perturbed import ActivityPerturbed
from feedalign.rules.base import (
    DirectRule,
    EstimatingRule,
    LayerwiseRule,
    LearnedRule,
    Perturbing,
    PointRule,
    Rule,
    WeightRule,
)
from feedalign.rules.control import Backprop, Shallow
from feedalign.rules.dfa import DFA
from feedalign.rules.dkp import DKP
from feedalign.rules.drtp import DRTP
from feedalign.rules.fa import FA
from feedalign.rules.fdfa import FDFA, DirectionalDFA
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.rules.local_greedy import LocalGreedy
from feedalign.rules.noisy_backprop import NoisyBackprop
from feedalign.rules.sign_dfa import SignDFA
from feedalign.rules.sign_symmetry import BRSF, FRSF, USF
from feedalign.rules.weight_perturbed import WeightPerturbed

ALL_RULES: tuple[type[Rule], ...] = (
    Backprop,
    NoisyBackprop,
    Shallow,
    FA,
    USF,
    BRSF,
    FRSF,
    DFA,
    SignDFA,
    DRTP,
    DKP,
    FDFA,
    ActivityPerturbed,
    LocalGreedy,
    WeightPerturbed,
)

__all__ = [
    "ALL_RULES",
    "BRSF",
    "DFA",
    "DKP",
    "DRTP",
    "FA",
    "FDFA",
    "FRSF",
    "USF",
    "ActivityPerturbed",
    "Backprop",
    "DirectRule",
    "DirectionalDFA",
    "EstimatingRule",
    "LayerwiseRule",
    "LearnedRule",
    "LocalGreedy",
    "NoisyBackprop",
    "Perturbing",
    "PointRule",
    "Rule",
    "Shallow",
    "SignDFA",
    "SlopeRule",
    "WeightPerturbed",
    "WeightRule",
]
