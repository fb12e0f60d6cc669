"""The learning rules, one file per rule or idea, and the tuple of all of them."""

from __future__ import annotations

from feedalign.rules.base import DirectRule, LayerwiseRule, Rule
from feedalign.rules.control import Backprop, Shallow
from feedalign.rules.dfa import DFA
from feedalign.rules.drtp import DRTP
from feedalign.rules.fa import FA
from feedalign.rules.sign_dfa import SignDFA
from feedalign.rules.sign_symmetry import BRSF, FRSF, USF

ALL_RULES: tuple[type[Rule], ...] = (Backprop, Shallow, FA, USF, BRSF, FRSF, DFA, SignDFA, DRTP)

__all__ = [
    "ALL_RULES",
    "BRSF",
    "DFA",
    "DRTP",
    "FA",
    "FRSF",
    "USF",
    "Backprop",
    "DirectRule",
    "LayerwiseRule",
    "Rule",
    "Shallow",
    "SignDFA",
]
