"""The two controls that every comparison needs: exact backprop, and no learning in the hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from feedalign.rules.base import Rule


@dataclass(frozen=True)
class Backprop(Rule):
    """Exact backpropagation: nothing is cut, the model trains as it would without feedalign.

    In a mixture of rules it leaves its layers on the gradient of the next feedback point above them.

    Source: the control of all five papers (e.g. Frenkel et al. 2021, Fig. 1A).
    """

    name: ClassVar[str] = "backprop"
    paper: ClassVar[str] = "Rumelhart, Hinton & Williams 1986"
    signal: ClassVar[str] = "exact gradient"
    weight_transport: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True


@dataclass(frozen=True)
class Shallow(Rule):
    """Only the output layer learns; hidden layers stay frozen at their random start.

    The graph is cut at every feedback point and no signal is sent: hidden parameters keep `grad=None`, so that
    momentum and weight decay do not move them either.

    Source: Frenkel et al. 2021, section 2.1; Launay et al. 2020, appendix B.

    Differs from the paper: the authors' code hands hidden layers gradients of zero, which leaves momentum and
    weight decay at work.
    """

    name: ClassVar[str] = "shallow"
    paper: ClassVar[str] = "Frenkel et al. 2021"
    signal: ClassVar[str] = "none"
    update_locked: ClassVar[bool] = False
